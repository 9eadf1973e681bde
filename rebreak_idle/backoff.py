"""The waits between attempts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# The share of a wait that jitter may take away, so that many mailboxes do not return in step.
JITTER = 0.2


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
