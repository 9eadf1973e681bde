"""Tells the backend, until it has taken it: of each mailbox the newest state only."""

from __future__ import annotations

import heapq
import math
import random
import threading
from collections.abc import Callable
from typing import Protocol

from .errors import ScanFailed
from .faults import UnexpectedErrors
from .limits import Backoff
from .log import backend_logger as logger
from .log import sanitize
from .notices import Notice, Notices
from .portions import in_portions
from .roster import Roster
from .status import WATCHED

# So many requests at once; scans have threads of their own.
SENDERS = 4
# One mailbox that the backend will not hear of, and the backend itself when it fails.
RETRY_INITIAL_SECONDS = 1.0
RETRY_MAX_SECONDS = 300.0
PROBE_MAX_SECONDS = 30.0
# How often all mailboxes are looked at: a millisecond for ten thousand.
LOOK_SECONDS = 5.0


class Client(Protocol):
    """What is used of `scan.notice_client.NoticeClient`."""

    def tell(self, body: dict[str, object]) -> None: ...
    def abort_overdue(self) -> None: ...


class _Entry:
    """What one mailbox's message needs."""

    def __init__(self, notice: Notice) -> None:
        self.notice = notice
        self.failures = 0
        self.under_way = False
        self.is_wanted = True
        """Whether there is anything to be told; while a request is under way it is kept without."""
        self.due_at = 0.0


class Notifier:
    """Keeps what is to be told and sends it, on threads of its own. Any thread.

    While the backend does not take it, one request at a time tries. ``clock`` is `time.monotonic`.
    """

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._fresh: dict[str, None] = {}
        """Those that are due, in order: they do not wait for others that were refused."""
        self._again: list[tuple[float, str]] = []
        """When those are due again that were."""
        self._failing: set[str] = set()
        self._failures = self._under_way = 0
        self._not_before = 0.0
        self._is_stopping = False
        self._mailboxes = Backoff(RETRY_INITIAL_SECONDS, RETRY_MAX_SECONDS, random.random)
        self._probes = Backoff(RETRY_INITIAL_SECONDS, PROBE_MAX_SECONDS, random.random)

    def tell(self, notice: Notice) -> None:
        """Have the backend told, in place of what it was not told yet of this mailbox."""
        with self._changed:
            entry = self._entries.setdefault(notice.mailbox.id, _Entry(notice))
            entry.notice, entry.is_wanted = notice, True
            if not entry.under_way:
                self._put(entry)

    def keep_only(self, ids: set[str]) -> None:
        """The rows of the others are gone: nobody needs to know of them."""
        with self._changed:
            for id_ in self._entries.keys() - ids:
                self._entries[id_].is_wanted = False
                if not self._entries[id_].under_way:
                    self._drop(id_)

    def _drop(self, id_: str) -> None:
        del self._entries[id_]
        self._fresh.pop(id_, None)
        self._failing.discard(id_)

    def start(self, senders: int) -> list[threading.Thread]:
        """Start the threads that send.

        Raises:
            RuntimeError: the system gives no thread.
        """
        runs = [
            threading.Thread(target=self._run, name=f"idle-tell-{number}", daemon=True)
            for number in range(senders)
        ]
        for run in runs:
            run.start()
        return runs

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def abort_overdue(self) -> None:
        """End the requests that take too long; to be called every few seconds."""
        self._client.abort_overdue()

    def _put(self, entry: _Entry) -> None:
        entry.due_at = -math.inf
        self._fresh[entry.notice.mailbox.id] = None
        self._changed.notify()

    def _run(self) -> None:
        errors = UnexpectedErrors()
        while (entry := self._next()) is not None:
            notice, why, wait = entry.notice, "", 0.0
            try:
                self._client.tell(notice.body)
            except ScanFailed as error:
                why, wait = str(error), error.retry_after_seconds or 0.0
            except Exception as error:  # noqa: BLE001  # no message is lost, no thread dies
                errors.log(logger, error)
                why = f"unexpected error {error.__class__.__name__}"
            self._ended(entry, notice, why, wait)

    def _next(self) -> _Entry | None:
        """The next one that is due, waited for; None when all is over."""
        with self._changed:
            while not self._is_stopping:
                now = self._clock()
                if (wait := self._wait_seconds(now)) > 0:
                    self._changed.wait(min(wait, threading.TIMEOUT_MAX))
                elif entry := self._take():
                    entry.under_way = True
                    self._under_way += 1
                    return entry
            return None

    def _wait_seconds(self, now: float) -> float:
        if self._failures and self._under_way:
            return math.inf
        due_at = self._again[0][0] if self._again else math.inf
        due_at = -math.inf if self._fresh else due_at
        return max(due_at, self._not_before if self._failures else -math.inf) - now

    def _take(self) -> _Entry | None:
        """One that is due, None where it was told meanwhile, or put off."""
        if self._fresh:
            id_, due_at = next(iter(self._fresh)), -math.inf
            del self._fresh[id_]
        else:
            due_at, id_ = heapq.heappop(self._again)
        entry = self._entries.get(id_)
        return entry if entry and not entry.under_way and entry.due_at == due_at else None

    def _ended(self, entry: _Entry, notice: Notice, why: str, wait: float) -> None:
        """A request is over; ``why`` is empty, or says why the backend was not told."""
        with self._changed:
            self._under_way -= 1
            entry.under_way = False
            was_failing = bool(self._failing)
            if why:
                self._failed(entry, wait)
            else:
                self._succeeded(entry, notice)
            if not entry.is_wanted:
                self._drop(notice.mailbox.id)
            is_failing = bool(self._failing)
            self._changed.notify_all()
        self._log(was_failing, is_failing, why)

    def _succeeded(self, entry: _Entry, notice: Notice) -> None:
        self._failures = entry.failures = 0
        self._failing.discard(notice.mailbox.id)
        if entry.notice is notice:
            entry.is_wanted = False
        else:  # there is news already
            self._put(entry)

    def _failed(self, entry: _Entry, wait: float) -> None:
        now, id_ = self._clock(), entry.notice.mailbox.id
        self._failures += 1
        entry.failures += 1
        self._not_before = now + max(wait, self._probes.wait_seconds(self._failures))
        self._failing.add(id_)
        entry.due_at = now + max(wait, self._mailboxes.wait_seconds(entry.failures))
        heapq.heappush(self._again, (entry.due_at, id_))

    def _log(self, was_failing: bool, is_failing: bool, why: str) -> None:
        if is_failing and not was_failing:
            logger.warning(
                "the backend cannot be told which mailboxes are parked, unwatched or watched "
                "again: %s — it is told as soon as it takes it",
                sanitize(why),
            )
        elif was_failing and not is_failing:
            logger.info("the backend can be told again: it knows of every mailbox")


