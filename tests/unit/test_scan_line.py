"""The line of scan requests: its order, its bound, and what it does while the backend is away."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from rebreak_idle import log as logs
from rebreak_idle.errors import BackendUnavailable, ScanFailed
from rebreak_idle.faults import UnexpectedErrors
from rebreak_idle.log import Logger
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.answer import ScanResult
from rebreak_idle.scan.line import ScanLine
from rebreak_idle.scan.pending import CATCH_UP, EXISTS
from rebreak_idle.scan.scanner import Scanner
from tests.support.waiting import wait_for

SECONDS = 10.0
REFUSED = BackendUnavailable("refused", is_certain=True)
BUSY = BackendUnavailable("the backend answered 503", is_certain=False)


class Client:
    """A backend whose answers a test hands out one by one; None is success."""

    def __init__(self) -> None:
        self.requests: queue.Queue[tuple[str, str]] = queue.Queue()
        self.answers: queue.Queue[ScanFailed | None] = queue.Queue()
        self.at_once = self.most_at_once = 0
        self.aborted = 0
        self._lock = threading.Lock()

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.requests.put((mailbox.id, reason))
        error = self.answers.get(timeout=SECONDS)
        with self._lock:
            self.at_once -= 1
        if error is not None:
            raise error
        return ScanResult(1, 0)

    def next(self) -> str:
        """Of which mailbox the next request is; waited for."""
        return self.requests.get(timeout=SECONDS)[0]

    def abort_overdue(self) -> None: ...

    def abort_all(self) -> None:
        self.aborted += 1


class Line:
    """A line with so many threads, a clock that a test moves, and scanners of some mailboxes."""

    def __init__(self, size: int) -> None:
        self.now = 0.0
        self.client = Client()
        self.threads = ThreadPoolExecutor(size, "scan")
        self.line = ScanLine(self.client, self.threads, lambda: self.now)

    def scanner(self, id_: str) -> Scanner:
        scanner = Scanner(self.line, lambda: self.now, UnexpectedErrors())
        mailbox = Mailbox(id_, "u", f"{id_}@example.org", "h", 993, id_, "p")
        scanner.serve(mailbox, Logger(mailbox.name), lambda: None)
        return scanner

    def owing(self, *ids: str) -> list[Scanner]:
        """Scanners that entered the line in this order."""
        scanners = [self.scanner(id_) for id_ in ids]
        for scanner in scanners:
            scanner.owe(EXISTS)
            scanner.send_due()
        return scanners

    def move_clock(self, seconds: float) -> None:
        """Let time pass, and those look at the clock who wait by it."""
        self.now += seconds
        with self.line._changed:
            self.line._changed.notify_all()


@contextmanager
def line_of(size: int) -> Iterator[Line]:
    subject = Line(size)
    try:
        yield subject
    finally:
        subject.line.stop()
        for _ in range(100):
            subject.client.answers.put(None)
        subject.threads.shutdown()


class _Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs.Formatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the log said."""
    handler = _Said()
    logs.log.setLevel(logging.INFO)
    logs.log.addHandler(handler)
    yield handler.lines
    logs.log.removeHandler(handler)


def not_owed(*scanners: Scanner) -> Callable[[], bool]:
    return lambda: not any(scanner.owed or scanner.in_line for scanner in scanners)


def test_requests_are_sent_in_order_of_arrival() -> None:
    """Who is owed a scan keeps its place, however often the others come again."""
    with line_of(1) as line:
        busy, quiet, other = line.owing("busy", "quiet", "other")
        assert line.client.next() == "busy"
        for _ in range(3):  # what is heard meanwhile does not go before those who wait
            busy.owe(EXISTS)
            busy.send_due()
        line.client.answers.put(None)
        assert line.client.next() == "quiet"
        wait_for(lambda: not busy.in_line, SECONDS, "the first request's end")
        busy.send_due()
        for expected in ("other", "busy"):
            line.client.answers.put(None)
            assert line.client.next() == expected
        line.client.answers.put(None)
        wait_for(not_owed(busy, quiet, other), SECONDS, "all scans")


def test_what_arises_in_line_is_covered_and_what_arises_under_way_is_not() -> None:
    """A request covers all that arose before it began, however long it stood in line."""
    with line_of(1) as line:
        first, second = line.owing("first", "second")
        assert line.client.next() == "first"
        second.owe(CATCH_UP)  # in line: covered
        line.client.answers.put(None)
        assert line.client.next() == "second"
        second.owe(EXISTS)  # under way: not covered
        line.client.answers.put(None)
        wait_for(lambda: not second.in_line, SECONDS, "the request's end")
        assert second.owed
        assert not first.owed


def test_no_more_at_once_than_there_are_threads() -> None:
    """The pool is the bound."""
    with line_of(3) as line:
        scanners = line.owing(*map(str, range(12)))
        for _ in scanners:
            line.client.answers.put(None)
        wait_for(not_owed(*scanners), SECONDS, "all scans")
        assert line.client.most_at_once <= 3


