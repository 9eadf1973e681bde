"""Whether a server makes us do too much in IDLE."""

from __future__ import annotations

import time


class Flood:
    """Counts what a server makes us do in IDLE, and says when that is too much.

    Honest servers stay far below: the removal of a whole folder's mails comes in a few large
    pieces, announcements come a few in a second.
    """

    WINDOW_SECONDS = 10.0
    MOST_WAKE_UPS = 500
    MOST_BYTES = 256 * 1024

    def __init__(self) -> None:
        self._began_at = 0.0
        self._wake_ups = self._bytes = 0

    def count(self, received_bytes: int) -> str:
        """Count one wake-up; the bound that it exceeds, or empty."""
        now = time.monotonic()
        if now - self._began_at > self.WINDOW_SECONDS:
            self._began_at, self._wake_ups, self._bytes = now, 0, 0
        self._wake_ups += 1
        self._bytes += received_bytes
        if self._wake_ups > self.MOST_WAKE_UPS:
            return f"more than {self.MOST_WAKE_UPS} times {self._window()}"
        if self._bytes > self.MOST_BYTES:
            return f"more than {self.MOST_BYTES} bytes {self._window()}"
        return ""

    def _window(self) -> str:
        return f"within {self.WINDOW_SECONDS:.0f} s in IDLE"
