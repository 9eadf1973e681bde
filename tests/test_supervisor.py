"""The last nets: errors that nobody foresaw, and threads that hang in spite of every time-out."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from harness import QUICK
from waiting import wait_for

from rebreak_idle import log as logs
from rebreak_idle.crew import Crew
from rebreak_idle.errors import SessionLost
from rebreak_idle.gate import Gate
from rebreak_idle.imap.responses import Line
from rebreak_idle.imap.uids import Snapshot
from rebreak_idle.limits import Hosts, Limits
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.client import ScanResult
from rebreak_idle.scan.pending import PendingScan
from rebreak_idle.supervisor import Supervisor
from rebreak_idle.wake import Stop
from rebreak_idle.worker import IdleWorker, Services


class Session:
    """A session that idles until it is cut or told to stop; a test makes it misbehave."""

    offers_idle = True

    def __init__(self, mailbox: Mailbox, stop: Stop) -> None:
        self.mailbox = mailbox
        self.idling = False
        self._stop = stop
        self._cut = threading.Event()

    def connect(self) -> None: ...
    def login(self, password: str) -> None: ...
    def open(self, password: str) -> None: ...

    def examine(self) -> Snapshot:
        return Snapshot(0, 1, 1)

    def start_idle(self) -> bool:
        self.idling = True
        return True

    def wait(self, seconds: float) -> list[Line]:
        self._stop.wait(seconds)
        return []

    def end_idle(self) -> list[Line]:
        return []

    def take_events(self) -> list[Line]:
        return []

    def close(self) -> None: ...

    def cut(self) -> None:
        self._cut.set()


class Deaf(Session):
    """Hangs in IDLE, without regard to time-outs and stops, until it is cut."""

    def wait(self, seconds: float) -> list[Line]:
        self._cut.wait(60)
        raise SessionLost("cut")


class Faulty(Session):
    """A fault in the program."""

    def wait(self, seconds: float) -> list[Line]:
        raise ZeroDivisionError("nobody foresaw this")


class Scans:
    """A backend that always succeeds, and what the supervisor asks of it."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult:
        self.of.append(mailbox.id)
        return ScanResult(0, 0)

    def cut_overdue(self) -> None: ...
    def cut_all(self) -> None: ...


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs._Formatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += self.format(record).split("\n")

    def wait(self, text: str, number: int = 1) -> None:
        wait_for(lambda: sum(text in line for line in self.lines) >= number, 20, text)


@contextmanager
def supervised(
    sessions: dict[str, type[Session]], clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Lines, Supervisor]]:
    """A supervisor on a thread of its own, with mailboxes whose sessions are of these kinds."""
    made: dict[str, Iterator[type[Session]]] = {
        id_: itertools.chain([kind], itertools.repeat(Session)) for id_, kind in sessions.items()
    }
    rows = [Mailbox(id_, "u", f"{id_}@example.org", "h", 993, id_, "p") for id_ in sessions]
    scans, lines = Scans(), Lines()
    shared = Services(
        connect=lambda mailbox, stop: next(made[mailbox.id])(mailbox, stop),
        open_password=str,
        backend=scans,
        crew=Crew(),
        scans=Gate(4),
        hosts=Hosts(Limits(8, 20, 0.05, 0.2), clock),
        timing=QUICK,
        clock=clock,
    )

    def make_worker(
        mailbox: Mailbox, ended: Callable[[IdleWorker], None], debt: PendingScan | None
    ) -> IdleWorker:
        return IdleWorker(mailbox, shared, Stop(), ended, debt)

    supervisor = Supervisor(lambda: rows, make_worker, scans, 300, 1000)
    hanging: list[str] = []
    thread = threading.Thread(target=lambda: hanging.extend(supervisor.run()), name="supervisor")
    logs.log.setLevel(logging.INFO)
    logs.log.addHandler(lines)
    thread.start()
    try:
        yield lines, supervisor
    finally:
        supervisor.post(supervisor.stop)
        thread.join(20)
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
        later.set()
        supervisor.post(supervisor.report)
        lines.wait("states — 2 IDLING")
        lines.wait("[idle/deaf@example.org] no progress for")
        lines.wait("[idle/deaf@example.org]     self._cut.wait(60)")
