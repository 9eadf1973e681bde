"""Mailboxes, their servers, the backend and the daemon, in simulated time."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from rebreak_idle.access_token import AccessToken
from rebreak_idle.errors import AccessDenied, BackendUnavailable, ScanFailed, TokenUnavailable
from rebreak_idle.faults import UnexpectedErrors
from rebreak_idle.hosts import Hosts
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.answer import ScanResult
from rebreak_idle.scan.scanner import Scanner
from rebreak_idle.services import Services
from rebreak_idle.supervisor import Supervisor
from rebreak_idle.tokens import Tokens
from rebreak_idle.worker import IdleWorker
from tests.support.fleets import alone
from tests.support.names import LocalNames
from tests.support.simulation.server import CONFIG, Server, SimulatedSession
from tests.support.simulation.turns import (
    TURN_SECONDS,
    SimulatedConnects,
    SimulatedEvent,
    SimulatedLine,
    SimulatedPool,
    SimulatedWorker,
    Turns,
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
