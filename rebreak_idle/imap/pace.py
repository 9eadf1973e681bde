"""How fast a server is read that says very much."""

from __future__ import annotations

import time

# A whole folder that is emptied comes within the burst: 60,000 lines. Beyond it a server gets some
# 3 % of a core in IDLE; what it says meanwhile waits with itself, in its own buffers. An answer has
# an end, which somebody waits for: it gets more.
BURST_BYTES = 1024 * 1024
IDLE_BYTES_PER_SECOND = 64 * 1024
ANSWER_BYTES_PER_SECOND = 512 * 1024
# What waking up for a few bytes costs, measured in bytes.
WAKE_UP_BYTES = 1024


class Pace:
    """Counts what a server makes us do. Used by one thread at a time."""

    __slots__ = ("_bytes_per_second", "_counted_at", "_done")

    def __init__(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._done = 0.0
        self._counted_at = 0.0

    @property
    def is_exceeded(self) -> bool:
        """Whether the last count gave a rest."""
        return self._done > BURST_BYTES

    def rest_seconds(self, received_bytes: int) -> float:
        """Count one wake-up; how long to leave the server alone after it, in seconds."""
        now = time.monotonic()
        passed = (now - self._counted_at) * self._bytes_per_second
        self._done = max(0.0, self._done - passed) + received_bytes + WAKE_UP_BYTES
        self._counted_at = now
        return max(0.0, self._done - BURST_BYTES) / self._bytes_per_second
