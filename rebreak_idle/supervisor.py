"""The refresh loop of the main thread: rows against the dict of workers."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from .config import Config
from .errors import DatabaseError
from .limits import Backoff, seconds_text
from .log import database_logger as logger
from .log import sanitize
from .mailbox import Mailbox, diff
from .report import report
from .scan.scanner import Scanner
from .worker import IdleWorker

READ_RETRY_INITIAL_SECONDS = 1.0
# How often the supervisor looks after requests and threads.
WATCH_SECONDS = 5.0
OVERDUE_SECONDS = 60.0
# An orderly stop, counted from the signal: scans under way may end until the first, sessions may
# log out until the second, then they are aborted; the rest of the contract's 10 s is for the
# interpreter to end.
SCANS_END_SECONDS = 3.0
SESSIONS_END_SECONDS = 7.0
STOP_SECONDS = 8.0


class MakeWorker(Protocol):
    """Makes the worker of a mailbox, not started; the scanner is its predecessor's."""

    def __call__(
        self, mailbox: Mailbox, ended: Callable[[IdleWorker], None], scanner: Scanner | None
    ) -> IdleWorker: ...


class Scans(Protocol):
    """What the supervisor uses of the scan requests."""

    def abort_overdue(self) -> None: ...
    def stop(self) -> None:
        """No request begins from now on."""

    def wait_for_end(self, seconds: float) -> None:
        """Wait for those under way, then abort them."""


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
        config: Config,
        max_sessions: int,
    ) -> None:
        self._read_rows = read_rows
        self._make_worker = make_worker
        self._scans = scans
        self._on_refreshed = refreshed
        self._interval = config.refresh_interval_seconds
        self._max_sessions = max_sessions
        self._retries = Backoff(
            min(READ_RETRY_INITIAL_SECONDS, self._interval), self._interval, random.random
        )
        # A SimpleQueue: its put may be called from a signal handler at any point.
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._workers: dict[str, IdleWorker] = {}
        self._wanted: dict[str, Mailbox] = {}
        self._carried_over: dict[str, Scanner] = {}
        self._read_at = time.monotonic()
        self._reading = self._read_again = False
        self._stop_asked_at: float | None = None
        self._failures = 0
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
        self._read_again = self._reading
        self._read_at = time.monotonic()

    def report(self) -> None:
        """Log how the mailboxes are doing."""
        report(list(self._workers.values()))

    def stop(self) -> None:
        """Leave `run`, whatever it does. Any thread, any signal handler."""
        if self._stop_asked_at is None:
            self._stop_asked_at = time.monotonic()
        self.post(lambda: None)

    def run(self) -> list[str]:
        """Work until `stop`, then stop every worker; the names of those that would not."""
        while self._stop_asked_at is None:
            if not self._reading and time.monotonic() >= self._read_at:
                self._start_reading()
            self._wait_for_event()
            self._watch()
        return self._stop_workers(self._stop_asked_at)

    def _wait_for_event(self) -> None:
        wait = WATCH_SECONDS
        if not self._reading:
            wait = min(wait, self._read_at - time.monotonic())
        try:
            event = self._events.get(timeout=max(0.0, wait))
        except queue.Empty:
            return
        event()
        self.handle_posted()

    # Reading

    def _start_reading(self) -> None:
        """Read on a thread of its own: a database that hangs must not keep signals waiting."""
        self._reading = True
        try:
            threading.Thread(target=self._read, name="idle-db", daemon=True).start()
        except RuntimeError as error:
            self.not_read(str(error))

    def _read(self) -> None:
        try:
            rows = self._read_rows()
        except DatabaseError as error:
            text = str(error)
            self.post(lambda: self.not_read(text))
        except Exception as error:  # noqa: BLE001  # whatever it is, the sessions go on
            logger.exception("unexpected error while reading the mail connections:")
            name = error.__class__.__name__
            self.post(lambda: self.not_read(f"unexpected error {name}"))
        else:
            self.post(lambda: self.refreshed(rows))

    def refreshed(self, rows: list[Mailbox]) -> None:
        """The rows were read: these are the mailboxes to watch."""
        self._failures = 0
        self._read_over(self._interval)
        self._wanted = {mailbox.id: mailbox for mailbox in rows}
        self._reconcile()
        if self._stop_asked_at is not None:
            return
        sessions = sum(id_ in self._wanted for id_ in self._workers)
        if len(rows) > self._max_sessions:
            logger.error(
                "%d active connections need more file descriptors than this process may have, "
                "enough for %d: raise its limit (ulimit -Hn) and start it again",
                len(rows),
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
        self._failures += 1
        wait = self._retries.wait_seconds(self._failures)
        self._read_over(wait)
        logger.error(
            "cannot read the mail connections: %s; %d sessions go on, next try in %s",
            sanitize(text),
            len(self._workers),
            seconds_text(wait),
        )

    def _read_over(self, wait_seconds: float) -> None:
        self._reading = False
        self._read_at = time.monotonic() + (0.0 if self._read_again else wait_seconds)
        self._read_again = False

    # Workers

    def _reconcile(self) -> None:
        running = {id_: worker.mailbox for id_, worker in self._workers.items()}
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

    def _stop_workers(self, asked_at: float) -> list[str]:
        workers = list(self._workers.values())
        logger.info("stopping — logging out of %d sessions", len(workers))
        for worker in workers:
            worker.ask_to_stop()
        self._scans.stop()
        alive = _join(workers, asked_at + SESSIONS_END_SECONDS)
        self._scans.wait_for_end(asked_at + SCANS_END_SECONDS - time.monotonic())
        for worker in alive:
            worker.abort()
        return [worker.mailbox.name for worker in _join(alive, asked_at + STOP_SECONDS)]


def _join(workers: list[IdleWorker], deadline: float) -> list[IdleWorker]:
    """Wait for all against one deadline; those that still run."""
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    return [worker for worker in workers if worker.is_alive()]
