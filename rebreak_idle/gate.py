"""The way to something that many mailboxes depend on, and that may be away for all of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

from .limits import Backoff, CircuitBreaker, Slot, Slots, seconds_text
from .log import host_logger as logger
from .log import sanitize

FAILURES_THAT_MEAN_DOWN = 5
# How often whoever is to probe looks whether that is still so.
LOOK_AGAIN_SECONDS = 1.0


class Gate:
    """Lets ``size`` mailboxes through at once. Any thread may call.

    After five different mailboxes in a row could not connect it counts as down: from then on one
    mailbox at a time probes, with a back-off of the gate's, and the others wait in line without
    attempts of their own. The first success lets them return.
    """

    def __init__(
        self,
        backoff: Backoff,
        clock: Callable[[], float],
        size: int = sys.maxsize,
        failures_that_mean_down: int = FAILURES_THAT_MEAN_DOWN,
    ) -> None:
        self._slots = Slots(size)
        self._probes = Slots(1)
        self._breaker = CircuitBreaker(failures_that_mean_down, backoff, clock)

    @property
    def shown(self) -> str:
        """What the log calls it."""
        raise NotImplementedError

    @property
    def is_down(self) -> bool:
        return self._breaker.is_open

    def line_for(self, mailbox_id: str) -> Slots:
        """The line in which a mailbox has to wait now."""
        return self._probes if self.is_down else self._slots

    def due_in_seconds(self, line: Slots) -> float:
        """When the first in that line may go; 0 or less when it may."""
        return self._breaker.probe_in_seconds if line is self._probes else 0.0

    def record_success(self) -> None:
        """A mailbox was connected, whatever became of its login."""
        if self._breaker.record_success():
            logger.info("%s answers again: its mailboxes return", sanitize(self.shown))

    def record_failure(self, mailbox_id: str, why: str, line: Slots) -> None:
        """A mailbox could not connect; while it is down only a probe tells anything new."""
        if self._breaker.record_failure(mailbox_id, line is self._probes):
            logger.warning(
                "%s is down: %d mailboxes in a row could not connect (%s); one tries again in %s, "
                "the others wait for it",
                sanitize(self.shown),
                FAILURES_THAT_MEAN_DOWN,
                sanitize(why),
                seconds_text(round(self._breaker.probe_in_seconds, 1)),
            )


class Turn:
    """A mailbox's wait at a gate, and its passage. Used by one thread.

    ``wake`` is called when its slot is granted.
    """

    def __init__(self, gate: Gate, mailbox_id: str, wake: Callable[[], None]) -> None:
        self.gate = gate
        self._mailbox_id = mailbox_id
        self._wake = wake
        self._slot: Slot | None = None
        self.line = self._enter()

    def wait_seconds(self) -> float:
        """0 when it has come, else how long to wait at most before asking again."""
        while self._slot is not None and self._slot.granted:
            if self.line is self.gate.line_for(self._mailbox_id):
                return min(max(0.0, self.gate.due_in_seconds(self.line)), LOOK_AGAIN_SECONDS)
            self._slot.release()
            self.line = self._enter()
        return math.inf

    def end(self) -> None:
        """Let the next one go."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _enter(self) -> Slots:
        line = self.gate.line_for(self._mailbox_id)
        self._slot = line.request(self._wake)
        return line
