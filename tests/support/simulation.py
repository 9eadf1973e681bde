"""The whole of supervisor, workers, scanners and line in simulated time.

What is real: `Supervisor`, `IdleWorker`, `Scanner`, `ScanLine`, `PendingScan`, `UidTracker`,
`Renewal`, `Hosts`, their threads. What is simulated: the clock, and with it each wait; IMAP
sessions, which keep to the contract of `rebreak_idle.imap.session.Session`; the pools of threads;
and the backend, its access tokens included. One thread runs at a time: one that waits hands the
turn back, so that a run is the same each time, and hours take milliseconds.
"""

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from rebreak_idle.access_token import AccessToken
from rebreak_idle.errors import (
    AccessDenied,
    BackendUnavailable,
    HostUnreachable,
    Interrupted,
    LoginRefused,
    NotConnected,
    ScanFailed,
    SessionEnded,
    SessionLost,
    TokenUnavailable,
)
from rebreak_idle.faults import UnexpectedErrors
from rebreak_idle.hosts import Hosts
from rebreak_idle.imap.responses import Kind, Line
from rebreak_idle.imap.uids import Snapshot
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.answer import ScanResult
from rebreak_idle.scan.line import ScanLine
from rebreak_idle.scan.scanner import Scanner
from rebreak_idle.services import Services
from rebreak_idle.supervisor import Supervisor
from rebreak_idle.tokens import Tokens
from rebreak_idle.worker import IdleWorker
from tests.support.fleets import alone
from tests.support.harness import quick_config
from tests.support.names import LocalNames

# A turn that does not come back in this time is a deadlock of the simulation.
TURN_SECONDS = 20.0
SILENCE_NOTICED_SECONDS = 90.0
CONFIG = quick_config(
    idle_renew_seconds=1500.0,
    idle_check_seconds=600.0,
    poll_interval_seconds=60.0,
    reconnect_initial_seconds=5.0,
    reconnect_max_seconds=300.0,
    auth_retry_seconds=900.0,
    imap_timeout_seconds=30.0,
    scan_timeout_seconds=120.0,
    host_connects_at_once=2,
)


TOKEN_MOODS: dict[str, Callable[[], Exception] | None] = {
    "well": None,
    "gone": lambda: AccessDenied("410", "the user"),
    "unknown": lambda: AccessDenied("404", "the operator"),
    "secret": lambda: TokenUnavailable("401", is_for_all=True, who="the operator"),
    "busy": lambda: TokenUnavailable("429", 20.0),
    "failing": lambda: TokenUnavailable("500"),
    "away": lambda: TokenUnavailable("503", 5.0, is_for_all=None),
    "unreachable": lambda: TokenUnavailable("refused", is_for_all=True),
}


class Turns:
    """The clock, and whose turn it is."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._tasks: dict[threading.Thread, _Task] = {}
        self._current: _Task | None = None
        self._back = threading.Semaphore(0)
        self.given = 0
        """How often a thread was woken."""

    def clock(self) -> float:
        return self.now

    def add(self, thread: threading.Thread) -> None:
        self._tasks[thread] = _Task()

    def first_turn(self, thread: threading.Thread) -> None:
        """On the thread: wait to be let in."""
        assert self._tasks[thread].turn.acquire(timeout=TURN_SECONDS)

    def last_turn(self, thread: threading.Thread) -> None:
        """On the thread: it ends."""
        del self._tasks[thread]
        self._back.release()

    def wait(self, until: float, ready: Callable[[], bool] = lambda: False) -> bool:
        """On the thread whose turn it is: wait in simulated time; whether `ready` came true."""
        task = self._current
        assert task is not None
        task.until, task.ready = until, ready
        self._back.release()
        assert task.turn.acquire(timeout=TURN_SECONDS)
        return ready()

    def run_until(self, end: float, between: Callable[[], None]) -> None:
        """Let everybody do what is due up to `end`; `between` is called between the turns."""
        while True:
            between()
            task = self._due()
            if task is None:
                upcoming = min((t.until for t in self._tasks.values()), default=math.inf)
                if upcoming > end:
                    self.now = end
                    return
                self.now = max(self.now, upcoming)
                continue
            self._current = task
            self.given += 1
            task.turn.release()
            assert self._back.acquire(timeout=TURN_SECONDS), "a worker did not give its turn back"

    def _due(self) -> "_Task | None":
        tasks = self._tasks.values()
        return next((task for task in tasks if task.until <= self.now or task.ready()), None)


@dataclass
class _Task:
    until: float = 0.0
    ready: Callable[[], bool] = lambda: True
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class SimulatedEvent(threading.Event):
    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns

    def wait(self, timeout: float | None = None) -> bool:
        until = math.inf if timeout is None else self._turns.now + max(0.0, timeout)
        return self._turns.wait(until, self.is_set)


class SimulatedConnects(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """On the worker's own thread, whose turn it is."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class SimulatedPool(Executor):
    """So many threads that take tasks in order, each in its turn."""

    def __init__(self, turns: Turns, size: int) -> None:
        self._turns = turns
        self._tasks: deque[Callable[[], object]] = deque()
        self._ended = False
        self._threads = [threading.Thread(target=self._run, name="scan") for _ in range(size)]
        for thread in self._threads:
            turns.add(thread)
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._tasks.append(fn)
        return Future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended = True

    def _run(self) -> None:
        thread = threading.current_thread()
        self._turns.first_turn(thread)
        while self._turns.wait(math.inf, lambda: bool(self._tasks) or self._ended):
            if self._ended:
                break
            self._tasks.popleft()()
        self._turns.last_turn(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TURN_SECONDS)
            assert not thread.is_alive()


