"""What follows the end of a session: the wait before the next, and the words for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from .config import Config
from .errors import (
    HostUnreachable,
    LoginRefused,
    MailboxUnusable,
    PasswordUnreadable,
    RebreakError,
)
from .limits import Backoff, interval_text, seconds_text
from .log import Logger, RepeatFilter, sanitize

# A session that held this long counts as having worked.
WORKED_SECONDS = 60.0
AUTH_RETRY_MAX_SECONDS = 6 * 3600.0
EXACT_ALWAYS = 2**31
# Long enough to stand for ever, short enough for any clock.
UNTIL_STOPPED_SECONDS = 366 * 86400.0


class Remedy(Enum):
    """What the end of a session asks for."""

    RECONNECT = auto()
    HOST = auto()
    """As RECONNECT, unless the host is down for all its mailboxes."""
    CREDENTIALS = auto()
    ROW = auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ended, without the frames that an error holds."""

    text: str
    remedy: Remedy

    @classmethod
    def of(cls, error: RebreakError) -> Ending:
        """What an error of the session asks for."""
        match error:
            case PasswordUnreadable() | MailboxUnusable():
                return cls(str(error), Remedy.ROW)
            case LoginRefused():
                return cls(str(error), Remedy.CREDENTIALS)
            case HostUnreachable():
                return cls(str(error), Remedy.HOST)
            case _:
                return cls(str(error), Remedy.RECONNECT)


class Recovery:
    """Counts one mailbox's attempts and refusals. Used by its own thread."""

    def __init__(self, config: Config, logger: Logger, clock: Callable[[], float]) -> None:
        self.troubles = RepeatFilter(clock)
        self._config = config
        self._logger = logger
        self._attempt = 0
        self._refusals = 0

    def begin_attempt(self) -> None:
        """A connection is attempted now."""
        self._attempt += 1

    def wait_for_host(self, ending: Ending) -> None:
        """The next attempt waits for the host, so this one does not count; that it fails is known
        from the host's own line.
        """
        self._attempt -= 1
        if ending.remedy is Remedy.RECONNECT and self.troubles.should_log(ending.text):
            self._logger.warning(
                "%s — its host is down: it reconnects when that answers again",
                sanitize(ending.text),
            )

    def logged_in(self) -> None:
        """The server took the credentials; the next trouble is news."""
        self._refusals = 0
        self.troubles.forget()

    def back_off(self, why: str, lasted_seconds: float) -> float:
        """The session broke after so many seconds; returns the wait before the next."""
        if lasted_seconds >= WORKED_SECONDS:
            self._attempt = 1
        config = self._config
        waits = Backoff(
            config.reconnect_initial_seconds, config.reconnect_max_seconds, random.random
        )
        wait = waits.wait_seconds(self._attempt)
        if self.troubles.should_log(why):
            self._logger.warning("%s", sanitize(why))
        self._logger.info("reconnecting in %s (attempt %d)", seconds_text(wait), self._attempt + 1)
        return wait

    def park(self, ending: Ending) -> float:
        """A person must act; returns the wait before the next attempt."""
        self._attempt = 0
        wait, who, next_try = UNTIL_STOPPED_SECONDS, "the operator", "the row changes"
        if ending.remedy is Remedy.CREDENTIALS:
            wait = self._wait_after_refusal()
            who = "the user"
            next_try += f", or in {interval_text(wait)}"
        if self.troubles.should_log(ending.text):
            self._logger.error(
                "%s (%s must act) — parked: next try when %s", sanitize(ending.text), who, next_try
            )
        return wait

    def _wait_after_refusal(self) -> float:
        self._refusals += 1
        first = self._config.auth_retry_seconds
        longest = max(first, AUTH_RETRY_MAX_SECONDS)
        waits = Backoff(first, longest, random.random, exact=EXACT_ALWAYS)
        return waits.wait_seconds(self._refusals)
