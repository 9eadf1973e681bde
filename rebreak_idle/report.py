"""What SIGUSR1 prints: every mailbox that is not simply idle, a count, and stuck threads."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Iterable

from .backoff import seconds_text
from .log import Logger, sanitize
from .log import database_logger as logger
from .worker import IdleWorker, State, Status

NO_PROGRESS_SECONDS = 60.0


def report(workers: Iterable[IdleWorker]) -> None:
    """Log how all the workers are doing. Any thread may call."""
    states: Counter[State] = Counter()
    for worker in workers:
        status = worker.status()
        states[status.state] += 1
        mailbox_logger = Logger(worker.mailbox.name)
        if status.state is not State.IDLING or status.owes:
            mailbox_logger.info("%s", _described(status))
        if status.late_seconds > NO_PROGRESS_SECONDS:
            _log_stack(worker, mailbox_logger, status.late_seconds)
    counts = ", ".join(f"{count} {state.value}" for state, count in sorted_by_name(states))
    logger.info("states — %s", counts or "no mailboxes")


def sorted_by_name(states: Counter[State]) -> list[tuple[State, int]]:
    return sorted(states.items(), key=lambda item: item[0].value)


def _described(status: Status) -> str:
    parts = [f"{status.state.value} for {seconds_text(round(status.for_seconds))}"]
    if status.owes:
        parts.append("a scan is owed")
    if status.next_try_seconds is not None:
        parts.append(f"next try in {seconds_text(round(status.next_try_seconds))}")
    if status.trouble:
        parts.append(f"last trouble: {sanitize(status.trouble)}")
    return ", ".join(parts)


def _log_stack(worker: IdleWorker, mailbox_logger: Logger, late_seconds: float) -> None:
    mailbox_logger.warning("no progress for %s; its thread is at:", seconds_text(late_seconds))
    frame = sys._current_frames().get(worker.ident or 0)
    for entry in traceback.format_stack(frame) if frame else []:
        for line in entry.splitlines():
            mailbox_logger.warning("%s", line)
