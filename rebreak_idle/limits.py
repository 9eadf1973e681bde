"""Kindness in general: waits that grow, a rate, slots in order of arrival, a circuit breaker."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# The share of a wait that jitter may take away, so that many mailboxes do not return in step.
JITTER = 0.2
# A session that held this long counts as having worked.
WORKED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from ``initial_seconds`` up to ``max_seconds``.

    ``random`` returns a float in [0, 1). The first ``exact`` waits have no jitter.
    """

    initial_seconds: float
    max_seconds: float
    random: Callable[[], float]
    exact: int = 1

    def wait_seconds(self, failures: int) -> float:
        """The wait after ``failures`` failures in a row (1 or more), never above the maximum.

        Jitter leaves whole seconds where it can, so that the log names the wait exactly.
        """
        doublings = min(failures - 1, 64)
        wait = min(self.initial_seconds * 2.0**doublings, self.max_seconds)
        if failures <= self.exact:
            return wait
        jittered = wait * (1 - JITTER * self.random())
        return min(wait, float(math.ceil(jittered))) if wait >= 1 else jittered


def seconds_text(seconds: float) -> str:
    """Seconds as the log shows them: ``5s``, ``2.5s``, ``0.3s``."""
    return f"{seconds:.1g}s" if seconds < 1 else f"{round(seconds, 1):.10g}s"


def interval_text(seconds: float) -> str:
    """An interval as the log shows it: whole minutes where it is that, else seconds."""
    if seconds % 60 == 0:
        return f"{int(seconds // 60)}min"
    return f"{seconds:.10g}s"


class TokenBucket:
    """A lasting rate with a burst of twice that many, in order of arrival. Any thread may call.

    ``clock`` returns seconds, as `time.monotonic`.
    """

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._capacity = max(1.0, 2 * per_second)
        self._counted_at = clock()

    def take(self) -> float:
        """Take the next token; returns after how many seconds it may be used."""
        with self._lock:
            now = self._clock()
            grown = self._tokens + (now - self._counted_at) * self._per_second
            self._tokens, self._counted_at = min(self._capacity, grown) - 1, now
            return max(0.0, -self._tokens / self._per_second)

    def absorb(self, other: TokenBucket) -> None:
        """What was taken of the other bucket counts as taken of this one."""
        with other._lock:
            missing = other._capacity - other._tokens
        with self._lock:
            self._tokens -= missing


class Slots:
    """At most ``size`` holders at once, in order of arrival. Any thread may call.

    A semaphore whose waiters are told by a callback, so that a thread can wait for its slot and
    for other things with one `threading.Event`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._lock = threading.Lock()
        self._waiting: deque[Slot] = deque()
        self._absorbed_by: Slots | None = None

    def request(self, wake: Callable[[], None]) -> Slot:
        """A slot, granted at once where one is free; ``wake`` is called when it is granted later.

        `Slot.release` gives it back, or gives up waiting for it.
        """
        slot = Slot(self, wake)
        with self._lock:
            absorbed_by = self._absorbed_by
            if absorbed_by is None and self._held < self._size and not self._waiting:
                self._held += 1
                slot.granted = True
            elif absorbed_by is None:
                self._waiting.append(slot)
        return slot if absorbed_by is None else absorbed_by.request(wake)

    def absorb(self, other: Slots) -> None:
        """Whoever holds a slot of the other ones, or waits for one, does so here from now on; all
        slots may be held meanwhile, and more. Called by one thread at a time.
        """
        with other._lock, self._lock:
            other._absorbed_by = self
            self._held += other._held
            self._waiting += other._waiting
            other._waiting.clear()

    def release(self, slot: Slot) -> None:
        """Called by the slot."""
        with self._lock:
            absorbed_by, following = self._absorbed_by, None
            if absorbed_by is None:
                following = self._release(slot)
        if absorbed_by is not None:
            absorbed_by.release(slot)
        if following is not None:
            following.wake()

    def _release(self, slot: Slot) -> Slot | None:
        """Take the slot back; who gets it now, if anybody."""
        if not slot.granted:
            self._waiting.remove(slot)
            return None
        if not self._waiting or self._held > self._size:
            self._held -= 1
            return None
        following = self._waiting.popleft()
        following.granted = True
        return following


class Slot:
    """One holder's place, or its wait for one."""

    __slots__ = ("_slots", "granted", "wake")

    def __init__(self, slots: Slots, wake: Callable[[], None]) -> None:
        self.granted = False
        self.wake = wake
        self._slots = slots

    def release(self) -> None:
        """Give the slot to the next in line. To be called once."""
        self._slots.release(self)


class CircuitBreaker:
    """Whether something that many depend on is away, and when it is to be probed. Any thread.

    It opens after failures of ``threshold`` different callers in a row; from then on one at a time
    probes, with a back-off of its own, and the first success closes it.
    """

    def __init__(self, threshold: int, backoff: Backoff, clock: Callable[[], float]) -> None:
        self._threshold = threshold
        self._backoff = backoff
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: set[str] = set()
        self._failures = 0
        self._probe_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures > 0

    @property
    def probe_in_seconds(self) -> float:
        """When the next probe is due; 0 or less when it is."""
        return self._probe_at - self._clock()

    def record_success(self) -> bool:
        """It answered; returns whether that closes the breaker."""
        with self._lock:
            was_open = self.is_open
            self._failed.clear()
            self._failures = 0
        return was_open

    def record_failure(
        self, caller: str, probe: bool = False, wait_seconds: float | None = None
    ) -> bool:
        """``caller`` could not reach it; returns whether that opens the breaker.

        While it is open only a probe tells anything new. The next probe is due after the back-off,
        or after ``wait_seconds``.
        """
        with self._lock:
            if self.is_open and not probe:
                return False
            self._failed.add(caller)
            if not self.is_open and len(self._failed) < self._threshold:
                return False
            self._failures += 1
            if wait_seconds is None:
                wait_seconds = self._backoff.wait_seconds(self._failures)
            self._probe_at = self._clock() + wait_seconds
            return self._failures == 1