def test_while_nobody_listens_one_probes_and_one_line_says_so(said: list[str]) -> None:
    """Of a hundred mailboxes one at a time asks, in turn, and all are sent when it is back."""
    with line_of(4) as line:
        (first,) = line.owing("first")
        line.client.next()
        line.client.answers.put(REFUSED)
        wait_for(lambda: not first.in_line, SECONDS, "the failure")
        scanners = line.owing(*map(str, range(100)))
        assert line.client.requests.empty()
        seen = set()
        for _ in range(5):
            line.move_clock(10.0)
            seen.add(line.client.next())
            assert line.client.at_once == 1
            line.client.answers.put(REFUSED)
            wait_for(lambda: line.client.at_once == 0, SECONDS, "the probe's end")
        assert len(seen) == 5, "the same mailbox probes again and again"
        assert [line for line in said if "is away" in line] == said
        assert len(said) == 1
        assert said[0].startswith("[idle/backend] the backend is away: refused — ")
        line.move_clock(10.0)
        line.client.next()
        line.client.answers.put(None)
        for _ in range(4):
            line.client.next()
        for _ in range(100):
            line.client.answers.put(None)
        waiting = [scanner for scanner in scanners if scanner.in_line]
        wait_for(not_owed(*waiting), SECONDS, "the scans of those in line")
        assert sum("the backend is back" in text for text in said) == 1


def test_one_mailbox_s_503_does_not_stop_the_others(said: list[str]) -> None:
    """The next in line tries at once, and where it succeeds nobody says that all is away."""
    with line_of(1) as line:
        bad, good = line.owing("bad", "good")
        assert line.client.next() == "bad"
        line.client.answers.put(BUSY)
        assert line.client.next() == "good"
        line.client.answers.put(None)
        wait_for(not_owed(good), SECONDS, "the other's scan")
        assert bad.owed
        assert not any("[idle/backend]" in text for text in said)
        assert sum("[idle/bad@example.org] scan failed" in text for text in said) == 1


def test_a_second_503_is_the_backend_s(said: list[str]) -> None:
    """Then one line says so for all, and the mailboxes say nothing."""
    with line_of(1) as line:
        scanners = line.owing("a", "b", "c")
        for expected in ("a", "b"):
            assert line.client.next() == expected
            line.client.answers.put(BUSY)
        wait_for(lambda: not scanners[1].in_line, SECONDS, "the second failure")
        assert line.client.requests.empty()
        assert [text.split("]")[0] for text in said] == ["[idle/a@example.org", "[idle/backend"]


def test_a_refusal_is_an_answer() -> None:
    """Whatever else the backend says, it is there."""
    with line_of(1) as line:
        first, second = line.owing("first", "second")
        line.client.next()
        line.client.answers.put(ScanFailed("the backend answered 401", is_answer=True))
        assert line.client.next() == "second"
        line.client.answers.put(None)
        wait_for(not_owed(second), SECONDS, "the second scan")
        assert first.owed


def test_nothing_begins_after_the_stop() -> None:
    """Those in line are not sent, those under way are waited for."""
    with line_of(1) as line:
        first, second = line.owing("first", "second")
        line.client.next()
        line.line.stop()
        ended = threading.Thread(target=line.line.wait_for_end, args=(SECONDS,), name="ended")
        ended.start()
        line.client.answers.put(None)
        ended.join(SECONDS)
        assert not ended.is_alive()
        assert not first.owed
        assert second.owed
        assert line.client.requests.empty()
        assert line.client.aborted == 0


def test_a_request_that_hangs_is_not_waited_for_longer_than_asked() -> None:
    """At the stop requests have their time, and are then aborted."""
    with line_of(1) as line:
        line.owing("hangs")
        line.client.next()
        line.line.stop()
        began = time.monotonic()
        line.line.wait_for_end(0.1)
        assert line.client.aborted == 1
        assert time.monotonic() - began >= 0.1


def test_a_row_that_is_gone_is_not_scanned() -> None:
    """A request in line is not sent when its row went away meanwhile."""
    with line_of(1) as line:
        _, gone = line.owing("first", "gone")
        line.client.next()
        gone.withdraw()
        line.client.answers.put(None)
        wait_for(lambda: not gone.in_line, SECONDS, "its turn")
        assert line.client.requests.empty()


def test_one_mailbox_s_retry_after_holds_up_no_other() -> None:
    """What one 503 asks for is kept by its mailbox; the others are tried at once."""
    with line_of(1) as line:
        bad, good = line.owing("bad", "good")
        line.client.next()
        error = BackendUnavailable("the backend answered 503", 200.0, is_certain=False)
        line.client.answers.put(error)
        assert line.client.next() == "good"
        line.client.answers.put(None)
        wait_for(not_owed(good), SECONDS, "the other's scan")
        assert bad.next_try_at() == 200.0


def test_a_probe_that_is_broken_off_does_not_mean_that_the_backend_is_back(
    said: list[str],
) -> None:
    """Only an answer does; until then the next probe waits its time."""
    with line_of(1) as line:
        scanners = line.owing("a", "b", "c")
        line.client.next()
        line.client.answers.put(REFUSED)
        wait_for(lambda: not scanners[0].in_line, SECONDS, "the failure")
        line.move_clock(10.0)
        line.client.next()
        line.client.answers.put(ScanFailed("the backend broke off"))
        wait_for(lambda: not scanners[1].in_line, SECONDS, "the probe's end")
        assert line.client.requests.empty()
        assert not any("is back" in text for text in said)


def test_a_request_is_sent_for_the_row_as_it_is_when_it_begins() -> None:
    """A row that changes while its request is in line is scanned as it is then."""
    with line_of(1) as line:
        _, changed = line.owing("first", "old")
        line.client.next()
        new = Mailbox("new", "u", "new@example.org", "h", 993, "new", "p")
        changed.serve(new, Logger(new.name), lambda: None)
        line.client.answers.put(None)
        assert line.client.next() == "new"
