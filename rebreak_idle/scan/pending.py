"""Whether a mailbox is owed a scan, since when, and what settles it.

A scan is owed from the moment mail may have arrived that no successful scan covers. Only the
success of a request that began afterwards settles it.
"""

from __future__ import annotations

import threading

# The `reason` of a scan request, the most telling first: of several the first is named.
EXISTS = "exists"
POLL = "poll"
CATCH_UP = "catch-up"
REASONS = (EXISTS, POLL, CATCH_UP)


class PendingScan:
    """What one mailbox is owed: before the request under way began, and since. Any thread."""

    __slots__ = ("_before", "_lock", "_since")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: str | None = None
        self._since: str | None = None

    @property
    def owed(self) -> bool:
        with self._lock:
            return self._since is not None or self._before is not None

    @property
    def reason(self) -> str | None:
        """The most telling reason of all that is owed, None where nothing is."""
        with self._lock:
            return _first(self._before, self._since)

    def owe(self, reason: str) -> None:
        """Mail may have arrived by now."""
        with self._lock:
            self._since = _first(self._since, reason)

    def begin(self) -> str:
        """A scan request begins now; the reason that it gives."""
        with self._lock:
            self._before, self._since = _first(self._before, self._since), None
            return self._before or CATCH_UP

    def settle(self) -> None:
        """The request that began last succeeded: settles all but what arose since."""
        with self._lock:
            self._before = None


def _first(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=REASONS.index)
