"""What is known of one INBOX: what was announced, what EXAMINE found, and what to make of both."""

from __future__ import annotations

from collections.abc import Callable

from .config import Config
from .idle_tries import IdleTries
from .imap.renewal import Renewal
from .imap.responses import Kind, Line
from .imap.uids import Finding, Snapshot, UidTracker
from .limits import interval_text
from .log import Logger, RepeatFilter, sanitize
from .scan.pending import CATCH_UP, EXISTS


class Inbox:
    """Outlives the sessions of its mailbox. Used by the mailbox's thread."""

    def __init__(self, config: Config, logger: Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self.idle_tries = IdleTries(config, logger, clock)
        self._uids = UidTracker()
        self._renewal = Renewal(config.idle_renew_seconds)
        self._unreadable = RepeatFilter(clock)
        self._was_told_late = False

    @property
    def renew_seconds(self) -> float:
        """How long the next IDLE is to last."""
        return self._renewal.interval_seconds

    def hear(self, lines: list[Line], in_idle: bool = True) -> str | None:
        """Take in what the server said; the reason for a scan, or None.

        What it says only once it is asked, not ``in_idle``, is no proof that it announces mail.
        """
        is_news = grew = False
        for line in lines:
            if line.kind is Kind.EXISTS:
                grew |= line.number > self._uids.count
                is_news |= self._uids.announced(line.number)
            elif line.kind is Kind.EXPUNGE:
                self._uids.expunged(line.number)
            elif line.kind is Kind.TOO_MUCH:
                self._uids.lose_count()
                is_news = True
            elif line.kind is Kind.UNREADABLE:
                self._uids.doubt_count()
        if is_news:
            self._hear_exists(in_idle and grew)
            return EXISTS
        unreadable = [line.text for line in lines if line.kind is Kind.UNREADABLE]
        if unreadable and self._unreadable.should_log("unreadable"):
            self._logger.warning(
                "the server said what cannot be understood, a scan is made in case it was mail: %s",
                sanitize(ascii(unreadable[0])),
            )
        return CATCH_UP if unreadable else None

    def _hear_exists(self, is_announcing: bool) -> None:
        self._logger.info("exists-event received (new mail)")
        if not is_announcing:
            return
        self._was_told_late = False
        if self._renewal.announced():
            self._logger.info(
                "the server announces mail again: idle is renewed every %s as usual",
                interval_text(self.renew_seconds),
            )

    def examined(self, snapshot: Snapshot) -> Finding:
        """Take in what EXAMINE showed; anything but `Finding.NOTHING` means that a scan is owed."""
        return self._uids.examined(snapshot)

    @property
    def grew(self) -> bool:
        """Whether EXAMINE showed more messages than were announced, whatever its UIDNEXT said."""
        return self._uids.grew

    def mail_was_told_late(self) -> None:
        """The server told of mail only as IDLE was ended: once may be chance, twice is a habit."""
        if self._was_told_late:
            self.mail_was_not_announced()
            return
        self._was_told_late = True
        self._renewal.unannounced()
        self._logger.info(
            "the server told of mail only as idle was ended: idle is now renewed every %s",
            interval_text(self.renew_seconds),
        )

    def mail_was_not_announced(self) -> None:
        """A whole IDLE went by without a word of mail that came: it is renewed sooner now."""
        self._renewal.unannounced()
        self._logger.warning(
            "the server did not announce mail that came: idle is now renewed every %s",
            interval_text(self.renew_seconds),
        )
