"""When the rows are read, and on which thread."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import DatabaseError
from .limits import Backoff
from .log import database_logger as logger

RETRY_INITIAL_SECONDS = 1.0

T = TypeVar("T")


class Reading(Generic[T]):
    """Reads at intervals, on a thread of its own: a database that hangs keeps no signal waiting.

    `done` or `failed` is to be called for each reading that ended, which ``ended`` hands over as
    its result or as the text of its failure; all but ``ended`` happens on one thread.
    """

    def __init__(
        self, read: Callable[[], T], ended: Callable[[T | str], None], interval_seconds: float
    ) -> None:
        self._read = read
        self._ended = ended
        self._interval_seconds = interval_seconds
        self._retries = Backoff(
            min(RETRY_INITIAL_SECONDS, interval_seconds), interval_seconds, random.random
        )
        self._failures = 0
        self._due_at = time.monotonic()
        self._is_under_way = self._once_more = False

    @property
    def wait_seconds(self) -> float | None:
        """How long until the next one is due; None while one is under way."""
        return None if self._is_under_way else max(0.0, self._due_at - time.monotonic())

    def ask(self) -> None:
        """Read now; when a reading is under way, once more after it."""
        self._once_more = self._is_under_way
        self._due_at = time.monotonic()

    def changed(self) -> None:
        """There is something else to read: now, unless it could not be read: that has its waits."""
        if not self._failures:
            self.ask()

    def start_if_due(self) -> None:
        if self._is_under_way or time.monotonic() < self._due_at:
            return
        self._is_under_way = True
        try:
            threading.Thread(target=self._run, name="idle-db", daemon=True).start()
        except RuntimeError as error:
            self._ended(str(error))

    def _run(self) -> None:
        try:
            result: T | str = self._read()
        except DatabaseError as error:
            result = str(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the sessions go on
            logger.exception("unexpected error while reading the mail connections:")
            result = f"unexpected error {error.__class__.__name__}"
        self._ended(result)

    def done(self) -> None:
        """It brought its result."""
        self._failures = 0
        self._over(self._interval_seconds)

    def failed(self) -> float:
        """It did not; the seconds until the next try."""
        self._failures += 1
        wait = self._retries.wait_seconds(self._failures)
        self._over(wait)
        return wait

    def _over(self, wait_seconds: float) -> None:
        self._is_under_way = False
        self._due_at = time.monotonic() + (0.0 if self._once_more else wait_seconds)
        self._once_more = False
