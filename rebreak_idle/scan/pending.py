"""Whether a mailbox owes a scan, since when, and what pays it.

A scan is owed from the moment mail may have arrived that no successful scan covers. Only the
success of a request that began afterwards pays it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

# The `reason` of a scan request, the most telling first: of several debts the first is named.
EXISTS = "exists"
POLL = "poll"
CATCH_UP = "catch-up"
REASONS = (EXISTS, POLL, CATCH_UP)


@dataclass(slots=True)
class PendingScan:
    """What one mailbox owes: before the request under way began, and since."""

    _before: str | None = None
    _since: str | None = None

    @property
    def owed(self) -> bool:
        return self._since is not None or self._before is not None

    @property
    def reason(self) -> str | None:
        """The most telling reason of all that is owed, None where nothing is."""
        return _first(self._before, self._since)

    def owe(self, reason: str) -> None:
        """Mail may have arrived by now."""
        self._since = _first(self._since, reason)

    def begin(self) -> str:
        """A scan request begins now; the reason that it gives."""
        self._before, self._since = self.reason, None
        return self._before or CATCH_UP

    def pay(self) -> None:
        """The request that began last succeeded: pays all but what arose since."""
        self._before = None


def _first(one: str | None, other: str | None) -> str | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=REASONS.index)
