"""Who is alive.

Nothing here reads a clock: times are handed in, seconds of this machine's monotonic clock. No two
machines' clocks are ever compared, and no wall clock is read, for clocks differ and jump: that an
instance's counter grows is all that counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .instance import Instance


@dataclass(slots=True)
class _Sighting:
    """The newest row of another instance, and since when it has stood so."""

    row: Instance
    since: float


class Observation:
    """Who is alive, by what was seen of the counters without a break."""

    def __init__(self, name: str, silence_seconds: float) -> None:
        self._name = name
        self._silence_seconds = silence_seconds
        self._seen: dict[str, _Sighting] = {}
        self._asked_at = -math.inf

    def begin_anew(self) -> None:
        """The time until now counts against nobody.

        While nothing was read, or while this process stood still, the others may have beaten.
        """
        self._seen.clear()

    def saw(self, rows: Iterable[Instance], asked_at: float, now: float) -> None:
        """These rows stood in the table at some moment between ``asked_at`` and ``now``.

        A row that is new, or whose counter moved, is alive from ``now`` on.
        """
        seen: dict[str, _Sighting] = {}
        for row in rows:
            if row.name != self._name and not row.leaving:
                before = self._seen.get(row.name)
                stands = before is not None and _pulse(before.row) == _pulse(row)
                seen[row.name] = _Sighting(row, before.since if before and stands else now)
        self._seen = seen
        self._asked_at = asked_at

    def silent(self) -> list[Instance]:
        """Those whose counters stood still for too long, by name: all delete them in one order."""
        latest = self._asked_at - self._silence_seconds
        found = [each.row for each in self._seen.values() if each.since <= latest]
        return sorted(found, key=lambda row: row.name)

    def silent_seconds(self, name: str, now: float) -> float:
        """For how long the counter of one that is there has stood still."""
        return now - self._seen[name].since

    def silences_at(self) -> list[float]:
        """When each of them will have been silent for too long, if it stays so."""
        return [each.since + self._silence_seconds for each in self._seen.values()]

    def others(self) -> dict[str, Instance]:
        """The rows of the others that are there, by name."""
        return {name: each.row for name, each in self._seen.items()}


def _pulse(row: Instance) -> tuple[str, int]:
    return row.incarnation, row.beat
