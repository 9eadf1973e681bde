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
    """``is_general``: it names no cause, so that another one beside it counts."""

    pattern: str
    blame: Blame
    source: str
    is_general: bool = False


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

# Where no code tells, or only ALERT, which says nothing of the reason (RFC 9051, section 7.1).
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
        r"maintenance|(going|shutting) down|shutdown|overload|"
        r"(server|system|service) (is )?(currently )?(too )?busy|err\.login\.systembusy",
        Blame.PROVIDER,
        "RFC 9051, section 7.1.5, says of BYE when; some servers say it in NO; Coremail",
    ),
    _Text(
        r"imap[\w ]*(disabled|not (enabled|allowed|permitted|activated)|(switched|turned) off)|"
        r"(enabled for|(enable|activate)( your account for)?( the)?) imap|service is not open",
        Blame.USER,
        "Courier, IMAP access disabled for this account: imap/imapd.c, disableimap; Gmail, Your "
        "account is not enabled for IMAP use; Zoho, You are yet to enable IMAP for your account; "
        "Yandex, IMAP is disabled: https://github.com/Foundry376/Mailspring/issues/2111; Interia, "
        "at EXAMINE, Please enable IMAP; QQ, service is not open",
    ),
    _Text(
        r"unsafe login",
        Blame.USER,
        "163.com, 126.com, at EXAMINE: https://github.com/joeyates/imap-backup/issues/217",
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
        r"(account|user)( is| has been| was)?( temporarily)? "
        r"(disabled|locked|blocked|suspended|expired|deactivated|abnormal)|"
        r"passphrase expired|password (is |has )?expired",
        Blame.USER,
        "Outlook.com, Account is blocked; Cyrus: cyrus-sasl, lib/common.c; QQ",
    ),
    _Text(
        r"(invalid|incorrect|wrong|bad|unknown) "
        r"(user|e-?mail|account|login(?! command)|log-in|password|credential|auth"
        r"(?!\w* (mechanism|method|type|command|server)))|"
        r"(credentials?|password|login) (is |are |was )?"
        r"(invalid|incorrect|wrong|not accepted|rejected)|"
        r"(user|account) (is |was )?(not found|unknown|do(es)?( not|n't) exist)|"
        r"no such (user|account)|password (error|mismatch|do(es)?( not|n't) match)",
        Blame.USER,
        "Gmail, Yahoo, Yandex and Zoho, Invalid credentials; nginx, Invalid login or password: "
        "https://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html; Mailu, Authentication "
        "credentials invalid: https://github.com/Mailu/Mailu/issues/2283; Yahoo, Incorrect "
        "username or password: https://github.com/RainLoop/rainloop-webmail/issues/1354; 163.com, "
        "LOGIN Login error or password error; QQ, password is incorrect, or system is busy: "
        "https://github.com/chengazhen/cursor-auto-free/issues/294",
    ),
    _Text(
        r"err\.login\.(passerr|usernotexist|reqcode|domain|illegal)",
        Blame.USER,
        "Coremail (NetEase's mail for companies): its codes with their texts are in the web client",
    ),
    _Text(
        r"(login|logon|authenticate|authentication|authorization) "
        r"(fail(ed|ure)?|unsuccessful)\b(?!:)",
        Blame.USER,
        "Exchange and Office 365, LOGIN failed: https://github.com/jstedfast/MailKit/issues/483; "
        "Authentication unsuccessful: https://github.com/simonrob/email-oauth2-proxy/issues/68; "
        "GMX, WEB.DE and 1&1: https://github.com/imapsync/imapsync/issues/140; Courier, Login "
        "failed: imap/imaplogin.c; Cyrus, Login failed: authentication failure: imap/imapd.c; "
        "Dovecot and iCloud, Authentication failed; QQ, Login fail",
        is_general=True,
    ),
)

# Causes that pass. Alone they tell nothing; beside words of the account they make these doubtful.
_MAY_PASS = re.compile(
    r"time[d-]?[ -]?out|\bbusy\b|by another|\bin use\b|frequen|too (many|often|fast)|later|"
    r"temporar|please wait|in a (moment|few)|simultaneous|concurrent|"
    r"(connection|network|database|ldap|backend|server|system)\w* (error|fail|problem|lost|down)|"
    r"(cannot|can't|could not|couldn't|unable to|failed to) (connect|reach|contact|access|open)",
    re.IGNORECASE,
)

# The command is not understood, or not offered: another way to log in may be.
_COMMAND_REFUSED = re.compile(
    r"\[(CANNOT|PRIVACYREQUIRED)\b|"
    r"(command|\blogin|plain ?text auth\w*)( is| has been)? "
    r"(unknown|unrecognized|disabled|disallowed|"
    r"not (supported|enabled|allowed|implemented|available|permitted|recognized|recognised))|"
    r"(unknown|unsupported|unrecognized|unrecognised|invalid|disabled|no such) "
    r"(login )?(command|mechanism)|use authenticate",
    re.IGNORECASE,
)

_CODE = re.compile(r"\[([A-Za-z0-9-]+)[^\]]*\]")


def classify_code(text: str) -> Blame:
    """Who must act by the response code alone; UNKNOWN where there is none that tells."""
    codes = {found.upper() for found in _CODE.findall(text)}
    return next((entry.blame for entry in CODES if entry.code in codes), Blame.UNKNOWN)


def classify_refusal(text: str) -> Blame:
    """Who must act after a NO to LOGIN or AUTHENTICATE with this text.

    Where it names both the account and what passes by itself, nobody knows. Trouble outweighs words
    that name no cause: Cyrus says "Login failed:" before all of them.
    """
    if (by_code := classify_code(text)) is not Blame.UNKNOWN:
        return by_code
    fitting = [known for known in TEXTS if re.search(known.pattern, text, re.IGNORECASE)]
    by_cause = {known.blame for known in fitting if not known.is_general}
    if by_cause == {Blame.PROVIDER}:
        return Blame.PROVIDER
    if not fitting or len(by_cause) > 1 or _MAY_PASS.search(text):
        return Blame.UNKNOWN
    return Blame.USER


def classify_bad(text: str) -> Blame:
    """Who must act after a BAD: it says that the command was not understood, so that words of
    credentials in it tell nothing. iCloud answers BAD [UNAVAILABLE].
    """
    blame = classify_refusal(text)
    return classify_code(text) if blame is Blame.USER else blame


def is_about_command(text: str) -> bool:
    """Whether a NO refuses the way to log in, not the credentials."""
    return bool(_COMMAND_REFUSED.search(text))
