"""What a session must prove after the process stood still."""

from __future__ import annotations

import math
from dataclasses import dataclass

# An epoch that there never is: the session must be answered before it counts.
UNPROVEN = -1


@dataclass(slots=True)
class Proof:
    """Written by the supervisor, read by the mailboxes' threads.

    A process that was stopped, or whose machine slept, may hold connections that are long dead.
    Where other instances rely on what it says it watches, each session must be answered anew.
    """

    epoch: int = 0
    """Grows each time that the process stood still."""
    look_up_seconds: float = math.inf
    """How often a session in IDLE looks whether it must prove itself."""
    gap_seconds: float = math.inf
    """A wait that takes so much longer than it should tells of the same."""
