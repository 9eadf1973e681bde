"""A scan on request, from the row to the last deletion."""

from __future__ import annotations

import ssl
import threading
from collections import defaultdict
from http import HTTPStatus

from imapclient.exceptions import IMAPClientError

from rebreak_idle.cipher import PasswordCipher
from rebreak_idle.config import Config
from rebreak_idle.errors import DatabaseError, PasswordUnreadable
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.store import ConnectionStore
from scripts.tools.stand_in_backend.inbox import Counts, Ledger, logged_in, scan_inbox
from scripts.tools.stand_in_backend.judge import Judge
from scripts.tools.stand_in_backend.tokens import Token, TokenMaker


class Refusal(Exception):
    """The request gets this status and this sentence instead of a scan."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Scanner:
    """Scans mailboxes on request. Any number of threads may call."""

    def __init__(self, config: Config, judge: Judge, tokens: TokenMaker) -> None:
        self._tokens = tokens
        self._store = ConnectionStore(config.database, config.query)
        self._cipher = PasswordCipher(config.encryption_key, config.encryption_layout)
        self._timeout_seconds = config.imap_timeout_seconds
        self._judge = judge
        self._context = ssl.create_default_context()
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._ledgers: defaultdict[tuple[object, ...], Ledger] = defaultdict(Ledger)
        self._ledgers_lock = threading.Lock()

    def scan(self, connection_id: str, user_id: str) -> Counts:
        """One scan, from the row to the last deletion.

        Raises:
            Refusal: it could not be done; the mailbox may hold unjudged mail.
        """
        mailbox = self.mailbox(connection_id, user_id)
        ledger = self._ledger(mailbox)
        with ledger.lock:
            return self._scan(mailbox, ledger)

    def _ledger(self, mailbox: Mailbox) -> Ledger:
        # A row may come to mean another mailbox, and UIDVALIDITY alone need not tell the two apart.
        account = (mailbox.id, mailbox.host, mailbox.port, mailbox.username)
        with self._ledgers_lock:
            return self._ledgers[account]

    def mailbox(self, connection_id: str, user_id: str) -> Mailbox:
        """The row.

        Raises:
            Refusal: there is none, or the database is in trouble.
        """
        try:
            rows = self._store.read()
        except DatabaseError as error:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"database: {error}") from error
        for mailbox in rows:
            if (mailbox.id, mailbox.user_id) == (connection_id, user_id):
                return mailbox
        raise Refusal(HTTPStatus.NOT_FOUND, "no active connection of that user has this id")

    def _scan(self, mailbox: Mailbox, ledger: Ledger) -> Counts:
        if mailbox.problem:
            raise Refusal(HTTPStatus.BAD_GATEWAY, f"{mailbox.name}: {mailbox.problem}")
        try:
            secret = self._secret(mailbox)
            with logged_in(mailbox, secret, self._context, self._timeout_seconds) as client:
                return scan_inbox(client, ledger, self._judge)
        except (PasswordUnreadable, IMAPClientError, OSError, ValueError) as error:
            text = f"{mailbox.name}: {error or type(error).__name__}"
            raise Refusal(HTTPStatus.BAD_GATEWAY, text) from error

    def _secret(self, mailbox: Mailbox) -> str | Token:
        if mailbox.oauth2:
            return self._tokens.token(mailbox)
        return self._cipher.decrypt(mailbox.stored_password)
