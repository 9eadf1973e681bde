"""The errors of the program, named by what must be done about them.

Each carries one sentence for the log. Adapters raise them with ``from``; nothing above an adapter
sees an exception of psycopg, IMAPClient or requests.
"""

from __future__ import annotations


class RebreakError(Exception):
    """An expected failure; its text is fit for the log."""


class ConfigError(RebreakError):
    """The environment is wrong: somebody must fix it before the daemon can run.

    ``problems`` holds one sentence for each variable that is missing or wrong.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class DatabaseError(RebreakError):
    """The connection list could not be read: keep what runs and try again."""


class NoFingerprint(DatabaseError):
    """The rows have no fingerprint: their changes are seen at the next refresh only."""


class PasswordUnreadable(RebreakError):
    """A stored password does not open: park the mailbox until its row changes."""


class MailboxUnusable(RebreakError):
    """The row cannot lead to a session: park the mailbox until somebody fixes the row."""


class LoginRefused(RebreakError):
    """The server refused the login: park the mailbox, ``who`` must act.

    ``is_clear``: its words are known to be about the account. Where they are not, and where the
    password has worked before, it is tried again a few times first.
    """

    def __init__(self, text: str, *, is_clear: bool = True, who: str = "the user") -> None:
        super().__init__(text)
        self.is_clear, self.who = is_clear, who


class AccessDenied(LoginRefused):
    """No access token would help, or the backend has none to give: park the mailbox."""

    def __init__(self, text: str, who: str) -> None:
        super().__init__(text, who=who)


class TokenUnavailable(RebreakError):
    """The backend gave no access token this time: ask again, with back-off.

    ``retry_after_seconds`` is what it asked for, or None. ``is_for_all`` where all mailboxes fare
    the same, such as where nobody listens; None where that, or one mailbox's trouble, may be it.
    ``who`` must act: "nobody" where it may pass by itself, or "the operator".
    """

    def __init__(
        self,
        text: str,
        retry_after_seconds: float | None = None,
        *,
        is_for_all: bool | None = False,
        who: str = "nobody",
    ) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds
        self.is_for_all = is_for_all
        self.who = who


class AccessRefused(LoginRefused):
    """The server took the password and does not open INBOX, for what the account is."""


class ServerUnusable(LoginRefused):
    """The server is not one that the row can be used with: the operator must act.

    It may be one again, with the row as it is: it is tried as seldom as a refused login.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, who="the operator")


class SessionLost(RebreakError):
    """The connection broke, or could not be made: reconnect with back-off."""


class IdleUnanswered(SessionLost):
    """The connection stands, and IDLE has no answer: where that happens again, do without IDLE."""


class SessionEnded(SessionLost):
    """The server itself ended it: by BYE, or by NO or BAD to a command that it took before."""


class NotConnected(SessionEnded):
    """The login worked, and INBOX cannot be opened all the same."""


class HostUnreachable(SessionLost):
    """Not even a secured connection came about: others at that host may fare the same.

    ``answered`` tells whether the host said anything at all, if only that it refuses.
    """

    def __init__(self, text: str, answered: bool = False) -> None:
        super().__init__(text)
        self.answered = answered


class NameUnusable(HostUnreachable):
    """The trouble is the name's: it does not resolve, or the certificate is for another one.

    Other names may well lead to the same server.
    """


class ScanFailed(RebreakError):
    """The backend did not take the scan: it stays owed.

    ``retry_after_seconds`` is what the backend asked for, or None; ``is_answer`` tells whether it
    was the backend that refused.
    """

    def __init__(
        self, text: str, retry_after_seconds: float | None = None, *, is_answer: bool = False
    ) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds
        self.is_answer = is_answer


class BackendUnavailable(ScanFailed):
    """The backend itself is away: connections refused or timed out, 502, 503, 504.

    ``is_certain``: no connection could be made at all, so all requests fare the same. False where
    one request alone may have met it: 502, 503, 504, an answer that did not come in time.
    """

    def __init__(
        self, text: str, retry_after_seconds: float | None = None, *, is_certain: bool
    ) -> None:
        super().__init__(text, retry_after_seconds)
        self.is_certain = is_certain


class Interrupted(RebreakError):
    """The wait was ended from another thread, because the mailbox is to stop."""
