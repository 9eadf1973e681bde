"""Reading one mailbox, and deleting what is gambling in it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from imapclient import DELETED, IMAPClient
from imapclient.exceptions import IMAPClientError, LoginError

from rebreak_idle.mailbox import Mailbox
from scripts.tools.stand_in_backend.judge import Judge
from scripts.tools.stand_in_backend.tokens import Token, log_in_by_token

# How many messages one FETCH asks for: it keeps the command line well under RFC 7162's 8192 octets.
FETCH_SIZE = 500
HEADERS = b"BODY.PEEK[HEADER.FIELDS (FROM SUBJECT)]"


class Counts(NamedTuple):
    """What one scan did; the answer's JSON."""

    scanned: int
    blocked: int


@dataclass
class Ledger:
    """How far one mailbox has been judged. Only who holds ``lock`` may read or change it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    uidvalidity: int | None = None
    highest_uid: int = 0


@contextmanager
def logged_in(
    mailbox: Mailbox, password: str | Token, context: ssl.SSLContext, timeout_seconds: float
) -> Iterator[IMAPClient]:
    """A session of the mailbox over verified TLS, closed afterwards."""
    client = IMAPClient(
        mailbox.host,
        port=mailbox.port,
        ssl=not mailbox.starttls,
        ssl_context=context,
        timeout=timeout_seconds,
    )
    try:
        if mailbox.starttls:
            client.starttls(context)
        _log_in(client, mailbox.username, password)
        yield client
        with suppress(IMAPClientError, OSError):
            client.logout()
    finally:
        with suppress(OSError):  # closed already by the logout
            client.shutdown()


def _log_in(client: IMAPClient, username: str, password: str | Token) -> None:
    if isinstance(password, Token):
        log_in_by_token(client, username, password)
        return
    # LOGIN carries ASCII only, PLAIN any UTF-8 (RFC 9051, section 6.2.3; RFC 4616, section 2).
    login = client.login if (username + password).isascii() else client.plain_login
    try:
        login(username, password)
    except LoginError as error:
        # A server may quote what it was sent.
        raise LoginError(f"login failed: {str(error).replace(password, '***')}") from None


def scan_inbox(client: IMAPClient, ledger: Ledger, judge: Judge) -> Counts:
    """Judge the mail of INBOX that ``ledger`` does not know yet, and delete what is gambling."""
    uidvalidity = client.select_folder("INBOX").get(b"UIDVALIDITY")
    known = ledger.highest_uid if uidvalidity == ledger.uidvalidity else 0
    # "n:*" always holds the last message, even where its UID is below n (RFC 9051, section 9).
    uids = [uid for uid in client.search(["UID", f"{known + 1}:*"]) if uid > known]
    judged = dict(_judgements(client, uids, judge))
    unwanted = {uid: reason for uid, reason in judged.items() if reason}
    _delete(client, unwanted)
    # Noted only now: where anything above failed, the next scan must judge this mail again.
    ledger.uidvalidity, ledger.highest_uid = uidvalidity, max(uids, default=known)
    return Counts(scanned=len(judged), blocked=len(unwanted))


def _judgements(client: IMAPClient, uids: list[int], judge: Judge) -> Iterator[tuple[int, str]]:
    """UID and reason of each message that is still there."""
    for start in range(0, len(uids), FETCH_SIZE):
        wanted = uids[start : start + FETCH_SIZE]
        for uid, items in client.fetch(wanted, [HEADERS]).items():
            headers = next((items[key] for key in items if key.startswith(b"BODY[")), None)
            if uid in wanted and headers is not None:
                yield uid, judge.reason_to_delete(headers)


def _delete(client: IMAPClient, unwanted: dict[int, str]) -> None:
    if not unwanted:
        return
    uids = list(unwanted)
    client.add_flags(uids, [DELETED], silent=True)
    # Plain EXPUNGE also removes what somebody else has flagged \Deleted, hence UIDPLUS (RFC 4315).
    if client.has_capability("UIDPLUS"):
        client.uid_expunge(uids)
    else:
        client.expunge()
