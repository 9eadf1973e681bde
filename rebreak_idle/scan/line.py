"""The line of scan requests: in order of arrival, so many at once, and one while the backend is
away.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from ..errors import BackendUnavailable, Interrupted, ScanFailed
from ..limits import Backoff, CircuitBreaker
from ..log import backend_logger as logger
from ..log import sanitize
from ..mailbox import Mailbox
from ..reactions import Reactions
from .answer import ScanResult

# While the backend is away: from the second probe on the wait doubles up to ten seconds. A request
# every ten seconds costs nobody anything, and mail waits for it.
PROBE_INITIAL_SECONDS = 1.0
PROBE_MAX_SECONDS = 10.0


class Client(Protocol):
    """What is used of the backend's client: see `client.ScanClient`."""

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult: ...
    def abort_overdue(self) -> None: ...
    def abort_all(self) -> None: ...


class ScanLine:
    """Sends scan requests on the threads of ``executor``, whose queue is the line. Any thread.

    While the backend is away whoever is next in line probes, one at a time, and the others keep
    their places. ``clock`` is `time.monotonic`.
    """

    def __init__(self, client: Client, executor: Executor, clock: Callable[[], float]) -> None:
        self._client = client
        self._executor = executor
        self._clock = clock
        self.reactions = Reactions(clock)
        backoff = Backoff(PROBE_INITIAL_SECONDS, PROBE_MAX_SECONDS, random.random)
        self._breaker = CircuitBreaker(1, backoff, clock)
        self._changed = threading.Condition()
        self._is_probing = self._is_announced = self._is_stopping = False
        self._under_way = 0

    def enter(self, request: Callable[[], None]) -> None:
        """Have ``request`` called when it is its turn.

        Raises:
            Interrupted: the daemon stops.
        """
        try:
            self._executor.submit(request)
        except RuntimeError as error:
            if self._is_stopping:
                raise Interrupted("stopping") from error
            # No further thread can be started: those that run will come to it.

    def send(
        self, begin: Callable[[], tuple[Mailbox, str]], hide: Callable[[str], str] = str
    ) -> ScanResult:
        """Send one request, once the backend is there; ``begin`` is called as it begins and
        returns for whom and why, ``hide`` takes that mailbox's secrets out of what the log says for
        all. On a thread of the line.

        Raises:
            ScanFailed: it was not taken; the scan is still owed.
            Interrupted: the daemon stops.
        """
        probe = self._begin()
        try:
            mailbox, reason = begin()
            result = self._client.scan(mailbox, reason)
        except BackendUnavailable as error:
            self._backend_is_away(mailbox, error, probe, hide)
            raise
        except ScanFailed as error:
            if error.is_answer:
                self._backend_answered()
            elif probe:
                self._breaker.record_failure(mailbox.id, probe)
            raise
        else:
            self._backend_answered()
            return result
        finally:
            self._end(probe)

    def knows_of(self, error: ScanFailed) -> bool:
        """Whether the log has said already that the backend is away, for all mailboxes."""
        return isinstance(error, BackendUnavailable) and self._is_announced

    def abort_overdue(self) -> None:
        """End the requests that take too long; to be called every few seconds."""
        self._client.abort_overdue()

    def stop(self) -> None:
        """No request begins from now on."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def wait_for_end(self, seconds: float) -> None:
        """Wait for the requests under way, at most ``seconds``, and end those that are left."""
        with self._changed:
            is_over = self._changed.wait_for(lambda: not self._under_way, max(0.0, seconds))
        if not is_over:
            self._client.abort_all()

    def _begin(self) -> bool:
        """Wait while the backend is away; True when this request is the probe."""
        with self._changed:
            while True:
                if self._is_stopping:
                    raise Interrupted("stopping")
                if not self._breaker.is_open:
                    self._under_way += 1
                    return False
                wait = self._breaker.probe_in_seconds
                if wait <= 0 and not self._is_probing:
                    self._is_probing = True
                    self._under_way += 1
                    return True
                self.pause(None if self._is_probing else wait)

    def pause(self, seconds: float | None) -> None:
        """Wait for a change, None for as long as it takes. Called with the condition held."""
        self._changed.wait(seconds)

    def _end(self, probe: bool) -> None:
        with self._changed:
            self._under_way -= 1
            self._is_probing = self._is_probing and not probe
            self._changed.notify_all()

    def _backend_answered(self) -> None:
        with self._changed:
            self._breaker.record_success()
            was_announced, self._is_announced = self._is_announced, False
        if was_announced:
            logger.info("the backend is back: the scans that are owed are sent")

    def _backend_is_away(
        self, mailbox: Mailbox, error: BackendUnavailable, probe: bool, hide: Callable[[str], str]
    ) -> None:
        """One answer of 503 may be one mailbox's trouble, so the next in line tries at once; what
        a second request meets too, or where nobody listens, is the backend's.
        """
        with self._changed:
            is_the_backend = error.is_certain or self._breaker.is_open
            wait = error.retry_after_seconds if is_the_backend else 0.0
            self._breaker.record_failure(mailbox.id, probe, wait)
            is_news = is_the_backend and not self._is_announced
            self._is_announced |= is_news
        if is_news:
            logger.warning(
                "the backend is away: %s — all scans stay owed, one request at a time tries again",
                sanitize(hide(str(error))),
            )
