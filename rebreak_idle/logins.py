"""What a mailbox logs in with: its stored password, or an access token from the backend."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Protocol

from .access_token import AccessToken
from .errors import (
    AccessDenied,
    AccessRefused,
    LoginRefused,
    RebreakError,
    ServerUnusable,
    SessionEnded,
    TokenUnavailable,
)
from .gate import Turn
from .limits import Slots
from .log import Logger, sanitize
from .mailbox import Mailbox
from .pooled import PooledTask
from .recovery import Ending, Recovery, Remedy
from .services import Services

# A token is used again while more than this is left of it.
KEPT_SECONDS = 300.0
# IDLE is renewed so long after the token's end: the server says then whether the session goes on.
RENEWED_AFTER_SECONDS = 1.0
# The server counts from when the token was made, and its clock is another one: so long before its
# end, or a tenth of its life, a session may be ended for it.
EARLY_SECONDS = 60.0
EARLY_SHARE = 0.1
# A session that did not even last so long ended for another reason.
SHORTEST_SESSION_SECONDS = 1.0
# Gmail: Session expired, please login again. Outlook: Session invalidated - AccessTokenExpired.
# https://github.com/gaizka/node-imap-oauth/issues/1, https://github.com/simonrob/email-oauth2-proxy
NAMES_THE_END = re.compile(r"session (has )?expired|token ?(has )?expired", re.IGNORECASE)


class Login(Protocol):
    """One mailbox's. Used by its thread."""

    def hide(self, text: str) -> str:
        """The text without the secret, whoever says it. Any thread may call."""

    def obtain(self, pool: PooledTask) -> str | AccessToken:
        """The secret for the next login, waited for."""

    def check(self) -> None:
        """Raises:
        TokenRanOut: the secret ran out while its turn at the host was waited for.
        """

    def worked(self) -> None:
        """The server took it."""

    def examined(self) -> None:
        """The session goes on: the server has just shown INBOX."""

    def idle_seconds(self, seconds: float) -> float:
        """How long the next IDLE is to last that would otherwise last so long."""

    def ending(self, error: RebreakError, lasted_seconds: float) -> Ending:
        """What the end of a session, or of the way to one, asks for."""


class TokenRanOut(RebreakError):
    """The token ran out before it was used."""


class PasswordLogin:
    """By the password in the row."""

    def __init__(self, mailbox: Mailbox, decrypt: Callable[[str], str], recovery: Recovery) -> None:
        self._mailbox = mailbox
        self._decrypt = decrypt
        self._recovery = recovery

    def hide(self, text: str) -> str:
        return text  # the session has seen to it: see `imap.session`

    def obtain(self, pool: PooledTask) -> str:
        mailbox = self._mailbox
        password = pool.run(lambda: self._decrypt(mailbox.stored_password))
        self._recovery.begin_login(mailbox.host.lower(), mailbox.port, mailbox.username, password)
        return password

    def check(self) -> None: ...

    def worked(self) -> None:
        self._recovery.logged_in()

    def examined(self) -> None: ...

    def idle_seconds(self, seconds: float) -> float:
        return seconds

    def ending(self, error: RebreakError, lasted_seconds: float) -> Ending:
        return Ending.of(error)


