"""The refresh loop of the main thread: rows against the dict of workers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from . import stopping
from .config import Config
from .fleet.census import Census, take_census
from .fleet.membership import Joined, Membership
from .limits import seconds_text
from .log import database_logger as logger
from .log import sanitize
from .mailbox import Mailbox, diff
from .reading import Reading
from .report import report
from .scan.scanner import Scanner
from .worker import IdleWorker

# Python's handlers run on the main thread, which a signal does not wake where the system gave it to
# another one: so long it may be unseen. https://docs.python.org/3/library/signal.html
SIGNAL_SECONDS = 0.5
# How often the supervisor looks after requests and threads.
WATCH_SECONDS = 5.0
OVERDUE_SECONDS = 60.0


class MakeWorker(Protocol):
    """Makes the worker of a mailbox, not started; the scanner is its predecessor's."""

    def __call__(
        self, mailbox: Mailbox, ended: Callable[[IdleWorker], None], scanner: Scanner | None
    ) -> IdleWorker: ...


class Scans(stopping.Scans, Protocol):
    """What the supervisor uses of the scan requests."""

    def abort_overdue(self) -> None: ...


class Supervisor:
    """Starts, stops and replaces workers, so that each active row has one.

    All of it happens on the thread that calls `run`; other threads and signal handlers reach it
    by `post` and `stop`.
    """

    def __init__(
        self,
        read_rows: Callable[[], list[Mailbox]],
        make_worker: MakeWorker,
        scans: Scans,
        refreshed: Callable[[list[Mailbox]], None],
        fleet: Membership,
        config: Config,
        max_sessions: int,
        wanted: Callable[[Iterable[Mailbox]], None] = lambda _: None,
    ) -> None:
        self._read_rows = read_rows
        self._make_worker = make_worker
        self._scans = scans
        self._on_refreshed = refreshed
        self._fleet = fleet
        self._max_sessions = max_sessions
        self._on_wanted = wanted
        self._reading = Reading(self._read, self._read_ended, config.refresh_interval_seconds)
        # A SimpleQueue: its put may be called from a signal handler at any point.
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._workers: dict[str, IdleWorker] = {}
        self._rows: dict[str, Mailbox] = {}
        self._wanted: dict[str, Mailbox] = {}
        self._carried_over: dict[str, Scanner] = {}
        self._stop_asked_at: float | None = None
        self._watch_at = self._overdue_at = 0.0

    def post(self, event: Callable[[], None]) -> None:
        """Have ``event`` called on the supervisor's thread. Any thread, any signal handler."""
        self._events.put(event)

    def handle_posted(self) -> None:
        """Call what was posted so far, without waiting."""
        while not self._events.empty():
            self._events.get()()

    def refresh(self) -> None:
        """Read the rows now; when a reading is under way, once more after it."""
        self._reading.ask()

    def rows_changed(self) -> None:
        """Read the rows now, unless they could not be read: then when the log said."""
        self._reading.changed()

    def report(self) -> None:
        """Log how the mailboxes, and the other instances, are doing."""
        report(list(self._workers.values()))
        self._fleet.report(self._census())

    def stop(self) -> None:
        """Leave `run`, whatever it does. Any thread, any signal handler."""
        if self._stop_asked_at is None:
            self._stop_asked_at = time.monotonic()
        self.post(lambda: None)

    def run(self) -> list[str]:
        """Work until `stop`, then stop every worker; the names of those that would not."""
        while self._stop_asked_at is None:
            self._reading.start_if_due()
            self._beat_if_due()
            self._wait_for_event()
            self._watch()
        self._fleet.leave()
        return stopping.stop_workers(list(self._workers.values()), self._scans, self._stop_asked_at)

    def _wait_for_event(self) -> None:
        wait = min(SIGNAL_SECONDS, self._fleet.wait_seconds)
        if (until_reading := self._reading.wait_seconds) is not None:
            wait = min(wait, until_reading)
        try:
            event = self._events.get(timeout=wait)
        except queue.Empty:
            return
        event()
        self.handle_posted()

    # Reading

    def _read(self) -> tuple[Joined, list[Mailbox]]:
        """On a thread of its own."""
        return self._fleet.join(), self._read_rows()

    def _read_ended(self, result: tuple[Joined, list[Mailbox]] | str) -> None:
        """On a thread of its own."""
        if isinstance(result, str):
            self.post(lambda: self.not_read(result))
        else:
            self.post(lambda: self._read_both(*result))

    def _read_both(self, joined: Joined, rows: list[Mailbox]) -> None:
        self._fleet.joined(joined)
        self.refreshed(rows)

    def refreshed(self, rows: list[Mailbox]) -> None:
        """The rows were read: these are the mailboxes to watch."""
        self._reading.done()
        self._rows = {mailbox.id: mailbox for mailbox in rows}
        self._fleet.rows_read(self._rows)
        self._reconcile()
        if self._stop_asked_at is not None:
            return
        sessions = sum(id_ in self._wanted for id_ in self._workers)
        if len(self._wanted) > self._max_sessions:
            logger.error(
                "%d active connections need more file descriptors than this process may have, "
                "enough for %d: raise its limit (ulimit -Hn) and start it again",
                len(self._wanted),
                self._max_sessions,
            )
        if not rows:
            logger.warning(
                "the query returns no rows: no mailbox is watched, sessions that ran are closed; "
                "row-level security may hide the rows from the user of DATABASE_URL: give it a "
                "policy, or BYPASSRLS"
            )
        logger.info("refreshed — %d active connections, %d sessions", len(rows), sessions)
        self._on_refreshed(rows)

    def not_read(self, text: str) -> None:
        """The rows could not be read: nothing is closed, and they are read again sooner."""
        wait = self._reading.failed()
        logger.error(
            "cannot read the mail connections: %s; %d sessions go on, next try in %s",
            sanitize(text),
            len(self._workers),
            seconds_text(wait),
        )

    # The fleet

    def _beat_if_due(self) -> None:
        if not self._fleet.is_beat_due():
            return
        beat = self._fleet.begin_beat(self._census())

        def run() -> None:
            outcome = beat()
            self.post(lambda: self._beaten(outcome))

        try:
            threading.Thread(target=run, name="idle-fleet", daemon=True).start()
        except RuntimeError as error:
            self._fleet.not_beaten(str(error))

    def _beaten(self, outcome: Callable[[], bool]) -> None:
        if outcome():
            self.refresh()
        elif all(map(self._fleet.is_mine, self._wanted)):
            return  # there is nothing to release
        self._reconcile()

    def _census(self) -> Census:
        """How its own share is doing, but for the rows that nobody can use."""
        rows = self._wanted.values()
        mine = (row.id for row in rows if not row.problem and self._fleet.is_mine(row.id))
        workers = map(self._workers.get, mine)
        statuses = (worker.status() if worker else None for worker in workers)
        fleet = self._fleet
        return take_census(statuses, fleet.proof.epoch, time.monotonic(), fleet.able_seconds)

    # Workers

    def _reconcile(self) -> None:
        """Have a worker for each mailbox of this instance, and for each that nobody took over."""
        running = {id_: worker.mailbox for id_, worker in self._workers.items()}
        is_mine = self._fleet.is_mine
        others = [id_ for id_ in self._wanted if id_ in self._rows and not is_mine(id_)]
        stay = set(others) - self._fleet.release(others)
        self._wanted = {
            id_: mailbox for id_, mailbox in self._rows.items() if id_ in stay or is_mine(id_)
        }
        self._on_wanted(self._wanted.values())
        difference = diff(running, self._wanted.values())
        for id_ in (*difference.removed, *difference.changed):
            self._workers[id_].ask_to_stop()
        for id_ in difference.removed:
            self._workers[id_].scanner.withdraw()
        for id_ in self._carried_over.keys() - self._wanted.keys():
            self._carried_over.pop(id_).withdraw()
        for id_ in difference.added:
            if self._stop_asked_at is not None:
                return
            self._start(self._wanted[id_])

    def _start(self, mailbox: Mailbox) -> None:
        try:
            worker = self._make_worker(mailbox, self._ended, self._carried_over.get(mailbox.id))
            worker.start()
        except (RuntimeError, OSError) as error:
            logger.error(
                "no session for %s (%s): next try at the next refresh",
                sanitize(mailbox.name),
                error,
            )
        else:
            self._workers[mailbox.id] = worker
            self._carried_over.pop(mailbox.id, None)

    def _ended(self, worker: IdleWorker) -> None:
        """Called by a worker on its own thread when it is about to end."""
        self.post(lambda: self._reap(worker))

    def _reap(self, worker: IdleWorker) -> None:
        """Replace a worker that ended, if its mailbox is wanted; what it owes is carried over."""
        worker.join()
        id_ = worker.mailbox.id
        if self._workers.get(id_) is not worker:
            return  # found dead before it could say so
        del self._workers[id_]
        mailbox = self._wanted.get(id_)
        if mailbox is None:
            return
        self._carried_over[id_] = worker.scanner
        if worker.is_stopping():
            self._start(mailbox)
        else:
            logger.error(
                "the thread of %s died: started anew at the next refresh", sanitize(mailbox.name)
            )

    # The last net

    def _watch(self) -> None:
        """Look after requests that take too long, and threads that died or hang."""
        now = time.monotonic()
        if now < self._watch_at:
            return
        self._watch_at = now + WATCH_SECONDS
        self._scans.abort_overdue()
        for worker in list(self._workers.values()):
            if not worker.is_alive():
                self._reap(worker)
        if now >= self._overdue_at:
            self._overdue_at = now + OVERDUE_SECONDS
            self._free_overdue_workers()

    def _free_overdue_workers(self) -> None:
        for worker in self._workers.values():
            if worker.is_overdue():
                name, state = sanitize(worker.mailbox.name), worker.state.value
                logger.error("%s makes no progress (%s): its connection is cut", name, state)
                worker.abort()
