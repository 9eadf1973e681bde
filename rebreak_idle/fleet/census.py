"""How this instance's own share is doing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

# A mailbox that works nowhere must not hold up the others for ever.
TRIED_SECONDS = 300.0


class Watching(Protocol):
    """What is asked of a mailbox's status: see `status.Status`."""

    @property
    def is_watched(self) -> bool: ...
    @property
    def is_refused(self) -> bool: ...
    @property
    def unwatched_seconds(self) -> float: ...


class Census(NamedTuple):
    """The mailboxes of this instance."""

    watched: int
    is_settled: bool
    """Whether each is watched, or parked because its server refused it, or has been tried for
    long enough. An instance none of whose mailboxes works never settles: it may be its own fault
    (a wrong key, a network that leads nowhere), and others have sessions that it would cost."""


def take_census(share: Iterable[Watching | None]) -> Census:
    """Count the mailboxes of a share; None stands for one that has no thread yet."""
    watched = refused = tried = others = 0
    for each in share:
        if each is None:
            others += 1
        elif each.is_watched:
            watched += 1
        elif each.is_refused:
            refused += 1
        elif each.unwatched_seconds >= TRIED_SECONDS:
            tried += 1
        else:
            others += 1
    return Census(watched, others == 0 and (watched > 0 or tried == 0))
