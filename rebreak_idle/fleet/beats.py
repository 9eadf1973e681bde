"""When this instance beats, and whether it has seen the others without a break."""

from __future__ import annotations

from collections.abc import Callable, Iterable

# A third of the silence after which an instance counts as dead, so that two beats may be lost.
BEATS_IN_A_SILENCE = 3
# After so many beats that were missed, whatever the reason, nothing is known of the others.
GAP_BEATS = 2
BEAT_JITTER = 0.1
# A beat that failed is tried again so much sooner: when the database is back after an outage that
# was too short for the others to begin anew, this instance must be heard before they condemn it.
RETRIES_IN_A_BEAT = 4


class Beats:
    """Times are those of ``clock``; ``random`` is `random.random`."""

    def __init__(
        self, silence_seconds: float, clock: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self.beat_seconds = silence_seconds / BEATS_IN_A_SILENCE
        self.gap_seconds = GAP_BEATS * self.beat_seconds
        self._clock = clock
        self._random = random
        self.begin(clock())

    def begin(self, asked_at: float) -> None:
        """The first beat was made, at ``asked_at``."""
        self.is_under_way = False
        self._due_at = self._beaten_at = self._turned_at = self._able_since = self._clock()
        self._rows_at = asked_at

    @property
    def wait_seconds(self) -> float:
        """How long the supervisor may wait before it asks `is_due` again."""
        wait = self.beat_seconds if self.is_under_way else self._due_at - self._clock()
        return max(0.0, min(wait, self.beat_seconds))

    @property
    def able_seconds(self) -> float:
        """For how long this process has neither stood still nor watched nothing at all."""
        return self._clock() - self._able_since

    def watches(self, number: int) -> None:
        """So many mailboxes are watched here."""
        if not number:
            self._able_since = self._clock()

    @property
    def are_rows_fresh(self) -> bool:
        """Whether the rows were read lately, not before an outage or a standstill."""
        return self._clock() - self._rows_at <= self.gap_seconds

    def is_due(self) -> bool:
        return not self.is_under_way and self._clock() >= self._due_at

    def stood_still(self) -> float | None:
        """For how long the process stood still, if it did since the last call."""
        now = self._clock()
        still_seconds, self._turned_at = now - self._turned_at, now
        if still_seconds <= self.gap_seconds:
            return None
        self._able_since = now
        return still_seconds

    def failed(self) -> None:
        self.is_under_way = False
        self._due_at = self._clock() + self._jittered(self.beat_seconds / RETRIES_IN_A_BEAT)

    def succeeded(self, asked_at: float) -> bool:
        """A beat that began at ``asked_at``; whether too many failed before it."""
        now = self._clock()
        self.is_under_way = False
        was_gap = now - self._beaten_at > self.gap_seconds
        self._beaten_at, self._rows_at = now, asked_at
        return was_gap

    def plan(self, at: Iterable[float] = ()) -> None:
        """The next beat comes in its time, or at the first of these moments."""
        self._due_at = min((self._clock() + self._jittered(self.beat_seconds), *at))

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + BEAT_JITTER * (2 * self._random() - 1))
