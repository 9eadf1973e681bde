"""Whether a mailbox is owed a scan, since when, and what settles it.

A scan is owed from the moment mail may have arrived that no successful scan covers. Only the
success of a request that began afterwards settles it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

# The `reason` of a scan request, the most telling first: of several the first is named.
EXISTS = "exists"
POLL = "poll"
CATCH_UP = "catch-up"
REASONS = (EXISTS, POLL, CATCH_UP)
# Those by which mail was heard of; otherwise it may have come.
HEARD = (EXISTS, POLL)


class Owed(NamedTuple):
    """What is owed; times by the clock, in seconds."""

    reason: str
    since: float
    heard_at: float | None
    """When mail was first heard of, None where it only may have come."""


class PendingScan:
    """What one mailbox is owed: before the request under way began, and since. Any thread."""

    __slots__ = ("_before", "_clock", "_lock", "_since")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._before: Owed | None = None
        self._since: Owed | None = None

    @property
    def owed(self) -> bool:
        with self._lock:
            return self._since is not None or self._before is not None

    @property
    def reason(self) -> str | None:
        """The most telling reason of all that is owed, None where nothing is."""
        owed = self._all()
        return owed and owed.reason

    @property
    def since(self) -> float | None:
        """Since when something is owed, by the clock; None where nothing is."""
        owed = self._all()
        return owed and owed.since

    def _all(self) -> Owed | None:
        with self._lock:
            return _merged(self._before, self._since)

    def owe(self, reason: str) -> None:
        """Mail may have arrived by now."""
        now = self._clock()
        owed = Owed(reason, now, now if reason in HEARD else None)
        with self._lock:
            self._since = _merged(self._since, owed)

    def begin(self) -> str:
        """A scan request begins now; the reason that it gives."""
        with self._lock:
            self._before, self._since = _merged(self._before, self._since), None
            return self._before.reason if self._before else CATCH_UP

    def settle(self) -> Owed | None:
        """The request that began last succeeded: settles all but what arose since; what it was."""
        with self._lock:
            settled, self._before = self._before, None
            return settled


def _merged(one: Owed | None, other: Owed | None) -> Owed | None:
    if one is None or other is None:
        return one or other
    reason = min(one.reason, other.reason, key=REASONS.index)
    heard = [at for at in (one.heard_at, other.heard_at) if at is not None]
    return Owed(reason, min(one.since, other.since), min(heard, default=None))
