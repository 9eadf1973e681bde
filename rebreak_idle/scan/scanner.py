"""Paying what one mailbox owes: the scan request, its place in the line, its retries."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Protocol

from ..backoff import Backoff, seconds_text
from ..errors import ScanFailed
from ..gate import Gate, Ticket
from ..log import Logger, RepeatFilter, sanitize
from ..mailbox import Mailbox
from ..wake import Stop
from .client import ScanResult
from .pending import PendingScan

SCAN_RETRY_INITIAL_SECONDS = 1.0
SCAN_RETRY_MAX_SECONDS = 60.0
# A backend that asks for more patience than this is asked again all the same.
RETRY_AFTER_MAX_SECONDS = 3600.0


class BackendLike(Protocol):
    """What is used of the backend: see `backend.Backend`."""

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult: ...


class Scanner:
    """Sends the scans of one mailbox, one at a time. Used by one thread, but for `wake`.

    ``clock`` is `time.monotonic`; ``scanning`` is told when a request begins and ends.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        debt: PendingScan,
        backend: BackendLike,
        gate: Gate,
        logger: Logger,
        clock: Callable[[], float],
        stop: Stop,
        scanning: Callable[[bool], None],
    ) -> None:
        self.debt = debt
        self._mailbox = mailbox
        self._backend = backend
        self._gate = gate
        self._logger = logger
        self._clock = clock
        self._stop = stop
        self._scanning = scanning
        self._retries = Backoff(SCAN_RETRY_INITIAL_SECONDS, SCAN_RETRY_MAX_SECONDS, random.random)
        self.troubles = RepeatFilter(clock)
        self._failures = 0
        self._not_before = 0.0
        self._ticket: Ticket | None = None

    def owe(self, reason: str) -> None:
        """Mail may have arrived."""
        self.debt.owe(reason)

    def next_try(self, until: float) -> float:
        """When `pay` has something to do, ``until`` at the latest."""
        return min(until, self._not_before) if self.debt.owed else until

    @property
    def not_before(self) -> float:
        """When the scan that is owed may be tried again."""
        return self._not_before if self.debt.owed else -math.inf

    def pay(self, until: float) -> None:
        """Send the request that is owed, if it is due and a place is free before ``until``.

        Raises:
            Interrupted: the stop came before the request began.
        """
        if not self.debt.owed or self._clock() < self._not_before:
            return
        if (ticket := self._ticket) is None:
            self._ticket = ticket = self._gate.queue()
        if not ticket.granted:
            self._stop.check()
            ticket.wait(until - self._clock())
        if ticket.granted:
            try:
                self._stop.check()
                self._scan()
            finally:
                self.leave_line()

    def leave_line(self) -> None:
        """Give up the place at the gate, or in its line."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.leave()

    def wake(self) -> None:
        """End a wait for a place. Any thread may call."""
        if (ticket := self._ticket) is not None:
            ticket.wake()

    def _scan(self) -> None:
        reason = self.debt.begin()
        self._scanning(True)
        try:
            result = self._backend.scan(self._mailbox, reason)
        except ScanFailed as error:
            self._failed(error)
        else:
            self._succeeded(result)
        finally:
            self._scanning(False)

    def _succeeded(self, result: ScanResult) -> None:
        self.debt.pay()
        self._failures, self._not_before = 0, 0.0
        self.troubles.forget()
        scanned, blocked = result.scanned, result.blocked
        self._logger.info(
            "scan-triggered → scanned=%s blocked=%s",
            "?" if scanned is None else scanned,
            "?" if blocked is None else blocked,
        )
        if result.remark:
            self._logger.warning("%s", result.remark)

    def _failed(self, error: ScanFailed) -> None:
        self._failures += 1
        wait = self._retries.wait_seconds(self._failures)
        if error.retry_after_seconds is not None:
            wait = min(max(wait, error.retry_after_seconds), RETRY_AFTER_MAX_SECONDS)
        self._not_before = self._clock() + wait
        if not self.troubles.should_log(str(error)):
            return
        self._logger.warning(
            "scan failed: %s — it is still owed, next try in %s",
            sanitize(str(error)),
            seconds_text(wait),
        )
