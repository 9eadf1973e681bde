"""How fast a server is read that says very much in IDLE."""

from __future__ import annotations

import time

# A whole folder that is emptied or marked as read comes within the burst: 60,000 lines. Beyond it a
# server gets some 3 % of a core; what it says meanwhile waits with itself, in its own buffers.
BURST_BYTES = 1024 * 1024
BYTES_PER_SECOND = 64 * 1024
# What waking up for a few bytes costs, measured in bytes.
WAKE_UP_BYTES = 1024


class Pace:
    """Counts what a server makes us do. Used by the mailbox's thread."""

    def __init__(self) -> None:
        self._done = 0.0
        self._counted_at = 0.0

    def rest_seconds(self, received_bytes: int) -> float:
        """Count one wake-up; how long to leave the server alone after it, in seconds."""
        now = time.monotonic()
        passed = (now - self._counted_at) * BYTES_PER_SECOND
        self._done = max(0.0, self._done - passed) + received_bytes + WAKE_UP_BYTES
        self._counted_at = now
        return max(0.0, self._done - BURST_BYTES) / BYTES_PER_SECOND
