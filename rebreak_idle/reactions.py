"""How soon mail is dealt with, and what is owed meanwhile; in fixed memory."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

# Each bucket ends 5 % above the one before, so that its middle is within 2.5 % of what is in it:
# from a millisecond to a day.
SHORTEST_SECONDS = 0.001
GROWTH = 1.05
BUCKETS = math.ceil(math.log(86_400 / SHORTEST_SECONDS, GROWTH)) + 1
# How a scan request ends: with a 2xx, with another answer, with a backend that is away, or without
# an answer.
DONE, REFUSED, UNAVAILABLE, FAILED = RESULTS = ("done", "refused", "unavailable", "failed")
# Upper ends, in seconds, for who adds up over hours and days.
COARSE_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 21_600)


class Histogram:
    """Durations, of which the median is known to within 2.5 %."""

    def __init__(self) -> None:
        self.count = 0
        self.slowest = 0.0
        self._counts = [0] * BUCKETS

    def add(self, seconds: float) -> None:
        bucket = math.ceil(math.log(max(seconds, SHORTEST_SECONDS) / SHORTEST_SECONDS, GROWTH))
        self._counts[min(bucket, BUCKETS - 1)] += 1
        self.count += 1
        self.slowest = max(self.slowest, seconds)

    @property
    def median(self) -> float:
        """The middle one, or the mean of the two in the middle; 0 where there is none."""
        if not self.count:
            return 0.0
        return (self._at((self.count - 1) // 2) + self._at(self.count // 2)) / 2

    def _at(self, rank: int) -> float:
        passed = 0
        for bucket, count in enumerate(self._counts):
            passed += count
            if passed > rank:
                middle: float = SHORTEST_SECONDS * GROWTH ** (bucket - 0.5)
                return min(self.slowest, middle)
        raise AssertionError("the rank is below the count")


class Period(NamedTuple):
    """What happened since the last one was taken; times in seconds."""

    seconds: float
    scans: int
    median: float
    slowest: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What happened since the program began."""

    results: dict[str, int]
    """How many scan requests ended in which way."""
    reactions: list[int]
    """How many took so long: one number for each of `COARSE_SECONDS`, and those above."""
    reaction_seconds: float


class Reactions:
    """Counts scans and what is owed. Any thread. ``clock`` is `time.monotonic`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._owed: dict[Hashable, float] = {}
        self._began_at = clock()
        self._period = Histogram()
        self._scans = 0
        self._results: Counter[str] = Counter()
        self._coarse = [0] * (len(COARSE_SECONDS) + 1)
        self._sum = 0.0

    def owes(self, mailbox: Hashable, since: Callable[[], float | None]) -> None:
        """What this mailbox owes has changed; ``since`` says since when it owes, by the clock.

        It is asked with the lock held, so that of two calls at once the later one has the truth.
        """
        with self._lock:
            if (moment := since()) is None:
                self._owed.pop(mailbox, None)
            else:
                self._owed[mailbox] = moment

    def ended(self, result: str) -> None:
        """A scan request ended in this way, and settled nothing."""
        with self._lock:
            self._results[result] += 1

    def succeeded(self, heard_at: float | None) -> None:
        """One was answered 2xx; ``heard_at`` is when its mail was heard of, None for no mail."""
        with self._lock:
            self._results[DONE] += 1
            self._scans += 1
            if heard_at is not None:
                seconds = self._clock() - heard_at
                self._period.add(seconds)
                self._coarse[bisect_left(COARSE_SECONDS, seconds)] += 1
                self._sum += seconds

    @property
    def scans_owed(self) -> int:
        """How many mailboxes are owed a scan."""
        return len(self._owed)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest scan has been owed, 0 where none is."""
        with self._lock:
            oldest = min(self._owed.values(), default=None)
        return 0.0 if oldest is None else self._clock() - oldest

    @property
    def totals(self) -> Totals:
        with self._lock:
            return Totals(dict(self._results), self._coarse.copy(), self._sum)

    @property
    def period_seconds(self) -> float:
        """For how long the period has lasted that is taken next."""
        return self._clock() - self._began_at

    def take_period(self) -> Period:
        """What happened since this was called last; a new period begins."""
        with self._lock:
            now, found, scans = self._clock(), self._period, self._scans
            self._period, self._scans = Histogram(), 0
            began_at, self._began_at = self._began_at, now
        return Period(now - began_at, scans, found.median, found.slowest)
