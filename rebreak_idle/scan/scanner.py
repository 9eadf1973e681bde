"""The scans of one mailbox: what is owed, its place in the line, its retries."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from ..errors import BackendUnavailable, Interrupted, ScanFailed
from ..faults import UnexpectedErrors
from ..limits import Backoff, seconds_text
from ..log import Logger, RepeatFilter, sanitize
from ..mailbox import Mailbox
from ..reactions import FAILED, REFUSED, UNAVAILABLE
from .answer import ScanResult
from .line import ScanLine
from .pending import PendingScan

SCAN_RETRY_INITIAL_SECONDS = 1.0
SCAN_RETRY_MAX_SECONDS = 60.0
# One mailbox whose server announces without end must not hold the places of all: so many scans at
# once, and then one in so many seconds.
SCANS_AT_ONCE = 3
SCAN_EVERY_SECONDS = 1.0


class Scanner:
    """Sends the scans of one mailbox, one at a time; outlives the worker whose row changes.

    Used by the mailbox's thread; the request itself runs on a thread of the line, which calls
    ``wake`` at its end. ``clock`` is `time.monotonic`.
    """

    def __init__(
        self,
        line: ScanLine,
        clock: Callable[[], float],
        unexpected_errors: UnexpectedErrors,
    ) -> None:
        self.pending = PendingScan(clock)
        self.in_line = False
        """Whether a request is in line or under way."""
        self.troubles = RepeatFilter(clock)
        self._line = line
        self._clock = clock
        self._unexpected_errors = unexpected_errors
        self._retries = Backoff(SCAN_RETRY_INITIAL_SECONDS, SCAN_RETRY_MAX_SECONDS, random.random)
        self._failures = 0
        self._not_before = -math.inf
        self._paid_until = -math.inf
        """Each scan pays for a second; one is sent while less than three are paid ahead."""
        self._withdrawn = False
        self._mailbox: Mailbox
        self._logger: Logger
        self._wake: Callable[[], None]

    def serve(self, mailbox: Mailbox, logger: Logger, wake: Callable[[], None]) -> None:
        """From now on these are the row, its log and its thread."""
        self._mailbox, self._logger, self._wake = mailbox, logger, wake
        self._withdrawn = False
        self._account()

    def withdraw(self) -> None:
        """The row is gone: nothing is owed any more, a request in line is not sent."""
        self._withdrawn = True
        self._account()

    @property
    def owed(self) -> bool:
        return self.pending.owed

    def owe(self, reason: str) -> None:
        """Mail may have arrived."""
        self.pending.owe(reason)
        self._account()

    @property
    def owed_since(self) -> float | None:
        """Since when something is owed and is to be sent, by the clock; None where nothing is."""
        return None if self._withdrawn else self.pending.since

    def _account(self) -> None:
        self._line.reactions.owes(self, lambda: self.owed_since)

    def next_try_at(self) -> float:
        """When `send_due` has something to do, by the clock; infinite where nothing is known."""
        if self.in_line or not self.pending.owed:
            return math.inf
        return max(self._not_before, self._paid_until - (SCANS_AT_ONCE - 1) * SCAN_EVERY_SECONDS)

    def send_due(self) -> None:
        """Enter the line if a scan is owed, due, and not in line already.

        Raises:
            Interrupted: the daemon stops.
        """
        now = self._clock()
        if self.next_try_at() <= now:
            self._paid_until = max(self._paid_until, now) + SCAN_EVERY_SECONDS
            self.in_line = True
            self._line.enter(self._request)

    # On a thread of the line

    def _request(self) -> None:
        try:
            result = self._line.send(self._begin, self._logger.hide)
        except Interrupted:
            self._leave_line()  # the daemon stops, or the row is gone
        except ScanFailed as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001  # no thread of the line dies, no scan is lost
            self._not_before = self._clock() + SCAN_RETRY_MAX_SECONDS
            self._leave_line()
            self._line.reactions.ended(FAILED)
            self._unexpected_errors.log(self._logger, error)
        else:
            self._succeeded(result)
        finally:
            self._wake()

    def _begin(self) -> tuple[Mailbox, str]:
        """The request begins now, for the row as it is now."""
        if self._withdrawn:
            raise Interrupted("the row is gone")
        return self._mailbox, self.pending.begin()

    def _leave_line(self) -> None:
        """The request is over: the next one may enter the line."""
        self.in_line = False

    def _succeeded(self, result: ScanResult) -> None:
        settled = self.pending.settle()
        self._line.reactions.succeeded(settled and settled.heard_at)
        self._account()
        self._failures, self._not_before = 0, -math.inf
        self.troubles.forget()
        self._leave_line()
        scanned, blocked = result.scanned, result.blocked
        self._logger.info(
            "scan-triggered → scanned=%s blocked=%s",
            "?" if scanned is None else scanned,
            "?" if blocked is None else blocked,
        )
        if result.remark:
            self._logger.warning("%s", result.remark)

    def _failed(self, error: ScanFailed) -> None:
        self._line.reactions.ended(_result(error))
        if self._line.knows_of(error):  # the line waits for the backend, not each mailbox
            self._not_before = self._clock() + SCAN_RETRY_INITIAL_SECONDS
            return self._leave_line()
        self._failures += 1
        wait = max(self._retries.wait_seconds(self._failures), error.retry_after_seconds or 0.0)
        self._not_before = self._clock() + wait
        is_news = self.troubles.should_log(str(error))
        self._leave_line()
        if is_news:
            self._logger.warning(
                "scan failed: %s — it is still owed, next try in %s",
                sanitize(str(error)),
                seconds_text(wait),
            )
        return None


def _result(error: ScanFailed) -> str:
    """What a request that failed is counted as."""
    if isinstance(error, BackendUnavailable):
        return UNAVAILABLE
    return REFUSED if error.is_answer else FAILED
