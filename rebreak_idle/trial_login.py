"""The login of one mailbox in the preflight, by password or by access token."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .access_token import AccessToken
from .config import Config
from .errors import (
    AccessDenied,
    AccessRefused,
    LoginRefused,
    PasswordUnreadable,
    RebreakError,
    ServerUnusable,
    TokenUnavailable,
)
from .imap.session import Session
from .mailbox import Mailbox
from .tokens import TokenRequests

# After so many failures in a row that are not one mailbox's it would take too long to ask for all.
FAILURES_THAT_MEAN_DOWN = 5


@dataclass
class TrialTokens:
    """Where the preflight has its tokens from, SCAN_CONCURRENCY at once. Any thread may call."""

    requests: TokenRequests
    config: Config
    _failures: int = 0
    _places: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = threading.Semaphore(self.config.scan_concurrency)

    def request(self, mailbox: Mailbox, fresh: bool, hide: Callable[[str], str]) -> AccessToken:
        """As the daemon asks for it; raises what that does."""
        with self._places:
            if self._failures >= FAILURES_THAT_MEAN_DOWN:
                raise TokenUnavailable("no access token asked for: the backend failed five times")
            try:
                token = self.requests.request(mailbox, fresh, hide)
            except TokenUnavailable as error:
                self._failures += error.is_for_all is not False
                raise
            self._failures = 0
            return token


class Connect(Protocol):
    """Makes a session that is still to be opened."""

    def __call__(self, mailbox: Mailbox, is_stopping: Callable[[], bool]) -> Session: ...


class Found(NamedTuple):
    """What was found of a mailbox, in words."""

    secret: str
    by: str
    """How it was logged in to, in brackets; empty for a password."""
    inbox: str


class TrialLogin:
    """One mailbox's. Used by one thread."""

    def __init__(
        self,
        mailbox: Mailbox,
        connect: Connect,
        decrypt: Callable[[str], str],
        tokens: TrialTokens,
    ) -> None:
        self._mailbox = mailbox
        self._connect = connect
        self._decrypt = decrypt
        self._tokens = tokens
        self._given: list[AccessToken] = []

    def hide(self, text: str) -> str:
        """The text without the tokens that were handed out."""
        for token in self._given:
            text = token.hide(text)
        return text

    def run(
        self,
        trying: Callable[[], AbstractContextManager[None]],
        connected: Callable[[], None],
    ) -> Found:
        """Log in and look at INBOX; what was found. A token that is refused is asked for anew.

        It connects and logs in within ``trying``, and calls ``connected`` in between.

        Raises:
            RebreakError: it did not work.
        """
        try:
            return self._log_in(False, trying, connected)
        except (AccessDenied, AccessRefused, ServerUnusable):
            raise
        except LoginRefused:
            if not self._mailbox.oauth2:
                raise
        return self._log_in(True, trying, connected)

    def _log_in(
        self,
        fresh: bool,
        trying: Callable[[], AbstractContextManager[None]],
        connected: Callable[[], None],
    ) -> Found:
        session = self._connect(self._mailbox, lambda: False)
        try:
            with trying():
                session.connect()
                connected()
                return self._inspect(session, self._secret(fresh))
        finally:
            session.close()

    def _inspect(self, session: Session, secret: str | AccessToken) -> Found:
        session.login(secret)
        count = session.examine().exists
        way = "IDLE offered" if session.offers_idle else "no IDLE: will be polled"
        by = f" ({session.mechanism})" if session.mechanism else ""
        inbox = f"INBOX has {count} message{'' if count == 1 else 's'}, {way}"
        return Found(_described(secret), by, inbox)

    def _secret(self, fresh: bool) -> str | AccessToken:
        mailbox = self._mailbox
        try:
            if not mailbox.oauth2:
                return self._decrypt(mailbox.stored_password)
            self._given.append(self._tokens.request(mailbox, fresh, self.hide))
            return self._given[-1]
        except AccessDenied as error:
            raise AccessDenied(self._not_tried(error), error.who) from error
        except (PasswordUnreadable, TokenUnavailable) as error:
            raise RebreakError(self._not_tried(error)) from error

    def _not_tried(self, error: RebreakError) -> str:
        where = f"{self._mailbox.host}:{self._mailbox.port}"
        return f"{error}; {where} reached over TLS, no login tried"


def _described(secret: str | AccessToken) -> str:
    if isinstance(secret, str):
        return "password opens"
    return f"access token from the backend, valid for {_time_left(secret.life_seconds)}"


def _time_left(seconds: float) -> str:
    if seconds == math.inf:
        return "a time that it does not tell"
    return f"{int(seconds // 60)}min" if seconds >= 60 else f"{int(seconds)}s"
