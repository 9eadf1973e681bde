"""What a mailbox is doing, for whoever asks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from .log import Logger
from .proof import UNPROVEN

PROGRESS_SLACK_SECONDS = 60.0


class Who(StrEnum):
    """Without whom a trouble does not end."""

    USER = "user"
    """The mail server, or the backend, refuses the mailbox as the user has it."""
    OPERATOR = "operator"
    """The row, the stored password or a setting is wrong."""
    NOBODY = "nobody"
    """It is tried again."""


class Trouble(NamedTuple):
    """Why the last session of a mailbox ended, or did not come about."""

    text: str
    who: Who = Who.NOBODY
    refused: bool = False
    """Whether the mail server refused the login."""


class HasTrouble(Protocol):
    """What is used of `recovery.Recovery`."""

    ended_by: Trouble | None


class State(StrEnum):
    """What a mailbox is doing."""

    CONNECTING = "CONNECTING"
    IDLING = "IDLING"
    SCANNING = "SCANNING"
    POLLING = "POLLING"
    BACKING_OFF = "BACKING_OFF"
    PARKED = "PARKED"
    STOPPED = "STOPPED"


WATCHED = frozenset({State.IDLING, State.SCANNING, State.POLLING})


@dataclass(frozen=True, slots=True)
class Status:
    """How one mailbox is doing; times in seconds."""

    state: State
    for_seconds: float
    owes: bool
    next_try_seconds: float | None
    late_seconds: float
    """How long its thread's next step is overdue; negative when it is not."""
    trouble: str
    ended_by: Trouble | None = None
    """What ended its last session, None where none ended since the last login."""
    unwatched_since: float | None = None
    """Since when it has not been watched, by the monotonic clock; None while it is."""
    epoch: int = 0
    """The epoch in which its session was last answered: see `proof.Proof`."""


class Progress:
    """The state of one mailbox and its next step. Written by its thread, read by any."""

    def __init__(self, logger: Logger, clock: Callable[[], float]) -> None:
        self.state = State.CONNECTING
        self.unwatched_since: float | None = clock()
        self.epoch = 0
        self._logger = logger
        self._clock = clock
        self._since = clock()
        self._next_step_by = math.inf
        self._next_try_at = -math.inf
        self._aborted_at = -math.inf

    def change_state(self, state: State) -> None:
        """The only place where a state changes."""
        if state is not self.state:
            self._logger.debug("%s → %s", self.state, state)
            self.state, self._since = state, self._clock()
            if state in WATCHED:
                self.unwatched_since = None
            elif self.unwatched_since is None:
                self.unwatched_since = self._since

    def expect(self, seconds: float) -> None:
        """The next step comes within ``seconds``, if all is well."""
        self._next_step_by = self._clock() + seconds

    def expect_try(self, seconds: float) -> None:
        """The next connection attempt comes in ``seconds``."""
        self._next_try_at = self._clock() + seconds

    def aborted(self) -> None:
        """The thread was freed just now; it has time anew."""
        self._aborted_at = self._clock()

    def is_overdue(self) -> bool:
        """Whether the thread should long have made its next step, and was not freed just now."""
        since = max(self._next_step_by, self._aborted_at)
        return self._clock() > since + PROGRESS_SLACK_SECONDS

    def stood_still(self) -> None:
        """The session must be answered before it counts."""
        self.epoch = UNPROVEN

    def status(
        self,
        owes: bool,
        in_line: bool,
        next_scan_at: float,
        trouble: str,
        recovery: HasTrouble,
        hide: Callable[[str], str],
    ) -> Status:
        """How the mailbox is doing; what is read may be a moment old. ``hide`` takes secrets out of
        what is said.
        """
        now, state = self._clock(), self.state
        ended_by = recovery.ended_by  # which is set before the state
        if state is State.SCANNING and not in_line:
            state = State.IDLING  # as it will be in a moment
        tries = [at for at in (self._next_try_at, next_scan_at) if now < at < math.inf]
        return Status(
            state=state,
            for_seconds=now - self._since,
            owes=owes,
            next_try_seconds=max(tries) - now if tries else None,
            late_seconds=now - self._next_step_by,
            trouble=hide(trouble),
            ended_by=ended_by and ended_by._replace(text=hide(ended_by.text)),
            unwatched_since=self.unwatched_since,
            epoch=self.epoch,
        )
