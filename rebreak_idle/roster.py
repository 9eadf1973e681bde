"""The workers by their mailboxes, for those who look at all of them from other threads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from .mailbox import Mailbox
from .portions import in_portions
from .status import WATCHED, State, Status

# Looking at so many takes three milliseconds, ten where all of them are in trouble.
LOOK_PORTION = 2000
# Not watched for so long is told.
UNWATCHED_SECONDS = 15 * 60.0


class Worker(Protocol):
    """What is used of `worker.IdleWorker`."""

    mailbox: Mailbox

    @property
    def state(self) -> State: ...
    def status(self) -> Status: ...
    def is_stopping(self) -> bool: ...


class Roster:
    """The newest worker of each mailbox: one that died stays until there is another, or its mailbox
    is not this process's any more. Any thread.
    """

    def __init__(self) -> None:
        self.ids: set[str] = set()
        """The mailboxes that this process watches, or tries to."""
        self._workers: dict[str, Worker] = {}

    def add(self, worker: Worker) -> None:
        """It is about to be started."""
        self._workers[worker.mailbox.id] = worker

    def ended(self, worker: Worker) -> None:
        """Its thread is about to end; where it was asked to, another follows, or none."""
        if worker.is_stopping() and self._workers.get(worker.mailbox.id) is worker:
            del self._workers[worker.mailbox.id]

    def keep_only(self, mailboxes: Iterable[Mailbox]) -> None:
        """These are the mailboxes of this process."""
        self.ids = {mailbox.id for mailbox in mailboxes}
        for id_ in self._workers.keys() - self.ids:
            self._workers.pop(id_, None)

    def workers(self) -> list[Worker]:
        return list(self._workers.values())

    def states(self) -> Counter[State]:
        """How many mailboxes are in which state."""
        return Counter(worker.state for worker in in_portions(self.workers(), LOOK_PORTION))

    def census(self) -> tuple[Counter[State], int]:
        """That, and how many have not been watched for 15 minutes and are not parked."""
        states: Counter[State] = Counter()
        unwatched, until = 0, time.monotonic() - UNWATCHED_SECONDS
        for worker in in_portions(self.workers(), LOOK_PORTION):
            state = worker.state
            states[state] += 1
            if state in WATCHED or state is State.PARKED:
                continue
            since = worker.status().unwatched_since
            unwatched += since is not None and since <= until
        return states, unwatched
