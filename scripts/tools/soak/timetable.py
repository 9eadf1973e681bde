"""What happens when."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable


class Timetable:
    """What happens in one phase, and when. All of it happens on the thread that calls `run`."""

    def __init__(self, rng: random.Random, wait: Callable[[float], None]) -> None:
        self._rng = rng
        self._wait = wait
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._owed: list[Callable[[], None]] = []

    def every(self, seconds: float, action: Callable[[], object]) -> None:
        """Do this again and again, at random moments, so many seconds apart on average."""

        def again() -> None:
            self._enter(self._rng.expovariate(1 / seconds), again)
            action()

        self._enter(self._rng.expovariate(1 / seconds), again)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do this once; when the phase ends before, at its end."""

        def once() -> None:
            self._owed.remove(once)
            action()

        self._owed.append(once)
        self._enter(seconds, once)

    def run(self, seconds: float) -> None:
        """Do what is due, for so long; then what was to be done once."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if self._entries and self._entries[0][0] <= now:
                heapq.heappop(self._entries)[2]()
            else:
                self._wait(min([end, *(entry[0] for entry in self._entries[:1])]) - now)
        while self._owed:
            self._owed[0]()

    def _enter(self, seconds: float, action: Callable[[], None]) -> None:
        entry = (time.monotonic() + seconds, next(self._order), action)
        heapq.heappush(self._entries, entry)
