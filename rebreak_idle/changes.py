"""Asks the database every few seconds whether the rows changed, so that a new mailbox is watched
within seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from .errors import DatabaseError, NoFingerprint
from .faults import UnexpectedErrors
from .limits import interval_text
from .log import database_logger as logger
from .log import sanitize
from .mailbox import Mailbox

# One check costs the database its time; so many times that later the next one may come: 2 % of a
# core at most.
REST = 50


class Fingerprints(Protocol):
    """What is used of `fingerprint.Fingerprint`."""

    seconds: float

    def take(self) -> str: ...


class Changes:
    """Notices that the rows are no longer those that were read.

    ``read_rows`` reads them, ``refresh_seconds`` is how often that is done anyhow.
    """

    def __init__(
        self,
        read_rows: Callable[[], list[Mailbox]],
        fingerprints: Fingerprints,
        interval_seconds: float,
        refresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_rows = read_rows
        self._fingerprints = fingerprints
        self._interval = interval_seconds
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._known: str | None = None
        """That of the rows that were read last, or older than these."""
        self._not_before = 0.0
        self._is_possible = True

    def read(self) -> list[Mailbox]:
        """The rows. A fingerprint that is older than they are is what later ones are held against:
        what changes in between costs one reading too many, and is never missed. Any thread, one at
        a time.

        Raises:
            DatabaseError: as ``read_rows``.
        """
        latest = problem = None
        if self._interval:
            try:
                latest = self._take()
            except NoFingerprint as error:
                problem = str(error)
            except DatabaseError:
                pass  # it is told of the rows, and asked for at the next check
        rows = self._read_rows()
        self._known = latest
        self._note(problem)
        return rows

    def start(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` from a thread of its own whenever the rows are others than were read.

        Raises:
            RuntimeError: the system gives no thread.
        """
        if self._interval:
            run = threading.Thread(target=self._run, args=(changed,), name="idle-changes")
            run.daemon = True
            run.start()

    def have_changed(self) -> bool:
        """Whether the rows differ from those that were read last; False where nobody knows."""
        if not self._is_possible:
            return False
        try:
            return self._take() != self._known
        except DatabaseError:
            return False  # the next reading tells whether it is the database or the fingerprint

    def wait_seconds(self) -> float:
        """How long to wait before the next check."""
        return max(self._interval, self._not_before - self._clock())

    def _run(self, changed: Callable[[], None]) -> None:
        errors = UnexpectedErrors()
        while True:
            time.sleep(self.wait_seconds())
            try:
                if self.have_changed():
                    changed()
            except Exception as error:  # noqa: BLE001  # whatever it is, it asks again
                errors.log(logger, error)

    def _take(self) -> str:
        with self._lock:
            try:
                return self._fingerprints.take()
            finally:
                self._not_before = self._clock() + REST * self._fingerprints.seconds

    def _note(self, problem: str | None) -> None:
        """The rows can be read: what was wrong with the fingerprint is the fingerprint's."""
        if problem and self._is_possible:
            logger.warning(
                "the database cannot be asked whether the rows changed (%s): "
                "a new row is seen at the next refresh only, every %s",
                sanitize(problem),
                interval_text(self._refresh_seconds),
            )
        self._is_possible = problem is None