class SimulatedLine(ScanLine):
    turns: Turns

    def pause(self, seconds: float | None) -> None:
        """The wait for a change, without the lock that others need."""
        until = math.inf if seconds is None else self.turns.now + seconds
        self._changed.release()
        try:
            self.turns.wait(until, self._may_go_on)
        finally:
            self._changed.acquire()

    def _may_go_on(self) -> bool:
        due = not self._is_probing and self._breaker.probe_in_seconds <= 0
        return self._is_stopping or not self._breaker.is_open or due


class SimulatedWorker(IdleWorker):
    turns: Turns

    def start(self) -> None:
        self.turns.add(self)
        super().start()

    def run(self) -> None:
        self.turns.first_turn(self)
        try:
            super().run()
        finally:
            self.turns.last_turn(self)


@dataclass
class Server:
    """The server of one mailbox, and the moods it can be in."""

    exists: int = 3
    uidnext: int = 4
    uidvalidity: int = 1
    announcing: bool = True
    up: bool = True
    stalled: bool = False
    refusing: bool = False
    offers_idle: bool = True
    tells_uidnext: bool = True
    ends_sessions: bool = True
    """Whether it ends a session with the token that began it."""
    connects_users: bool = True
    """False: a login works, and INBOX cannot be opened."""
    tokens: set[str] = field(default_factory=set)
    """Those that it takes, until they run out."""
    sessions: "list[SimulatedSession]" = field(default_factory=list)

    def arrive(self) -> None:
        self.exists += 1
        self.uidnext += 1
        self.announce(Line(Kind.EXISTS, self.exists))

    def expunge(self) -> None:
        if self.exists:
            self.exists -= 1
            self.announce(Line(Kind.EXPUNGE, 1))

    def announce(self, line: Line) -> None:
        for session in self.sessions:
            if self.announcing and session.selected and not session.silent:
                session.pending.append(line)


