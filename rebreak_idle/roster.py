"""The workers by their mailboxes, for those who look at all of them from other threads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from .mailbox import Mailbox
from .status import WATCHED, State, Status

# A look at so many workers' status takes two milliseconds; then others get a turn.
PORTION = 500
# Not watched for so long is told.
UNWATCHED_SECONDS = 15 * 60.0


class Worker(Protocol):
    """What is used of `worker.IdleWorker`."""

    mailbox: Mailbox

    @property
    def state(self) -> State: ...
    def status(self) -> Status: ...


class Roster:
    """The newest worker of each mailbox: one that ended stays until there is another, or its row
    is gone. Written on the supervisor's thread, read by any.
    """

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def add(self, worker: Worker) -> None:
        """It is about to be started."""
        self._workers[worker.mailbox.id] = worker

    def keep_only(self, mailboxes: Iterable[Mailbox]) -> None:
        """These are the mailboxes of this process; those that have no worker get one soon."""
        ids = {mailbox.id for mailbox in mailboxes}
        for id_ in self._workers.keys() - ids:
            del self._workers[id_]

    def workers(self) -> list[Worker]:
        return list(self._workers.values())

    def states(self) -> Counter[State]:
        """How many mailboxes are in which state."""
        return Counter([worker.state for worker in self.workers()])

    def count_unwatched(self) -> int:
        """How many have not been watched for 15 minutes and are not parked."""
        now = time.monotonic()
        return sum(
            status.state is not State.PARKED
            and status.unwatched_since is not None
            and now - status.unwatched_since >= UNWATCHED_SECONDS
            for _, status in self.troubled()
        )

    def troubled(self) -> Iterator[tuple[Worker, Status]]:
        """Those that are not watched, with time for other threads in between."""
        unwatched = [worker for worker in self.workers() if worker.state not in WATCHED]
        for number, worker in enumerate(unwatched):
            if number % PORTION == PORTION - 1:
                time.sleep(0.001)
            yield worker, worker.status()