class Watcher:
    """Looks at all mailboxes every few seconds, on a thread of its own, and tells what is news."""

    def __init__(
        self,
        roster: Roster,
        notices: Notices,
        notifier: Notifier,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._look_seconds = look_seconds
        self._roster = roster
        self._notices = notices
        self._notifier = notifier
        self._errors = UnexpectedErrors()
        self._stopped = threading.Event()

    def start(self) -> threading.Thread:
        """Begin.

        Raises:
            RuntimeError: the system gives no thread.
        """
        run = threading.Thread(target=self._run, name="idle-watch", daemon=True)
        run.start()
        return run

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._look_seconds):
            try:
                self._notifier.abort_overdue()
                self.look()
            except Exception as error:  # noqa: BLE001  # whatever it is, it looks again
                self._errors.log(logger, error)

    def look(self) -> None:
        """Tell what is news now."""
        workers, kept = self._roster.workers(), self._notices.ids
        for worker in in_portions(workers):
            if worker.state not in WATCHED:
                status = worker.status()
                if status.state not in WATCHED:
                    self._tell(self._notices.unwatched(worker.mailbox, status))
            elif worker.mailbox.id in kept:
                self._tell(self._notices.watched(worker.mailbox))
        # A row that changes has no worker for a moment. Of what another process watches nothing is
        # kept: nobody knows here what that one told.
        ids = {worker.mailbox.id for worker in workers} | self._roster.ids
        self._notices.keep_only(ids)
        self._notifier.keep_only(ids)

    def _tell(self, notice: Notice | None) -> None:
        if notice is not None:
            self._notifier.tell(notice)
