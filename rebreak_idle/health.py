"""Whether the daemon does its work, for load balancers and process managers."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .limits import interval_text

# Ten thousand threads are started in a few seconds, in which the loop does not turn.
TURN_SECONDS = 30.0
# Rows that were not read for so many intervals are too old.
INTERVALS = 3


class Health:
    """Asks the refresh loop for a sign of life, and knows when the rows were read. Any thread.

    ``post`` has something called by the loop; ``clock`` is `time.monotonic`.
    """

    def __init__(
        self,
        post: Callable[[Callable[[], None]], None],
        interval_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._post = post
        self._longest = INTERVALS * interval_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._read_at = clock()
        self._was_read = False

    def refreshed(self) -> None:
        """The rows were read just now."""
        self._read_at, self._was_read = self._clock(), True

    @property
    def refresh_age_seconds(self) -> float:
        """How long ago the rows were read, or the program began."""
        return self._clock() - self._read_at

    def problem(self) -> str:
        """What is wrong, in one sentence; empty where all is well."""
        if (waited := self._waits_for_loop()) > TURN_SECONDS:
            return f"the refresh loop has not turned for {interval_text(round(waited))}"
        if not self._was_read:
            return "the rows have not been read yet"
        if (age := self.refresh_age_seconds) > self._longest:
            return f"the rows were last read {interval_text(round(age))} ago"
        return ""

    def _waits_for_loop(self) -> float:
        """How long the loop owes a sign of life; where it owes none it is asked for one."""
        now = self._clock()
        with self._lock:
            if self._asked_at is not None:
                return now - self._asked_at
            self._asked_at = now
        self._post(self._turned)
        return 0.0

    def _turned(self) -> None:
        with self._lock:
            self._asked_at = None
