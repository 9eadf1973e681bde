"""What a server's refusal means, and whose move it is; pure.

Decided by the response code where there is one (RFC 5530, section 3; RFC 9051, section 7.1), else
by texts of known servers. What neither table knows is UNKNOWN: it may be a wrong password, which
locks accounts when it is tried again and again, and it may be trouble that passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Blame(Enum):
    """Who must act before it can work."""

    USER = "the user's move: the password or the mail account's settings"
    PROVIDER = "the provider's move: it is tried again"
    UNKNOWN = "nobody knows: it is tried again a few times"


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
    _Entry("CORRUPTION", Blame.PROVIDER, "RFC 5530: the server's data are broken"),
    _Entry("THROTTLED", Blame.PROVIDER, "Gmail and others: too much for now"),
    _Entry("TEMPFAIL", Blame.PROVIDER, "RFC 5259, section 9; Outlook.com"),
)

# Where no code tells, or only ALERT, which says nothing of the reason (RFC 9051, section 7.1). The
# first that fits counts. Trouble that passes comes first: Cyrus says "Login failed:" before it.
TEXTS = (
    _Text(
        r"too many (?!(failed|invalid|bad|incorrect|wrong|unsuccessful)\b)"
        r"([\w-]+ ){0,3}(connection|session|login|auth|request|attempt|user|process)",
        Blame.PROVIDER,
        "Gmail, Too many simultaneous connections: https://support.google.com/mail/answer/7126229; "
        "Cyrus, Too many open connections (2 of 2 for …): imap/imapd.c, checklimits",
    ),
    _Text(
        r"maximum number of connections",
        Blame.PROVIDER,
        "Dovecot, mail_max_userip_connections: src/imap-login/imap-login-client.c",
    ),
    _Text(
        r"(over|exceeded|reached)[\w -]* limit|limits? (is |was |has been )?(exceeded|reached|hit)",
        Blame.PROVIDER,
        "nginx's mail proxy, User over connection limit; Yahoo and AOL, LOGIN Rate limit hit; "
        "Gmail, Account exceeded command or bandwidth limits: "
        "https://support.google.com/a/answer/1071518",
    ),
    _Text(
        r"(server|service|system|mailbox) (is |are )?(currently )?(un|not )available",
        Blame.PROVIDER,
        "Exchange, Server Unavailable. 15: https://github.com/lefcha/imapfilter/issues/146; "
        "Cyrus, remote authentication server unavailable: cyrus-sasl, lib/common.c",
    ),
    _Text(
        r"throttled|rate[- ]limit",
        Blame.PROVIDER,
        "Exchange, Request is throttled. Suggested Backoff Time: …: "
        "https://github.com/simonrob/email-oauth2-proxy; Mailu: "
        "https://github.com/Mailu/Mailu/issues/2283",
    ),
    _Text(
        r"temporar|transient|try (it )?(again )?(later|in a)|again later",
        Blame.PROVIDER,
        "Courier, Temporary problem, please try again later: imap/imaplogin.c; Dovecot, Temporary "
        "authentication failure and Account is temporarily unavailable: src/login-common; iCloud, "
        "Service temporarily unavailable: https://github.com/MailCore/mailcore2/pull/1642; Yahoo, "
        "Server error - Please try again later: https://github.com/joeyates/imap-backup/issues/218",
    ),
    _Text(
        r"authenticated but not connected",
        Blame.PROVIDER,
        "Outlook and Exchange, the mailbox cannot be opened for now: "
        "https://github.com/mscdex/node-imap/issues/523",
    ),
    _Text(
        r"generic failure|no memory available|internal login failure",
        Blame.PROVIDER,
        "Cyrus, saslauthd is down: imap/imapd.c, cmd_login, with cyrus-sasl, lib/common.c; "
        "Dovecot: src/login-common/client-common.c",
    ),
    _Text(
        r"(internal|server|system) (server )?(error|problem)",
        Blame.PROVIDER,
        "Gmail, System Error (Failure): https://github.com/OfflineIMAP/offlineimap/issues/682; "
        "Yahoo, Server error; Yandex, internal server error; nginx, internal server error",
    ),
    _Text(
        r"maintenance|(going|shutting) down|shutdown|overload|server (is )?(too )?busy",
        Blame.PROVIDER,
        "RFC 9051, section 7.1.5, says of BYE when; some servers say it in NO",
    ),
    _Text(
        r"imap[\w ]*(disabled|not (enabled|allowed|permitted)|switched off)|"
        r"(enabled for|enable) imap",
        Blame.USER,
        "Courier, IMAP access disabled for this account: imap/imapd.c, disableimap; Gmail, Your "
        "account is not enabled for IMAP use; Zoho, You are yet to enable IMAP for your account; "
        "Yandex, IMAP is disabled: https://github.com/Foundry376/Mailspring/issues/2111",
    ),
    _Text(
        r"web ?(browser|login)|basic auth\w* is disabled",
        Blame.USER,
        "Gmail: https://support.google.com/mail/accounts/answer/78754; Outlook.com: "
        "https://github.com/mscdex/node-imap/issues/799; Office 365",
    ),
    _Text(
        r"app?(lication)?[- ](specific[- ])?password|parol prilozheniya",
        Blame.USER,
        "Gmail: https://support.google.com/accounts/answer/185833; Mail.ru, spelled as it is: "
        "https://github.com/thunderbird/thunderbird-android/issues/9069",
    ),
    _Text(
        r"(account|user)( is| has been| was)? (disabled|locked|blocked|suspended|expired)|"
        r"passphrase expired|password (is |has )?expired",
        Blame.USER,
        "Outlook.com, Account is blocked; Cyrus: cyrus-sasl, lib/common.c",
    ),
    _Text(
        r"(invalid|incorrect|wrong|bad|unknown) (user|login|log-in|password|credential|auth)|"
        r"(credentials?|password|login) (is |are |was )?(invalid|incorrect|wrong|not accepted)|"
        r"user not found|no such user",
        Blame.USER,
        "Gmail, Yahoo, Yandex and Zoho, Invalid credentials; nginx, Invalid login or password: "
        "https://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html; Mailu, Authentication "
        "credentials invalid: https://github.com/Mailu/Mailu/issues/2283",
    ),
    _Text(
        r"(login|logon|authenticate|authentication|authorization) (failed|failure)(?!:)",
        Blame.USER,
        "Exchange and Office 365, LOGIN failed: https://github.com/jstedfast/MailKit/issues/483; "
        "GMX, WEB.DE and 1&1: https://github.com/imapsync/imapsync/issues/140; Courier, Login "
        "failed: imap/imaplogin.c; Cyrus, Login failed: authentication failure: imap/imapd.c; "
        "Dovecot and iCloud, Authentication failed",
    ),
)

_CODE = re.compile(r"\[([A-Za-z0-9-]+)[^\]]*\]")


def classify_code(text: str) -> Blame:
    """Who must act by the response code alone; UNKNOWN where there is none that tells."""
    codes = {found.upper() for found in _CODE.findall(text)}
    return next((entry.blame for entry in CODES if entry.code in codes), Blame.UNKNOWN)


def classify_refusal(text: str) -> Blame:
    """Who must act after a NO to LOGIN or AUTHENTICATE with this text."""
    if (by_code := classify_code(text)) is not Blame.UNKNOWN:
        return by_code
    fitting = (known for known in TEXTS if re.search(known.pattern, text, re.IGNORECASE))
    return next((known.blame for known in fitting), Blame.UNKNOWN)


def classify_bad(text: str) -> Blame:
    """Who must act after a BAD: it says that the command was not understood, so that words of
    credentials in it tell nothing. iCloud answers BAD [UNAVAILABLE].
    """
    blame = classify_refusal(text)
    return classify_code(text) if blame is Blame.USER else blame
