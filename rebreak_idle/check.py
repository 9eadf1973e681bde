"""The preflight: everything the daemon needs, tried once; a line for each finding."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .errors import (
    DatabaseError,
    LoginRefused,
    PasswordUnreadable,
    RebreakError,
    ScanFailed,
    SessionLost,
)
from .imap.session import Session
from .log import Logger, sanitize
from .log import database_logger as logger
from .mailbox import Mailbox

MAILBOXES_AT_ONCE = 8


class Check:
    """Tries database, passwords, hosts, logins and backend; changes nothing, sends no scan."""

    def __init__(
        self,
        read_rows: Callable[[], list[Mailbox]],
        decrypt: Callable[[str], str],
        connect: Callable[[Mailbox, Callable[[], bool]], Session],
        reach_backend: Callable[[], str],
    ) -> None:
        self._read_rows = read_rows
        self._decrypt = decrypt
        self._connect = connect
        self._reach_backend = reach_backend

    def run(self) -> bool:
        """Log every finding and a summary; True when all is well."""
        logger.info("environment: ok")
        rows = self._rows()
        with ThreadPoolExecutor(MAILBOXES_AT_ONCE) as pool:
            mailboxes = list(pool.map(self._mailbox_is_well, rows or []))
        backend = self._backend_is_well()
        bad = mailboxes.count(False)
        well = rows is not None and not bad and backend
        report = logger.info if well else logger.error
        report(
            "check %s — database %s, %d of %d mailboxes ready, backend %s",
            "passed" if well else "failed",
            "ok" if rows is not None else "not usable",
            len(mailboxes) - bad,
            len(mailboxes),
            "reached" if backend else "not reached",
        )
        return well

    def _rows(self) -> list[Mailbox] | None:
        try:
            rows = self._read_rows()
        except DatabaseError as error:
            logger.error("database: %s", sanitize(str(error)))
            return None
        logger.info("database: ok, %d active connections", len(rows))
        return rows

    def _backend_is_well(self) -> bool:
        try:
            answer = self._reach_backend()
        except ScanFailed as error:
            logger.error("backend: %s", sanitize(str(error)))
            return False
        logger.info("backend: reached (it answers %s; no scan was sent)", sanitize(answer))
        return True

    def _mailbox_is_well(self, mailbox: Mailbox) -> bool:
        report = Logger(mailbox.name)
        try:
            found = self._try_mailbox(mailbox)
        except SessionLost as error:  # its text says whose trouble it is
            report.error("%s", sanitize(str(error)))
            return False
        except RebreakError as error:
            who = "the user" if isinstance(error, LoginRefused) else "the operator"
            report.error("%s (%s must act)", sanitize(str(error)), who)
            return False
        except Exception:  # noqa: BLE001  # one mailbox's trouble hides no other's
            report.exception("unexpected error:")
            return False
        report.info(
            "password opens, %s:%d reached over TLS, login ok, %s",
            mailbox.host,
            mailbox.port,
            found,
        )
        return True

    def _try_mailbox(self, mailbox: Mailbox) -> str:
        if mailbox.problem:
            raise RebreakError(f"the row cannot be used: {mailbox.problem}")
        session = self._connect(mailbox, lambda: False)
        try:
            session.connect()
            try:
                password = self._decrypt(mailbox.stored_password)
            except PasswordUnreadable as error:
                where = f"{mailbox.host}:{mailbox.port}"
                raise RebreakError(f"{error}; {where} reached over TLS, no login tried") from error
            session.login(password)
            count = session.examine().exists
            way = "IDLE offered" if session.offers_idle else "no IDLE: will be polled"
            return f"INBOX has {count} messages, {way}"
        finally:
            session.close()
