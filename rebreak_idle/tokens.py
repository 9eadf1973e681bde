"""Access tokens from the backend: how many are asked for at once, and what holds for all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from .access_token import AccessToken
from .config import Config
from .errors import TokenUnavailable
from .gate import Gate
from .limits import Backoff, Slots
from .log import RepeatFilter, sanitize
from .log import backend_logger as logger
from .mailbox import Mailbox

# While the backend is away whoever is next in line probes, as for scans.
PROBE_INITIAL_SECONDS = 1.0
PROBE_MAX_SECONDS = 10.0
# They take threads of those that connect: of these some must be left.
MOST_AT_ONCE = 64


class TokenRequests(Protocol):
    """What is used of the backend's client: see `scan.token_client.TokenClient`."""

    def request(self, mailbox: Mailbox, fresh: bool, hide: Callable[[str], str]) -> AccessToken: ...


class TokenGate(Gate):
    """Lets SCAN_CONCURRENCY requests for tokens through at once. Any thread may call.

    While the backend is away, refuses its secret or has no such endpoint, one mailbox at a time
    asks, and the others wait in line.
    """

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        probes = Backoff(PROBE_INITIAL_SECONDS, PROBE_MAX_SECONDS, random.random)
        super().__init__(
            probes, clock, min(config.scan_concurrency, MOST_AT_ONCE), failures_that_mean_down=1
        )
        first, longest = config.reconnect_initial_seconds, config.reconnect_max_seconds
        self._operator_probes = Backoff(first, longest, random.random)
        self._refusals = 0
        self._troubles = RepeatFilter(clock)

    def answered(self) -> None:
        """The backend said something about one mailbox."""
        self._refusals = 0
        self._breaker.record_success()
        if self._troubles.last:
            self._troubles.forget()
            logger.info("the backend answers requests for access tokens again: mailboxes return")

    def failed(self, mailbox_id: str, error: TokenUnavailable, line: Slots) -> bool:
        """The backend gave no token; whether that is known to be so for all mailboxes.

        One answer of 503 may be one mailbox's trouble, so the next in line asks at once; what a
        second request meets too is the backend's.
        """
        if error.is_for_all is False:
            self.answered()
            return False
        is_probe, was_down = line is self._probes, self.is_down
        if is_probe or not was_down:
            self._breaker.record_failure(mailbox_id, is_probe, self._wait_seconds(error))
        if not (error.is_for_all or was_down):
            return False
        if self._troubles.should_log(str(error)):
            logger.warning(
                "no mailbox gets an access token: %s%s — one request at a time tries again, and "
                "sessions that run go on",
                sanitize(str(error)),
                " (the operator must act)" if error.who == "the operator" else "",
            )
        return True

    def _wait_seconds(self, error: TokenUnavailable) -> float | None:
        """How long until the next probe; None for the gate's own back-off."""
        if error.who == "the operator":
            self._refusals += 1
            return self._operator_probes.wait_seconds(self._refusals)
        if error.is_for_all or self.is_down:
            return error.retry_after_seconds
        return 0.0


class Tokens:
    """What all mailboxes share that log in by token."""

    def __init__(self, requests: TokenRequests, config: Config, clock: Callable[[], float]) -> None:
        self.requests = requests
        self.gate = TokenGate(config, clock)