class SimulatedSession:
    """One connection to a server, as `rebreak_idle.imap.Session` behaves."""

    def __init__(self, server: Server, turns: Turns, is_stopping: Callable[[], bool]) -> None:
        self._server = server
        self._turns = turns
        self._is_stopping = is_stopping
        self.pending: list[Line] = []
        """On the way to the client."""
        self.heard: list[Line] = []
        self.selected = self.idling = self.dead = self.silent = False
        self.rest_seconds = 0.0
        self.silent_since = 0.0
        self._token_ends_at = math.inf

    @property
    def offers_idle(self) -> bool:
        return self._server.offers_idle

    def open(self, secret: str | AccessToken) -> None:
        try:
            self._command(needs_login=False)
        except SessionLost as error:
            raise HostUnreachable(str(error)) from error
        if self._server.refusing:
            raise LoginRefused("refused")
        if isinstance(secret, AccessToken):
            if secret.value not in self._server.tokens or secret.ends_at <= self._turns.now:
                raise LoginRefused("the token is refused")
            self._token_ends_at = secret.ends_at
        self._server.sessions.append(self)

    def examine(self) -> Snapshot:
        self._command()
        if not self._server.connects_users:
            raise NotConnected("authenticated but not connected")
        self.pending.clear()  # what belongs to the mailbox as it was selected before
        self.selected = True
        server = self._server
        uidnext = server.uidnext if server.tells_uidnext else None
        return Snapshot(server.exists, uidnext, server.uidvalidity)

    def start_idle(self) -> bool:
        self._command()
        self.idling = True
        return True

    def wait(self, seconds: float) -> list[Line]:
        self._receive()
        if not self.heard and seconds > 0:
            until = self._turns.now + seconds
            if self._turns.now < self._token_ends_at:
                until = min(until, self._token_ends_at)
            self._turns.wait(until, self._something_to_read)
            self._receive()
        if not self.heard and self._is_stopping():
            raise Interrupted("stopping")
        if not self.heard and self._is_over():
            raise SessionEnded("the token has run out")
        if not self.heard and self._is_gone():
            raise SessionLost("gone")
        return self.take_events()

    def end_idle(self) -> list[Line]:
        if self.idling:
            self.idling = False
            self._command()
            self._receive()
        return self.take_events()

    def take_events(self) -> list[Line]:
        heard, self.heard = self.heard, []
        return heard

    def close(self, wait: bool = True) -> None:
        if self in self._server.sessions:
            self._server.sessions.remove(self)

    def is_alive(self) -> bool:
        return not self._is_gone()

    def interrupt(self) -> None: ...

    def abort(self) -> None:
        self.dead = True

    def vanish(self) -> None:
        """Fall silent without a word."""
        if not self.silent:
            self.silent, self.silent_since = True, self._turns.now

    def _receive(self) -> None:
        if not self.silent:
            self.heard += self.pending
            self.pending = []

    def _something_to_read(self) -> bool:
        return (
            bool(self.pending and not self.silent)
            or self._is_gone()
            or self._is_over()
            or self._is_stopping()
            or (self.selected and not self.idling)
        )

    def _is_over(self) -> bool:
        return self._server.ends_sessions and self._turns.now >= self._token_ends_at

    def _is_gone(self) -> bool:
        noticed = self.silent and self._turns.now >= self.silent_since + SILENCE_NOTICED_SECONDS
        return self.dead or noticed

    def _command(self, needs_login: bool = True) -> None:
        """Any command: it takes a moment, or its whole time-out."""
        server = self._server
        if self._is_stopping():
            raise Interrupted("stopping")
        if self.dead or not server.up:
            self.dead = True
            raise SessionLost("connection refused or reset")
        if server.stalled or self.silent:
            self._turns.wait(self._turns.now + CONFIG.imap_timeout_seconds, self._is_stopping)
            raise Interrupted("stopping") if self._is_stopping() else SessionLost("time-out")
        self._turns.wait(self._turns.now + 0.01)
        if self.dead:
            raise SessionLost("reset")
        if self._is_over():
            raise SessionEnded("the token has run out")


@dataclass
class Scan:
    mailbox: str
    begun: int
    """Its place in the order of all that happened."""
    succeeded: bool = False


