"""How this instance's own share is doing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..status import State, Status

# A mailbox that works nowhere must not hold up the others for ever.
TRIED_SECONDS = 300.0


class Census(NamedTuple):
    """The mailboxes of this instance."""

    watched: int
    is_settled: bool
    """Whether each is watched, or parked because its server refused it, or has been tried for
    long enough. An instance none of whose mailboxes works never settles: it may be its own fault
    (a wrong key, a network that leads nowhere, an address that the servers refuse), and others
    have sessions that it would cost."""


def take_census(
    share: Iterable[Status | None], epoch: int, now: float, able_seconds: float
) -> Census:
    """Count the mailboxes of a share; None stands for one that has no thread yet.

    A session counts as watched once it was answered in this ``epoch``: see `proof.Proof`. What
    failed while the process stood still, or while nothing worked, says nothing of the mailbox: it
    is tried again soon. So only the last ``able_seconds`` count.
    """
    watched = refused = tried = others = 0
    for status in share:
        if status is None:
            others += 1
        elif status.unwatched_since is None:
            watched += status.epoch == epoch
            others += status.epoch != epoch
        elif _is_refused(status):
            refused += 1
        elif min(now - status.unwatched_since, able_seconds) >= TRIED_SECONDS:
            tried += 1
        else:
            others += 1
    return Census(watched, others == 0 and (watched > 0 or refused + tried == 0))


def _is_refused(status: Status) -> bool:
    """Whether its server refused the login, and would refuse it to anybody."""
    return status.state is State.PARKED and status.ended_by is not None and status.ended_by.refused