class TokenLogin:
    """By access token. The only place that keeps one."""

    def __init__(
        self, mailbox: Mailbox, services: Services, logger: Logger, recovery: Recovery
    ) -> None:
        self._mailbox = mailbox
        self._recovery = recovery
        self._tokens = services.tokens
        self._clock = services.clock
        self._logger = logger
        self._token: AccessToken | None = None
        self._previous: AccessToken | None = None
        """The one before it, until the server has taken this one: it may be said back."""
        self._hidden: tuple[tuple[object, ...], str] = ((), "")
        """What was asked last to be hidden, and the answer: the same is asked again and again."""
        self._wants_fresh = False
        """Whether the next one is asked for because the last one was refused."""
        self._is_fresh = False
        """Whether the token was asked for in that way."""
        self._is_known = False
        """Whether the log has said for all mailboxes why there is no token."""
        self._ran_out = False
        """Whether the last one ran out before it was used."""
        self._examined_at = -math.inf

    def hide(self, text: str) -> str:
        asked = (text, self._token, self._previous)
        last_asked, shown = self._hidden  # together, for another thread may ask for another text
        if last_asked != asked:
            shown = text
            for token in asked[1:]:
                shown = token.hide(shown) if token is not None else shown
            self._hidden = asked, shown
        return shown

    def obtain(self, pool: PooledTask) -> AccessToken:
        """Raises:
        AccessDenied: the backend has none, and somebody must act.
        TokenUnavailable: it gave none this time.
        """
        mailbox = self._mailbox
        self._recovery.begin_login(mailbox.host.lower(), mailbox.port, mailbox.username)
        if self._token is not None and self._is_kept(self._token):
            return self._token
        turn = Turn(self._tokens.gate, mailbox.id, pool.wake)
        try:
            while (seconds := turn.wait_seconds()) > 0:
                pool.wait_in_line(seconds)
        except BaseException:
            turn.end()
            raise
        token = pool.run(lambda: self._request(turn.line), turn.end)
        self._token, self._previous = token, self._token or self._previous
        return token

    def check(self) -> None:
        if self._token is None or self._clock() >= self._token.ends_at:
            raise TokenRanOut("the access token ran out while a turn at the host was waited for")

    def worked(self) -> None:
        self._recovery.logged_in()
        self._is_fresh, self._previous, self._ran_out = False, None, False

    def examined(self) -> None:
        self._examined_at = self._clock()

    def idle_seconds(self, seconds: float) -> float:
        ends_at = math.inf if self._token is None else self._token.ends_at
        left = ends_at + RENEWED_AFTER_SECONDS - self._clock()
        return min(seconds, math.ceil(left)) if 0 < left < math.inf else seconds

    def ending(self, error: RebreakError, lasted_seconds: float) -> Ending:
        match error:
            case TokenRanOut() if not self._ran_out:
                self._ran_out = True
                return Ending(str(error), Remedy.IN_LINE)
            case SessionEnded() | AccessRefused() if self._is_expected(str(error), lasted_seconds):
                self._logger.info("the access token has run out: reconnecting with a new one")
                return Ending(str(error), Remedy.AT_ONCE)
            case AccessDenied() | AccessRefused() | ServerUnusable():
                return Ending.of(error)
            case LoginRefused():
                return self._after_refusal(str(error))
            case TokenUnavailable() if self._is_known:
                return Ending(str(error), Remedy.IN_LINE)
        return Ending.of(error)

    def _is_kept(self, token: AccessToken) -> bool:
        left = token.ends_at - self._clock()
        return KEPT_SECONDS < left < math.inf

    def _request(self, line: Slots) -> AccessToken:
        """On a thread of the pool, with a turn at the gate."""
        gate, mailbox = self._tokens.gate, self._mailbox
        try:
            token = self._tokens.requests.request(mailbox, self._wants_fresh, self.hide)
        except AccessDenied:
            gate.answered()
            raise
        except TokenUnavailable as error:
            self._is_known = gate.failed(mailbox.id, error, line)
            raise
        gate.answered()
        self._is_fresh, self._wants_fresh = self._wants_fresh, False
        return token

    def _after_refusal(self, why: str) -> Ending:
        """A new token is tried once, at once."""
        self._token, self._previous = None, self._token
        self._wants_fresh, self._is_fresh = not self._is_fresh, False
        if not self._wants_fresh:
            return Ending(why, Remedy.DENIED, "the user")
        self._logger.warning("%s — trying once with a new one", sanitize(why))
        return Ending(why, Remedy.IN_LINE)

    def _is_expected(self, why: str, lasted_seconds: float) -> bool:
        """Whether the server ended the session for the token's end, by the time that it did so.

        Where it has shown INBOX after that, it lets sessions go on.
        """
        token = self._token
        if token is None or lasted_seconds < SHORTEST_SESSION_SECONDS:
            return False
        is_named = NAMES_THE_END.search(why) is not None
        if token.ends_at == math.inf:
            return is_named
        early_seconds = min(EARLY_SECONDS, EARLY_SHARE * token.life_seconds)
        is_time = self._clock() >= token.ends_at - early_seconds
        return is_time and (is_named or self._examined_at < token.ends_at)


def login_of(
    mailbox: Mailbox, services: Services, logger: Logger, recovery: Recovery
) -> PasswordLogin | TokenLogin:
    """What this row says."""
    if mailbox.oauth2:
        return TokenLogin(mailbox, services, logger, recovery)
    return PasswordLogin(mailbox, services.decrypt, recovery)
