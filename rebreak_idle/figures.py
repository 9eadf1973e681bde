"""The line of figures that goes with the refresh: how soon mail was dealt with."""

from __future__ import annotations

from .limits import interval_text
from .log import database_logger as logger
from .reactions import Reactions
from .roster import Roster
from .status import State

# So old may a scan that is owed become before a line says so.
OLD_SECONDS = 60.0
# A reading takes its time, and is no reason to call five minutes otherwise.
EARLIER, LATER = 0.9, 1.2


class Figures:
    """Logs the figures of each interval."""

    def __init__(self, reactions: Reactions, roster: Roster, interval_seconds: float) -> None:
        self._reactions = reactions
        self._roster = roster
        self._interval = interval_seconds

    def refreshed(self) -> None:
        """The rows were read: the interval may be over. Refreshes in between say nothing."""
        if self._reactions.period_seconds < EARLIER * self._interval:
            return
        period, parked = self._reactions.take_period(), self._roster.states()[State.PARKED]
        logger.info(
            "last %s — %d scans, reaction median %s, slowest %s; %d scans owed; %d parked",
            self._length(period.seconds),
            period.scans,
            _text(period.median),
            _text(period.slowest),
            self._reactions.scans_owed,
            parked,
        )
        if (oldest := self._reactions.oldest_seconds) >= OLD_SECONDS:
            logger.warning("the oldest scan owed has waited for %s", _length(oldest))

    def _length(self, seconds: float) -> str:
        if seconds < LATER * self._interval:
            return interval_text(self._interval)
        return _length(seconds)


def _length(seconds: float) -> str:
    """Minutes from two on, else seconds."""
    return interval_text(round(seconds / 60) * 60 if seconds >= 120 else round(seconds))


def _text(seconds: float) -> str:
    """Three digits, which is more than the 2.5 % of the histogram: ``0.2s``, ``1.43s``."""
    if seconds >= 1000:
        return f"{seconds:.0f}s"
    return f"{round(seconds, 3):.3g}s"
