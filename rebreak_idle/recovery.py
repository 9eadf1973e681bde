"""What follows the end of a session: the wait before the next, and the words for it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from .config import Config
from .errors import (
    AccessDenied,
    AccessRefused,
    HostUnreachable,
    LoginRefused,
    MailboxUnusable,
    NotConnected,
    PasswordUnreadable,
    RebreakError,
    TokenUnavailable,
)
from .limits import JITTER, WORKED_SECONDS, Backoff, interval_text, seconds_text
from .log import Logger, RepeatFilter, sanitize
from .status import State, Trouble, Who

# A login that was refused, and may work again by itself, is tried again so many times first:
# providers refuse good passwords for minutes.
REFUSED_RETRY_SECONDS = (60.0, 300.0)
AUTH_RETRY_MAX_SECONDS = 6 * 3600.0
# A login that works, and an INBOX that cannot be opened: trouble that passes, unless it stays. With
# the usual waits this is two and a half minutes.
NOT_CONNECTED_TRIES = 6
# Before a wait that long the reason is said each time: it is what somebody finds in the log.
LONG_WAIT_SECONDS = 60.0
# Long enough to stand for ever, short enough for any clock.
UNTIL_STOPPED_SECONDS = 366 * 86400.0


class Remedy(Enum):
    """What the end of a session asks for."""

    RECONNECT = auto()
    HOST = auto()
    """As RECONNECT, unless the host is down for all its mailboxes."""
    BACK_OFF = auto()
    """As RECONNECT, but it failed before its turn at the host came: it does not wait there."""
    CREDENTIALS = auto()
    UNCLEAR_REFUSAL = auto()
    """As CREDENTIALS, but nobody knows what the server means."""
    ACCESS = auto()
    """As CREDENTIALS, but the login worked: it is INBOX that the account may not open."""
    ROW = auto()
    AT_ONCE = auto()
    """It is no failure: reconnect, and count from the beginning."""
    IN_LINE = auto()
    """Try again, and wait in line for what is missing; this attempt does not count."""
    DENIED = auto()
    """As CREDENTIALS, of which a new one was just tried, or cannot be had."""
    NOT_CONNECTED = auto()
    """As RECONNECT, but somebody must act when it stays."""


# What the server, or the backend that has no token for it, says to whoever logs in.
REFUSALS = frozenset(
    {
        Remedy.CREDENTIALS,
        Remedy.UNCLEAR_REFUSAL,
        Remedy.ACCESS,
        Remedy.DENIED,
        Remedy.NOT_CONNECTED,
    }
)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ended, without the frames that an error holds."""

    text: str
    remedy: Remedy
    who: str = "the user"
    """Who must act after a refusal."""
    wait_seconds: float = 0.0
    """How long it waits at least, where it backs off."""

    @classmethod
    def of(cls, error: RebreakError) -> Ending:
        """What an error of the session asks for."""
        match error:
            case PasswordUnreadable() | MailboxUnusable():
                return cls(str(error), Remedy.ROW, "the operator")
            case AccessDenied():
                return cls(str(error), Remedy.DENIED, error.who)
            case AccessRefused():
                return cls(str(error), Remedy.ACCESS, error.who)
            case NotConnected():
                return cls(str(error), Remedy.NOT_CONNECTED, "the operator")
            case TokenUnavailable():
                wait = error.retry_after_seconds or 0.0
                return cls(str(error), Remedy.BACK_OFF, error.who, wait)
            case LoginRefused(is_clear=True):
                return cls(str(error), Remedy.CREDENTIALS, error.who)
            case LoginRefused():
                return cls(str(error), Remedy.UNCLEAR_REFUSAL, error.who)
            case HostUnreachable():
                return cls(str(error), Remedy.HOST)
            case _:
                return cls(str(error), Remedy.RECONNECT)

    def trouble(self, state: State) -> Trouble:
        """What it is to whoever asks, where it led to this state."""
        who = Who.NOBODY
        if state is State.PARKED:
            who = Who(self.who.removeprefix("the "))
        return Trouble(self.text, who, self.remedy in REFUSALS)