class World:
    """Mailboxes, their servers, the backend, and the daemon that watches them.

    The mailboxes with an id below `with_tokens` log in by access token.
    """

    def __init__(self, mailboxes: int, places: int, with_tokens: int = 0) -> None:
        self.turns = Turns()
        self.order = itertools.count()
        self.with_tokens = with_tokens
        self.token_mood = "well"
        self.token_life_seconds = 3600.0
        self.token_requests: list[tuple[str, bool]] = []
        """For whom, and whether a fresh one was asked for."""
        self.tokens_under_way = 0
        self._handed_out: dict[str, AccessToken] = {}
        self.servers = {str(n): Server() for n in range(mailboxes)}
        self.rows = {id_: self._row(id_, "1") for id_ in self.servers}
        self.arrivals: dict[str, list[int]] = {id_: [] for id_ in self.servers}
        self.scans: list[Scan] = []
        self.under_way: list[str] = []
        self.backend_mood = "well"
        self.scan_seconds = 0.0
        self.places = places
        self.workers: list[IdleWorker] = []
        self._pool = SimulatedPool(self.turns, places)
        self.line = SimulatedLine(self, self._pool, self.turns.clock)
        self.line.turns = self.turns
        self._services = Services(
            config=CONFIG,
            connector=self,
            decrypt=str,
            connects=SimulatedConnects(),
            scans=self.line,
            tokens=Tokens(self, CONFIG, self.turns.clock),
            hosts=Hosts(CONFIG, self.turns.clock, LocalNames()),
            unexpected_errors=UnexpectedErrors(),
            clock=self.turns.clock,
            make_event=lambda: SimulatedEvent(self.turns),
        )
        self.supervisor = Supervisor(
            list,
            self._make_worker,
            self.line,
            self._services.forget_all_but,
            alone(self._services.proof),
            CONFIG,
            1000,
        )

    def _row(self, id_: str, password: str) -> Mailbox:
        oauth2 = int(id_) < self.with_tokens
        return Mailbox(id_, "u", f"{id_}@example.org", "host", 993, id_, password, oauth2=oauth2)

    def _make_worker(
        self, mailbox: Mailbox, ended: Callable[[IdleWorker], None], scanner: Scanner | None
    ) -> IdleWorker:
        worker = SimulatedWorker(mailbox, self._services, ended, scanner)
        worker.turns = self.turns
        self.workers.append(worker)
        return worker

    # the connector

    def session(self, mailbox: Mailbox, is_stopping: Callable[[], bool]) -> SimulatedSession:
        return SimulatedSession(self.servers[mailbox.id], self.turns, is_stopping)

    def forget_all_but(self, mailboxes: list[Mailbox]) -> None: ...

    # the backend

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult:
        assert mailbox.id not in self.under_way, "two requests of one mailbox under way"
        assert len(self.under_way) < self.places, "more requests than places"
        assert reason in ("exists", "catch-up", "poll")
        scan = Scan(mailbox.id, next(self.order))
        self.scans.append(scan)
        self.under_way.append(mailbox.id)
        try:
            self.turns.wait(self.turns.now + self.scan_seconds)
        finally:
            self.under_way.remove(mailbox.id)
        if self.backend_mood == "failing":
            raise ScanFailed("500")
        if self.backend_mood == "away":
            raise BackendUnavailable("503", is_certain=False)
        if self.backend_mood == "unreachable":
            raise BackendUnavailable("refused", is_certain=True)
        if self.backend_mood == "busy":
            raise ScanFailed("429", retry_after_seconds=20)
        scan.succeeded = True
        return ScanResult(1, 0)

    def abort_overdue(self) -> None: ...
    def abort_all(self) -> None: ...

    def request(self, mailbox: Mailbox, fresh: bool, hide: Callable[[str], str]) -> AccessToken:
        """A token for the mailbox: the last one while a minute is left of it, unless ``fresh``."""
        self.token_requests.append((mailbox.id, fresh))
        self.tokens_under_way += 1
        assert self.tokens_under_way <= CONFIG.scan_concurrency
        self.turns.wait(self.turns.now + 0.05)
        self.tokens_under_way -= 1
        if error := TOKEN_MOODS[self.token_mood]:
            raise error()
        last = self._handed_out.get(mailbox.id)
        if last is None or fresh or last.ends_at - self.turns.now < 60:
            last = self._new_token(mailbox.id)
        return last

    def _new_token(self, id_: str) -> AccessToken:
        life_seconds = self.token_life_seconds
        token = AccessToken(
            f"token-{next(self.order)}", self.turns.now + life_seconds, life_seconds
        )
        self._handed_out[id_] = token
        self.servers[id_].tokens.add(token.value)
        return token

    # what happens

    def arrive(self, id_: str) -> None:
        self.arrivals[id_].append(next(self.order))
        self.servers[id_].arrive()

    def refresh(self) -> None:
        self.supervisor.refreshed(list(self.rows.values()))

    def change_row(self, id_: str) -> None:
        self.rows[id_] = self._row(id_, f"password {next(self.order)}")

    def add_row(self, id_: str) -> None:
        self.rows.setdefault(id_, self._row(id_, "1"))

    def pass_time(self, seconds: float) -> None:
        self.turns.run_until(self.turns.now + seconds, self.supervisor.handle_posted)

    def missed(self, id_: str) -> list[int]:
        """The arrivals that no successful scan covers which began after them."""
        covered = max(
            (scan.begun for scan in self.scans if scan.mailbox == id_ and scan.succeeded),
            default=-1,
        )
        return [arrival for arrival in self.arrivals[id_] if arrival > covered]

    def mend(self) -> None:
        """Let everything be well from now on."""
        self.backend_mood, self.scan_seconds = "well", 0.0
        self.token_mood = "well"
        for id_, server in self.servers.items():
            server.up = True
            server.stalled = server.refusing = False
            server.connects_users = True
            self.add_row(id_)
        self.refresh()

    def end(self) -> None:
        self.supervisor.refreshed([])
        self.pass_time(600)
        for worker in self.workers:
            worker.join(TURN_SECONDS)
            assert not worker.is_alive()
        self.line.stop()
        self.pass_time(1)
        self._pool.join()
