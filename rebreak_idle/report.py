"""What SIGUSR1 prints: a count, every mailbox that is not simply idle, and stuck threads."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Sequence

from .limits import seconds_text
from .log import Logger, sanitize
from .log import database_logger as logger
from .status import State, Status
from .worker import IdleWorker

NO_PROGRESS_SECONDS = 60.0
# Nobody reads more, and the log's queue holds ten thousand lines.
MAX_MAILBOXES = 2000


def report(workers: Sequence[IdleWorker]) -> None:
    """Log how all the workers are doing. Any thread may call."""
    found = [(worker, worker.status()) for worker in workers]
    counts = Counter(status.state for _, status in found)
    by_name = sorted((state.value, count) for state, count in counts.items())
    text = ", ".join(f"{count} {state}" for state, count in by_name)
    logger.info("states — %s", text or "no mailboxes")
    remarkable = [(w, s) for w, s in found if s.state is not State.IDLING or s.owes or _is_late(s)]
    for worker, status in remarkable[:MAX_MAILBOXES]:
        _log_mailbox(worker, status)
    if len(remarkable) > MAX_MAILBOXES:
        logger.info("and %d mailboxes more that are not idle", len(remarkable) - MAX_MAILBOXES)


def _is_late(status: Status) -> bool:
    return status.late_seconds > NO_PROGRESS_SECONDS


def _log_mailbox(worker: IdleWorker, status: Status) -> None:
    mailbox_logger = Logger(worker.mailbox.name)
    mailbox_logger.info("%s", sanitize(_described(status)))
    if _is_late(status):
        late = seconds_text(status.late_seconds)
        mailbox_logger.warning("no progress for %s; its thread is at:", late)
        for line in _stack(worker.works_on or 0):
            mailbox_logger.warning("%s", line)


def _described(status: Status) -> str:
    parts = [f"{status.state.value} for {seconds_text(round(status.for_seconds))}"]
    if status.owes:
        parts.append("a scan is owed")
    if status.next_try_seconds is not None:
        parts.append(f"next try in {seconds_text(round(status.next_try_seconds))}")
    if status.trouble:
        parts.append(f"last trouble: {status.trouble}")
    return ", ".join(parts)


def _stack(thread: int) -> list[str]:
    frame = sys._current_frames().get(thread)
    entries = traceback.format_stack(frame) if frame else []
    return [line for entry in entries for line in entry.splitlines()]