class Recovery:
    """Counts one mailbox's attempts and refusals. Used by its own thread.

    ``good_logins`` are those that worked, and led to an open INBOX, in this process's life; shared
    by all mailboxes.
    """

    def __init__(
        self,
        config: Config,
        logger: Logger,
        clock: Callable[[], float],
        good_logins: set[int],
    ) -> None:
        self.troubles = RepeatFilter(clock)
        self.ended_by: Trouble | None = None
        """What ended the last session, None where none ended since the last login."""
        self._config = config
        self._logger = logger
        self._good_logins = good_logins
        self._random = random.random
        self._login = self._inbox = 0
        self._attempt = 0
        self._refusals = 0
        self._times_parked = 0
        self._not_connected = 0

    def begin_attempt(self) -> None:
        """A connection is attempted now."""
        self._attempt += 1

    def _wait_for_host(self, ending: Ending) -> None:
        """The next attempt waits for the host, so this one does not count; that it fails is known
        from the host's own line.
        """
        self._attempt -= 1
        if ending.remedy is Remedy.RECONNECT and self.troubles.should_log(ending.text):
            self._logger.warning(
                "%s — its host is down: it reconnects when that answers again",
                sanitize(ending.text),
            )

    def begin_login(self, *login: object) -> None:
        """Where, as whom and with which password; of that only a hash is kept."""
        self._login, self._inbox = hash(login), hash((login, "INBOX"))

    def logged_in(self) -> None:
        """The server took the credentials."""
        self._good_logins.add(self._login)

    def opened_inbox(self) -> None:
        """The server let us into INBOX."""
        self._good_logins.add(self._inbox)
        self.ended_by = None
        self._refusals = self._times_parked = self._not_connected = 0

    def next_try(
        self, ending: Ending, lasted_seconds: float, is_held_back: bool = False
    ) -> tuple[State, float]:
        """What follows a session that ended after so many seconds: the state, and the wait; where
        the host holds it back, the next attempt waits there.
        """
        if is_held_back and ending.remedy in (Remedy.RECONNECT, Remedy.HOST):
            self._wait_for_host(ending)
            state, wait = State.BACKING_OFF, 0.0
        else:
            state, wait = self._next_try(ending, lasted_seconds)
        self.ended_by = ending.trouble(state)
        return state, wait

    def _next_try(self, ending: Ending, lasted_seconds: float) -> tuple[State, float]:
        if lasted_seconds >= WORKED_SECONDS:
            self._attempt = 1
            self.troubles.forget()
        self._not_connected += ending.remedy is Remedy.NOT_CONNECTED
        match ending.remedy:
            case Remedy.AT_ONCE:
                self._attempt = 0
                return State.CONNECTING, 0.0
            case Remedy.IN_LINE:
                self._attempt -= 1
                self.troubles.should_log(ending.text)  # the log has it; the report may ask
                return State.BACKING_OFF, 0.0
            case Remedy.RECONNECT | Remedy.HOST | Remedy.BACK_OFF:
                return State.BACKING_OFF, self._back_off(ending)
            case Remedy.NOT_CONNECTED if self._not_connected < NOT_CONNECTED_TRIES:
                return State.BACKING_OFF, self._back_off(ending)
            case Remedy.NOT_CONNECTED:
                times = self._not_connected - NOT_CONNECTED_TRIES + 1
                return State.PARKED, self._park(ending, times)
            case Remedy.ROW:
                return State.PARKED, self._park_until_changed(ending.text)
            case Remedy.DENIED:
                return State.PARKED, self._park_refused(ending)
        self._refusals += 1
        if self._may_pass(ending):
            return State.BACKING_OFF, self._try_refused_again(ending)
        return State.PARKED, self._park_refused(ending)

    def _back_off(self, ending: Ending) -> float:
        config = self._config
        first, longest = config.reconnect_initial_seconds, config.reconnect_max_seconds
        wait = Backoff(first, longest, self._random).wait_seconds(self._attempt)
        wait = max(wait, ending.wait_seconds)
        if self._is_to_be_said(ending.text, wait):
            self._logger.warning("%s", sanitize(ending.text))
        return self._reconnect(wait, self._attempt)

    def _may_pass(self, ending: Ending) -> bool:
        in_doubt = self._has_worked(ending) or ending.remedy is Remedy.UNCLEAR_REFUSAL
        tries_left = self._refusals <= len(REFUSED_RETRY_SECONDS) and not self._times_parked
        return in_doubt and tries_left

    def _has_worked(self, ending: Ending) -> bool:
        what = self._inbox if ending.remedy is Remedy.ACCESS else self._login
        return what in self._good_logins

    def _try_refused_again(self, ending: Ending) -> float:
        """After a minute and after five, but no later than it would be tried if it were parked."""
        wait = min(REFUSED_RETRY_SECONDS[self._refusals - 1], self._config.auth_retry_seconds)
        wait = Backoff(wait, wait, self._random).wait_seconds(self._refusals)
        if self._is_to_be_said(ending.text, wait):
            worked = self._has_worked(ending)
            self._logger.warning(
                "%s — %s: refusal %d of %d in a row, parked at the last",
                sanitize(ending.text),
                "the password has worked before" if worked else "nobody knows these words",
                self._refusals,
                len(REFUSED_RETRY_SECONDS) + 1,
            )
        return self._reconnect(wait, self._refusals)

    def _reconnect(self, wait: float, failures: int) -> float:
        """Say when; the wait is spread over the second that the line names, but for the first one:
        mailboxes of one host that failed together must not return in step.
        """
        self._logger.info("reconnecting in %s (attempt %d)", seconds_text(wait), self._attempt + 1)
        return wait - self._random() * min(1.0, JITTER * wait) if failures > 1 else wait

    def _park_until_changed(self, why: str) -> float:
        self._attempt = 0
        if self._is_to_be_said(why, UNTIL_STOPPED_SECONDS):
            self._logger.error(
                "%s (the operator must act) — parked: next try when the row changes", sanitize(why)
            )
        return UNTIL_STOPPED_SECONDS

    def _park_refused(self, ending: Ending) -> float:
        self._times_parked += 1
        return self._park(ending, self._times_parked)

    def _park(self, ending: Ending, times: int) -> float:
        """Park for the given time in a row."""
        self._attempt = 0
        wait = self._wait_while_parked(times)
        if self._is_to_be_said(ending.text, wait) or times == 1:
            self._logger.error(
                "%s (%s must act) — parked: next try when the row changes, or in %s",
                sanitize(ending.text),
                ending.who,
                _rounded_text(wait),
            )
        return wait

    def _wait_while_parked(self, times: int) -> float:
        """Jitter makes it longer, not shorter: a login tried too often locks the account."""
        first = self._config.auth_retry_seconds
        longest = max(first, AUTH_RETRY_MAX_SECONDS)
        if times == 1:
            return first
        wait = min(first * 2.0 ** min(times - 1, 64), longest / (1 + JITTER))
        return wait * (1 + JITTER * self._random())

    def _is_to_be_said(self, why: str, wait: float) -> bool:
        return self.troubles.should_log(why) or wait >= LONG_WAIT_SECONDS


def _rounded_text(seconds: float) -> str:
    """An interval, to the minute where it is no whole number of seconds."""
    if seconds.is_integer() or seconds < 60:
        return interval_text(round(seconds, 2))
    return interval_text(math.ceil(seconds / 60) * 60)
