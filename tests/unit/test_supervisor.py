"""The last nets: errors that nobody foresaw, and threads that hang in spite of every time-out."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from rebreak_idle import log as logs
from rebreak_idle.access_token import AccessToken
from rebreak_idle.errors import Interrupted, SessionLost
from rebreak_idle.faults import UnexpectedErrors
from rebreak_idle.hosts import Hosts
from rebreak_idle.imap.responses import Line
from rebreak_idle.imap.uids import Snapshot
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.answer import ScanResult
from rebreak_idle.scan.line import ScanLine
from rebreak_idle.scan.scanner import Scanner
from rebreak_idle.services import Services
from rebreak_idle.status import State
from rebreak_idle.supervisor import Supervisor
from rebreak_idle.tokens import Tokens
from rebreak_idle.worker import IdleWorker
from tests.support.fleets import alone
from tests.support.harness import quick_config
from tests.support.names import LocalNames
from tests.support.waiting import wait_for


class Session:
    """A session that idles until it is aborted or told to stop; a test makes it misbehave."""

    offers_idle = True
    rest_seconds = 0.0

    def __init__(self, mailbox: Mailbox, is_stopping: Callable[[], bool]) -> None:
        self.mailbox = mailbox
        self.idling = False
        self._is_stopping = is_stopping
        self._interrupted, self._aborted = threading.Event(), threading.Event()

    def open(self, password: str) -> None: ...

    def examine(self) -> Snapshot:
        return Snapshot(0, 1, 1)

    def start_idle(self) -> bool:
        self.idling = True
        return True

    def wait(self, seconds: float) -> list[Line]:
        self._interrupted.wait(seconds)
        if self._is_stopping():
            raise Interrupted("stopping")
        return []

    def end_idle(self) -> list[Line]:
        return []

    def take_events(self) -> list[Line]:
        return []

    def close(self, wait: bool = True) -> None: ...

    def is_alive(self) -> bool:
        return not self._aborted.is_set()

    def interrupt(self) -> None:
        self._interrupted.set()

    def abort(self) -> None:
        self._aborted.set()


class Deaf(Session):
    """Hangs in IDLE, without regard to time-outs and stops, until it is aborted."""

    def wait(self, seconds: float) -> list[Line]:
        self._aborted.wait(60)
        raise SessionLost("aborted")


class DeafLogin(Session):
    """Hangs in the login, on a thread of the pool, until it is aborted."""

    def open(self, secret: str | AccessToken) -> None:
        self._aborted.wait(60)
        raise SessionLost("aborted")


class Faulty(Session):
    """A fault in the program."""

    def wait(self, seconds: float) -> list[Line]:
        raise ZeroDivisionError("nobody foresaw this")


class Connector:
    """Makes the sessions that a test asks for, then plain ones."""

    def __init__(self, kinds: dict[str, type[Session]]) -> None:
        self._made: dict[str, Iterator[type[Session]]] = {
            id_: itertools.chain([kind], itertools.repeat(Session)) for id_, kind in kinds.items()
        }

    def session(self, mailbox: Mailbox, is_stopping: Callable[[], bool]) -> Session:
        return next(self._made[mailbox.id])(mailbox, is_stopping)

    def forget_all_but(self, mailboxes: list[Mailbox]) -> None: ...


class Client:
    """A backend that always succeeds."""

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult:
        return ScanResult(0, 0)

    def abort_overdue(self) -> None: ...
    def abort_all(self) -> None: ...


class NoTokens:
    """A backend that nobody asks for tokens."""

    def request(self, mailbox: Mailbox, fresh: bool, hide: Callable[[str], str]) -> AccessToken:
        raise AssertionError("no row wants a token")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs.Formatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += self.format(record).split("\n")

    def wait(self, text: str, number: int = 1) -> None:
        wait_for(lambda: sum(text in line for line in self.lines) >= number, 20, text)


@contextmanager
def supervised(
    kinds: dict[str, type[Session]], clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Lines, Supervisor]]:
    """A supervisor on a thread of its own, with mailboxes whose sessions are of these kinds."""
    rows = [Mailbox(id_, "u", f"{id_}@example.org", "h", 993, id_, "p") for id_ in kinds]
    config, lines = quick_config(), Lines()
    connects, scan_threads = ThreadPoolExecutor(4, "connect"), ThreadPoolExecutor(4, "scan")
    line = ScanLine(Client(), scan_threads, clock)
    services = Services(
        config=config,
        connector=Connector(kinds),
        decrypt=str,
        connects=connects,
        scans=line,
        tokens=Tokens(NoTokens(), config, clock),
        hosts=Hosts(config, clock, LocalNames()),
        unexpected_errors=UnexpectedErrors(),
        clock=clock,
    )

    def make_worker(
        mailbox: Mailbox, ended: Callable[[IdleWorker], None], scanner: Scanner | None
    ) -> IdleWorker:
        return IdleWorker(mailbox, services, ended, scanner)

    supervisor = Supervisor(
        lambda: rows,
        make_worker,
        line,
        services.forget_all_but,
        alone(services.proof),
        config,
        1000,
    )
    hanging: list[str] = []
    thread = threading.Thread(target=lambda: hanging.extend(supervisor.run()), name="supervisor")
    logs.log.setLevel(logging.INFO)
    logs.log.addHandler(lines)
    thread.start()
    try:
        yield lines, supervisor
    finally:
        supervisor.stop()
        thread.join(20)
        connects.shutdown()
        scan_threads.shutdown()
        logs.log.removeHandler(lines)
        assert not thread.is_alive()
        assert not hanging


def test_an_error_nobody_foresaw_gets_a_traceback_and_a_new_session() -> None:
    """One mailbox's fault is logged with its traceback, and that mailbox is set up again."""
    with supervised({"faulty": Faulty, "well": Session}) as (lines, _):
        lines.wait("[idle/faulty@example.org] unexpected error:")
        lines.wait("ZeroDivisionError: nobody foresaw this")
        lines.wait("[idle/faulty@example.org] connected (h:993)", number=2)
        assert sum("[idle/well@example.org]" in line for line in lines.lines) >= 1
        assert not [line for line in lines.lines if not line.startswith("[idle/")]
        assert not [line for line in lines.lines if "well" in line and "reconnecting" in line]


