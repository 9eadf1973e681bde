"""The login by access token: SASL XOAUTH2 where it is offered, else OAUTHBEARER.

XOAUTH2: https://developers.google.com/workspace/gmail/imap/xoauth2-protocol and
https://learn.microsoft.com/exchange/client-developer/legacy-protocols/how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth;
OAUTHBEARER: RFC 7628. IMAPClient's `oauth2_login` and `oauthbearer_login` answer the challenge that
tells the error with the token again, so `sasl_login` is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from imapclient.exceptions import IMAPClientError

from ..access_token import AccessToken
from ..errors import AccessDenied, LoginRefused, MailboxUnusable, SessionLost
from ..mailbox import Mailbox
from .client import Client
from .login import refusals

# The token's and the error's; a server that asks on wants something else.
MOST_CHALLENGES = 3
MAX_CHALLENGE_BYTES = 8 * 1024
_STATUS = re.compile(r"[\w.-]{1,40}")


def log_in_by_token(
    client: Client, mailbox: Mailbox, token: AccessToken, redacted: Callable[[str], str]
) -> str:
    """Log in; the mechanism that did it. ``redacted`` takes the token out of what the server says.

    Raises:
        LoginRefused: the server refused the token.
        AccessDenied: it takes none at all.
        SessionLost: it refused for trouble of its own.
        IMAPClientError, OSError: the connection broke without a word of either.
    """
    username = token.username or mailbox.username
    if re.search(r"[\x00-\x1f\x7f]", username):
        raise MailboxUnusable("the user name contains a control character: fix the row")
    mechanism = _mechanism(client)
    exchange = _Exchange(client, _message(mechanism, username, mailbox, token), mechanism, redacted)
    try:
        with refusals(client.transport, username, redacted, exchange.what):
            client.sasl_login(mechanism, exchange.answer)
    except LoginRefused as error:
        exchange.raise_if_it_may_pass(str(error))
        raise
    except (IMAPClientError, OSError) as error:
        if exchange.status:
            exchange.raise_if_it_may_pass(f"the server refused {exchange.what()}")
            raise LoginRefused(f"the server refused {exchange.what()}") from error
        raise
    return mechanism


def _mechanism(client: Client) -> str:
    offered = client.transport.capabilities
    for mechanism in ("XOAUTH2", "OAUTHBEARER"):
        if f"AUTH={mechanism}" in offered:
            return mechanism
    raise AccessDenied(
        "the server takes no access token here, neither by XOAUTH2 nor by OAUTHBEARER: "
        "see imap_host and imap_auth in the row",
        "the operator",
    )


def _message(mechanism: str, username: str, mailbox: Mailbox, token: AccessToken) -> str:
    """What the client says first, before base64."""
    bearer = f"auth=Bearer {token.value}\x01\x01"
    if mechanism == "XOAUTH2":
        return f"user={username}\x01{bearer}"
    name = username.replace("=", "=3D").replace(",", "=2C")  # RFC 5801, section 4
    return f"n,a={name},\x01host={mailbox.host}\x01port={mailbox.port}\x01{bearer}"


class _Exchange:
    """The dialogue of one login."""

    def __init__(
        self, client: Client, message: str, mechanism: str, redacted: Callable[[str], str]
    ) -> None:
        self.status = ""
        """What the server's JSON tells, empty where it told none."""
        self._client = client
        self._message = message
        self._error_answer = "" if mechanism == "XOAUTH2" else "\x01"  # RFC 7628, section 3.2.3
        self._redacted = redacted
        self._challenges = 0

    def answer(self, challenge: bytes) -> str | None:
        """The answer to the next challenge; None gives the exchange up."""
        self._challenges += 1
        if self._challenges == 1:
            return self._message
        if self._challenges > MOST_CHALLENGES:
            self._client.transport.stream.limit_exceeded("the server asks again and again at login")
        self.status = self.status or self._redacted(_status(challenge))
        return self._error_answer if self._challenges == 2 else None

    def what(self) -> str:
        """What the server refused."""
        return f"the access token (status {self.status})" if self.status else "the access token"

    def raise_if_it_may_pass(self, text: str) -> None:
        """Raises:
        SessionLost: the status is one of HTTP that means trouble of the server's own.
        """
        if re.fullmatch("5[0-9][0-9]", self.status):
            raise SessionLost(f"provider trouble: {text}")


def _status(challenge: bytes) -> str:
    """``status`` in the JSON of the error challenge, "unknown" where it holds none."""
    try:
        status = json.loads(challenge[:MAX_CHALLENGE_BYTES])["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "unknown"
    return str(status) if _STATUS.fullmatch(str(status)) else "unknown"
