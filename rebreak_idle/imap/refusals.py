"""What a server's refusal means, and whose move it is; pure.

Decided by the response code where there is one (RFC 5530, section 3; RFC 9051, section 7.1), else
by texts of known servers. A refusal that the table does not know counts as the credentials': a
password that is tried again and again locks accounts, and gets the whole IP address blocked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Blame(Enum):
    """Who must act before it can work."""

    USER = "the user's move: the password or the mail account's settings"
    PROVIDER = "the provider's move: it is tried again"


@dataclass(frozen=True, slots=True)
class _Entry:
    code: str
    blame: Blame
    source: str


@dataclass(frozen=True, slots=True)
class _Text:
    pattern: str
    blame: Blame
    source: str


CODES = (
    _Entry("AUTHENTICATIONFAILED", Blame.USER, "RFC 5530: wrong name or password"),
    _Entry("AUTHORIZATIONFAILED", Blame.USER, "RFC 5530: may not act as that user"),
    _Entry("EXPIRED", Blame.USER, "RFC 5530: the password has expired"),
    _Entry("PRIVACYREQUIRED", Blame.USER, "RFC 5530: not over this connection"),
    _Entry("CONTACTADMIN", Blame.USER, "RFC 5530: the user should contact the administrator"),
    _Entry("WEBALERT", Blame.USER, "Gmail: the user must confirm in a browser"),
    _Entry("UNAVAILABLE", Blame.PROVIDER, "RFC 5530: a subsystem is down for now"),
    _Entry("LIMIT", Blame.PROVIDER, "RFC 5530: a limit of the server is reached"),
    _Entry("INUSE", Blame.PROVIDER, "RFC 5530: something is locked for now"),
    _Entry("OVERQUOTA", Blame.PROVIDER, "RFC 5530: the account is over its quota"),
    _Entry("SERVERBUG", Blame.PROVIDER, "RFC 5530: an internal error"),
    _Entry("THROTTLED", Blame.PROVIDER, "Gmail and others: too much for now"),
)

# Where no code tells, or only ALERT, which says nothing of the reason (RFC 9051, section 7.1).
TEXTS = (
    _Text(
        r"too many simultaneous connections",
        Blame.PROVIDER,
        "Gmail: https://support.google.com/mail/answer/7126229",
    ),
    _Text(
        r"maximum number of connections",
        Blame.PROVIDER,
        "Dovecot, mail_max_userip_connections: src/imap-login/imap-login-client.c",
    ),
    _Text(
        r"authenticated but not connected",
        Blame.PROVIDER,
        "Outlook and Exchange: the mailbox cannot be opened for now",
    ),
    _Text(r"too many (login|auth|connection)", Blame.PROVIDER, "several: rate limits"),
    _Text(r"rate limit|temporar|try again later", Blame.PROVIDER, "several: temporary failures"),
    _Text(r"internal (server )?error", Blame.PROVIDER, "several: an internal error"),
)

_CODE = re.compile(r"\[([A-Za-z0-9-]+)[^\]]*\]")


def classify_refusal(text: str) -> Blame:
    """Who must act after a NO to LOGIN or AUTHENTICATE with this text."""
    codes = {found.upper() for found in _CODE.findall(text)}
    for entry in CODES:
        if entry.code in codes:
            return entry.blame
    for known in TEXTS:
        if re.search(known.pattern, text, re.IGNORECASE):
            return known.blame
    return Blame.USER