def test_a_thread_that_hangs_is_cut_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that outlives every time-out is cut by the supervisor, and made anew."""
    monkeypatch.setattr("rebreak_idle.supervisor.OVERDUE_SECONDS", 1.0)
    later = threading.Event()

    def clock() -> float:
        return time.monotonic() + (1e6 if later.is_set() else 0.0)

    with supervised({"deaf": Deaf}, clock) as (lines, _):
        lines.wait("[idle/deaf@example.org] connected (h:993)")
        later.set()
        lines.wait("[idle/db] deaf@example.org makes no progress (IDLING): its connection is cut")
        lines.wait("[idle/deaf@example.org] connected (h:993)", number=2)


def test_a_thread_that_hangs_does_not_hold_up_the_stop() -> None:
    """At the stop too, what hangs is cut in time."""
    with supervised({"deaf": Deaf, "well": Session}) as (lines, _):
        lines.wait("[idle/deaf@example.org] connected (h:993)")
        lines.wait("[idle/well@example.org] connected (h:993)")


def test_sigusr1_shows_the_stack_of_a_thread_without_progress() -> None:
    """Where a thread hangs is in the log, line by line."""
    later = threading.Event()

    def clock() -> float:
        return time.monotonic() + (130.0 if later.is_set() else 0.0)

    with supervised({"deaf": Deaf, "well": Session}, clock) as (lines, supervisor):
        lines.wait("[idle/deaf@example.org] connected (h:993)")
        lines.wait("[idle/well@example.org] connected (h:993)")
        workers = supervisor._workers.values()
        wait_for(lambda: {each.state for each in workers} == {State.IDLING}, 20, "both in IDLE")
        later.set()
        supervisor.post(supervisor.report)
        lines.wait("states — 2 IDLING")
        lines.wait("[idle/deaf@example.org] no progress for")
        lines.wait("[idle/deaf@example.org]     self._aborted.wait(60)")


def test_sigusr1_shows_the_stack_of_the_pool_s_thread_that_hangs() -> None:
    """A mailbox whose login hangs on a thread of the pool is shown where that thread is."""
    later = threading.Event()

    def clock() -> float:
        return time.monotonic() + (1000.0 if later.is_set() else 0.0)

    with supervised({"deaf": DeafLogin}, clock) as (lines, supervisor):
        wait_for(
            lambda: supervisor._workers and supervisor._workers["deaf"]._pool.thread, 20, "login"
        )
        later.set()
        supervisor.post(supervisor.report)
        lines.wait("[idle/deaf@example.org] no progress for")
        lines.wait("self._aborted.wait(60)")
        supervisor._workers["deaf"].abort()


def test_a_thread_that_died_without_a_word_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ends before it reports its end is found, and started anew."""
    monkeypatch.setattr("rebreak_idle.supervisor.WATCH_SECONDS", 0.05)
    with supervised({"well": Session}) as (lines, supervisor):
        lines.wait("[idle/well@example.org] connected (h:993)")
        worker = supervisor._workers["well"]
        worker._ended = lambda _worker: None
        worker.ask_to_stop()
        lines.wait("[idle/well@example.org] connected (h:993)", number=2)


def test_a_row_that_goes_takes_what_it_owes_with_it() -> None:
    """Hosts and owed scans of rows that are gone are forgotten."""
    with supervised({"well": Session}) as (lines, supervisor):
        lines.wait("[idle/well@example.org] connected (h:993)")
        scanner = supervisor._workers["well"].scanner
        supervisor.post(lambda: supervisor.refreshed([]))
        lines.wait("refreshed — 0 active connections, 0 sessions")
        assert scanner._withdrawn


def test_no_rows_at_all_are_warned_of_at_each_refresh() -> None:
    """The sessions are closed as the rows say, and the log names what may have hidden them."""
    with supervised({"well": Session}) as (lines, supervisor):
        lines.wait("[idle/well@example.org] connected (h:993)")
        assert not any("row-level" in line for line in lines.lines)
        for number in (1, 2):
            supervisor.post(lambda: supervisor.refreshed([]))
            lines.wait("refreshed — 0 active connections, 0 sessions", number)
            assert sum("row-level security may hide" in line for line in lines.lines) == number
