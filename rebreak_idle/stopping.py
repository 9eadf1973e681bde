"""The orderly stop of the workers: ask all, then wait for all against one deadline."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Protocol

from .log import database_logger as logger
from .worker import IdleWorker

# Counted from the signal: scans under way may end until the first, sessions may log out until the
# second, then they are aborted; the rest of the contract's 10 s is for the interpreter to end.
SCANS_END_SECONDS = 3.0
SESSIONS_END_SECONDS = 7.0
STOP_SECONDS = 8.0


class Scans(Protocol):
    """What is used of the scan requests."""

    def stop(self) -> None:
        """No request begins from now on."""

    def wait_for_end(self, seconds: float) -> None:
        """Wait for those under way, then abort them."""


def stop_workers(workers: Collection[IdleWorker], scans: Scans, asked_at: float) -> list[str]:
    """Stop them all, as of `time.monotonic` at ``asked_at``; the names of those that would not."""
    logger.info("stopping — logging out of %d sessions", len(workers))
    for worker in workers:
        worker.ask_to_stop()
    scans.stop()
    alive = _join(workers, asked_at + SESSIONS_END_SECONDS)
    scans.wait_for_end(asked_at + SCANS_END_SECONDS - time.monotonic())
    for worker in alive:
        worker.abort()
    return [worker.mailbox.name for worker in _join(alive, asked_at + STOP_SECONDS)]


def _join(workers: Collection[IdleWorker], deadline: float) -> list[IdleWorker]:
    """Wait for all; those that still run."""
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    return [worker for worker in workers if worker.is_alive()]
