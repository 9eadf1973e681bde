"""The refresh loop of the main thread: rows against the dict of workers."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from .backoff import Backoff, seconds_text
from .errors import DatabaseError
from .log import database_logger as logger
from .log import sanitize, truncate
from .mailbox import Mailbox, diff
from .report import report
from .scan.pending import PendingScan
from .turns import relieve
from .worker import IdleWorker

READ_RETRY_INITIAL_SECONDS = 1.0
# How often the supervisor looks after requests and turns, and after threads that make no progress.
WATCH_SECONDS = 5.0
OVERDUE_SECONDS = 60.0
# An orderly stop, counted from the signal: scans under way may end until the first, then they are
# cut; sessions may log out until the second (LOGOUT has 3 s), then they are cut; the rest of the
# contract's 10 s is for the interpreter to end.
SCANS_END_SECONDS = 3.0
SESSIONS_END_SECONDS = 7.0
STOP_SECONDS = 8.0


class MakeWorker(Protocol):
    """Makes the worker of a mailbox, not started; the debt is its predecessor's."""

    def __call__(
        self, mailbox: Mailbox, ended: Callable[[IdleWorker], None], debt: PendingScan | None
    ) -> IdleWorker: ...


class RequestsUnderWay(Protocol):
    """What the supervisor uses of the backend: see `backend.Backend`."""

    def cut_overdue(self) -> None: ...
    def cut_all(self) -> None: ...


class Supervisor:
    """Starts, stops and replaces workers, so that each active row has one.

    All of it happens on the thread that calls `run`; other threads and signal handlers reach it
    by `post`.
    """

    def __init__(
        self,
        read_rows: Callable[[], list[Mailbox]],
        make_worker: MakeWorker,
        requests: RequestsUnderWay,
        refresh_interval_seconds: float,
        most_sessions: int,
    ) -> None:
        self._read_rows = read_rows
        self._make_worker = make_worker
        self._requests = requests
        self._interval = refresh_interval_seconds
        self._most_sessions = most_sessions
        self._retries = Backoff(
            min(READ_RETRY_INITIAL_SECONDS, self._interval), self._interval, random.random
        )
        # A SimpleQueue: its put may be called from a signal handler at any point.
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._workers: dict[str, IdleWorker] = {}
        self._wanted: dict[str, Mailbox] = {}
        self._inherited: dict[str, PendingScan] = {}
        self._read_at = time.monotonic()
        self._reading = self._read_again = self._stopping = False
        self._failures = 0
        self._relieve_at = self._watch_at = 0.0

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
        report(self._workers.values())

    def stop(self) -> None:
        """Leave `run`."""
        self._stopping = True

    def run(self) -> list[str]:
        """Work until `stop`, then stop every worker; the names of those that would not."""
        while not self._stopping:
            if not self._reading and time.monotonic() >= self._read_at:
                self._start_reading()
            self._wait_for_event()
            self._requests.cut_overdue()
            self._look_after_threads()
        return self._stop_workers()

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
        sessions = sum(id_ in self._wanted for id_ in self._workers)
        if len(rows) > self._most_sessions:
            logger.error(
                "%d active connections need more file descriptors than this process may have, "
                "enough for %d: raise its limit (ulimit -Hn) and start it again",
                len(rows),
                self._most_sessions,
            )
        logger.info("refreshed — %d active connections, %d sessions", len(rows), sessions)

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
        for id_ in difference.added:
            self._start(self._wanted[id_])

    def _start(self, mailbox: Mailbox) -> None:
        try:
            worker = self._make_worker(mailbox, self._ended, self._inherited.get(mailbox.id))
            worker.start()
        except (RuntimeError, OSError) as error:
            logger.error(
                "no session for %s (%s): next try at the next refresh", mailbox.name, error
            )
        else:
            self._workers[mailbox.id] = worker
            self._inherited.pop(mailbox.id, None)

    def _ended(self, worker: IdleWorker) -> None:
        """Called by a worker on its own thread when it is about to end."""
        self.post(lambda: self._bury(worker))

    def _bury(self, worker: IdleWorker) -> None:
        """Replace a worker that ended, if its mailbox is wanted; what it owes is inherited."""
        worker.join()
        mailbox = self._wanted.get(worker.mailbox.id)
        del self._workers[worker.mailbox.id]
        if mailbox is None:
            return
        self._inherited[mailbox.id] = worker.debt
        if worker.stop.is_set():
            self._start(mailbox)
        else:
            logger.error(
                "the thread of %s died: started anew at the next refresh", truncate(mailbox.name)
            )

    def _look_after_threads(self) -> None:
        """The last net: a thread that hangs in spite of every time-out gets its connection cut, and
        keeps nobody else from running meanwhile.
        """
        now = time.monotonic()
        if now >= self._relieve_at:
            self._relieve_at = now + WATCH_SECONDS
            relieve()
        if now >= self._watch_at:
            self._watch_at = now + OVERDUE_SECONDS
            self._free_overdue_workers()

    def _free_overdue_workers(self) -> None:
        for worker in self._workers.values():
            if worker.is_overdue():
                name, state = truncate(worker.mailbox.name), worker.state.value
                logger.error("%s makes no progress (%s): its connection is cut", name, state)
                worker.cut()

    def _stop_workers(self) -> list[str]:
        workers = list(self._workers.values())
        logger.info("stopping — logging out of %d sessions", len(workers))
        started = time.monotonic()
        for worker in workers:
            worker.ask_to_stop()
        relieve()
        alive = _join(workers, started + SCANS_END_SECONDS)
        relieve()
        self._requests.cut_all()
        alive = _join(alive, started + SESSIONS_END_SECONDS)
        for worker in alive:
            worker.cut()
        return [worker.mailbox.name for worker in _join(alive, started + STOP_SECONDS)]


def _join(workers: list[IdleWorker], deadline: float) -> list[IdleWorker]:
    """Wait for all against one deadline; those that still run.

    The last ones first: they end last, and each wait that ends takes time from those that run.
    """
    for worker in reversed(workers):
        worker.join(max(0.0, deadline - time.monotonic()))
    return [worker for worker in workers if worker.is_alive()]
