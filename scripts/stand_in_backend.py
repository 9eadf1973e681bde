#!/usr/bin/env python3
"""The development stand-in for Rebreak's backend: it answers the daemon's scan request for real.

    python scripts/stand_in_backend.py [--port 3016] [--blocklist scripts/blocklist.txt]

It reads the daemon's own environment (and ``.env``), listens on loopback only, and deletes mail by
two simple rules: the sender's domain, or a parent of it, is on the blocklist; or the subject or
the sender's name carries a gambling keyword. What it deletes is gone: use it on test mailboxes.

The backend's half of the contract, which the real backend keeps as well:

*   ``POST /api/mail/scan-internal`` takes ``{"connectionId", "userId", "reason"}`` as JSON, with
    ``ADMIN_SECRET`` in the header ``x-admin-secret``. Without it, or with a wrong one, the answer
    is 401 and nothing else happens. The secret is compared in constant time.
*   One scan covers all mail that arrived before it began. The daemon therefore sends one request
    for any number of announcements, and counts a mailbox as settled by it.
*   2xx means that the mailbox was really read and judged, up to its newest mail. Anything else
    leaves the scan owed, and the daemon asks again: 400 for a request that makes no sense, 404 for
    a connection that is unknown or inactive, 502 for trouble with the mailbox (its server, its
    login, its stored password), 503 for trouble with the database. "I shall do it later" is no 2xx.
*   A scan is idempotent. The daemon may ask twice for the same mail (after a lost answer, a
    reconnect, a restart); the second scan finds nothing new and does no harm.
*   Two scans of one connection never run at the same time; those of different ones do.
*   The answer is ``{"scanned": n, "blocked": m}``: messages judged by this very scan, and those of
    them that were deleted.
*   ``reason`` (``exists``, ``catch-up``, ``poll``) is for the log; all three are scanned alike.

Mailboxes with ``imap_auth`` ``oauth2`` get access tokens, and are scanned with them: see
``stand_in_tokens.py``.

What has been judged is remembered in memory, as UIDVALIDITY and the highest UID of each mailbox
(RFC 9051, section 2.3.1.1); after a restart everything is judged once more. Unlike the real
backend it lets a row lead to any host, loopback included.
"""

from __future__ import annotations

import argparse
import email
import hmac
import io
import json
import re
import signal
import ssl
import sys
import threading
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from imapclient import DELETED, IMAPClient
from imapclient.exceptions import IMAPClientError, LoginError

from rebreak_idle.cipher import PasswordCipher
from rebreak_idle.config import Config, environment, load
from rebreak_idle.errors import ConfigError, DatabaseError, PasswordUnreadable
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.store import ConnectionStore

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_tokens import (
    LIFE_SECONDS,
    Token,
    TokenMaker,
    TokenRefused,
    log_in_by_token,
    read_fresh,
)

SCAN_PATH = "/api/mail/scan-internal"
DEFAULT_PORT = 3016
REASONS = ("exists", "catch-up", "poll")
# How many messages one FETCH asks for: it keeps the command line well under RFC 7162's 8192 octets.
FETCH_SIZE = 500
HEADERS = b"BODY.PEEK[HEADER.FIELDS (FROM SUBJECT)]"

# Whole words where a part of a word would hit ordinary mail ("time slot", "alphabet", "Wette"
# in "Wetter"); parts of words where German and domain-like names grow them together.
KEYWORDS = re.compile(
    r"casino|kasino|jackpot|roulette|blackjack|baccarat|sportsbook|bookmaker"
    r"|gambling|glücksspiel|sportwette|spielautomat|freispiel|wettbonus|wettgutschein"
    r"|\bpoker\b|\bbingo\b|\bbetting\b|\b(?:free|sports?)[ -]?bets?\b|\bplace (?:a|your) bets?\b"
    r"|\b(?:free|bonus)[ -]?spins?\b|\bslot[ -]?machines?\b|\bonline[ -]slots\b"
)


class Refusal(Exception):
    """The request gets this status and this sentence instead of a scan."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


# --- judging mail ---------------------------------------------------------------------------------


def read_blocklist(path: Path) -> frozenset[str]:
    """The domains of a file: one a line, ``#`` begins a comment."""
    lines = (line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    return frozenset(_plain_domain(line) for line in lines if line.strip())


def _plain_domain(text: str) -> str:
    return text.strip().strip(".").casefold()


@dataclass(frozen=True)
class Judge:
    """Decides about one message by its From and Subject headers; may be shared by threads."""

    blocklist: frozenset[str]

    def reason_to_delete(self, headers: bytes) -> str:
        """Why the message goes, in a few words; empty where it stays."""
        message = email.message_from_string(_text(headers))
        sender = " ".join(decoded(value) for value in message.get_all("From", []))
        subject = " ".join(decoded(value) for value in message.get_all("Subject", []))
        return self._blocked_domain(sender) or _keyword(f"{_without_addresses(sender)} {subject}")

    def _blocked_domain(self, sender: str) -> str:
        for domain in re.findall(r"@\s*([^\s<>@,;:\"()]+)", sender):
            labels = _plain_domain(domain).split(".")
            parents = (".".join(labels[start:]) for start in range(len(labels)))
            if found := next((name for name in parents if name in self.blocklist), ""):
                return f"sender domain {found}"
        return ""


def _text(headers: bytes) -> str:
    try:
        return headers.decode()  # RFC 6532 allows UTF-8 without any encoding
    except UnicodeDecodeError:
        return headers.decode("latin-1")


def _keyword(text: str) -> str:
    """Which keyword ``text`` carries, full-width letters and invisible characters regardless."""
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    found = KEYWORDS.search(unicodedata.normalize("NFKC", visible).lower())
    return f"keyword {found.group()}" if found else ""


def _without_addresses(sender: str) -> str:
    return re.sub(r"\S+@\S+", " ", sender)


def decoded(value: str) -> str:
    """A header's text: unfolded, encoded words (RFC 2047) opened as far as they can be."""
    text = re.sub(r"[\r\n]+[ \t]*", " ", value)
    try:
        chunks = decode_header(text)
    except (HeaderParseError, ValueError):
        return text
    return "".join(_decoded_chunk(chunk, charset) for chunk, charset in chunks)


def _decoded_chunk(chunk: str | bytes, charset: str | None) -> str:
    if isinstance(chunk, str):
        return chunk
    try:
        return chunk.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # a charset that Python does not know, or that is no name
        return chunk.decode("latin-1")


# --- reading a mailbox ----------------------------------------------------------------------------


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
            with logged_in(
                mailbox, self._secret(mailbox), self._context, self._timeout_seconds
            ) as client:
                return scan_inbox(client, ledger, self._judge)
        except (PasswordUnreadable, IMAPClientError, OSError, ValueError) as error:
            text = f"{mailbox.name}: {error or type(error).__name__}"
            raise Refusal(HTTPStatus.BAD_GATEWAY, text) from error

    def _secret(self, mailbox: Mailbox) -> str | Token:
        if mailbox.oauth2:
            return self._tokens.token(mailbox)
        return self._cipher.decrypt(mailbox.stored_password)


# --- answering ------------------------------------------------------------------------------------


class ScanRequest(NamedTuple):
    """The body of a scan request."""

    connection_id: str
    user_id: str
    reason: str


def parse_request(body: bytes) -> ScanRequest:
    """The request that ``body`` carries.

    Raises:
        Refusal: it is no JSON, or not the object of the contract.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    for name in ("connectionId", "userId", "reason"):
        if not isinstance(found.get(name), str) or not found[name]:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{name} is missing, empty or not a string")
    if found["reason"] not in REASONS:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"reason is none of {', '.join(REASONS)}")
    return ScanRequest(found["connectionId"], found["userId"], found["reason"])


class Backend(ThreadingHTTPServer):
    """The HTTP server, with what its handlers need."""

    daemon_threads = False  # the end waits for the scans under way
    request_queue_size = 128

    def __init__(self, port: int, config: Config, judge: Judge, tokens: TokenMaker) -> None:
        self.scanner = Scanner(config, judge, tokens)
        self.tokens = tokens
        self.token_path = config.access_token_path
        self.secret = config.admin_secret.encode()
        self.secret_header = config.admin_secret_header
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers one request; the connection is closed after it (HTTP/1.0)."""

    server: Backend
    server_version = "rebreak-stand-in"
    sys_version = ""
    timeout = 5.0  # seconds for a slow sender; the end waits as long for a silent one
    # Head and body are two writes: Nagle's algorithm would hold the second back.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/":
            self._answer(HTTPStatus.OK, b"The stand-in for the backend is up.\n", "text/plain")
        else:
            self._answer_json(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})

    def do_POST(self) -> None:
        try:
            answer = self._do()
        except (Refusal, TokenRefused) as refusal:
            say(f"{refusal.status.value}: {refusal}")
            self._answer_json(refusal.status, {"error": one_line(str(refusal))})
        else:
            self._answer_json(HTTPStatus.OK, answer)

    def _do(self) -> dict[str, object]:
        # Read before anything is refused: closing on an unread body resets the connection, and
        # the answer may get lost on its way.
        body = self._body()
        given = (self.headers.get(self.server.secret_header) or "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.server.secret):
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"no right {self.server.secret_header} header")
        if self.path == self.server.token_path:
            return self._token(body)
        if self.path != SCAN_PATH:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is only {SCAN_PATH}")
        return self._scan(body)._asdict()

    def _token(self, body: bytes) -> dict[str, object]:
        connection_id, user_id, fresh = read_fresh(body)
        mailbox = self.server.scanner.mailbox(connection_id, user_id)
        answer = self.server.tokens.answer(mailbox, fresh)
        say(f"access token for {connection_id}{' (fresh)' if fresh else ''}")
        return answer

    def _scan(self, body: bytes) -> Counts:
        request = parse_request(body)
        counts = self.server.scanner.scan(request.connection_id, request.user_id)
        say(f"scan of {request.connection_id} ({request.reason}): {_shown(counts)}")
        return counts

    def _body(self) -> bytes:
        length = self.headers.get("content-length") or ""
        if not re.fullmatch(r"\d{1,5}", length, re.ASCII):
            raise Refusal(HTTPStatus.BAD_REQUEST, "no content-length, or too large a body")
        return self.rfile.read(int(length))

    def _answer_json(self, status: HTTPStatus, content: object) -> None:
        self._answer(status, json.dumps(content).encode(), "application/json")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        with suppress(ConnectionError):  # nobody waits for the answer any more
            self.send_response(status)
            self.send_header("content-type", f"{kind}; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what is worth a line gets one where it happens."""


def _shown(counts: Counts) -> str:
    return f"scanned={counts.scanned} blocked={counts.blocked}"


def one_line(text: str) -> str:
    """``text`` fit for a log line: nothing in it can end the line or steer a terminal."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(clean.split())[:300]


_saying = threading.Lock()


def say(text: str) -> None:
    """Write one log line at once."""
    with _saying:
        print(f"[backend] {one_line(text)}", flush=True)


# --- the process ----------------------------------------------------------------------------------


def main() -> int:
    """Serve until SIGTERM or SIGINT. Exit status 0; 78 where the environment is wrong."""
    arguments = _arguments()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        config = load(environment(Path.cwd()))
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 78
    try:
        judge = Judge(read_blocklist(arguments.blocklist))
        tokens = TokenMaker(arguments.token_key, arguments.token_seconds)
        server = Backend(arguments.port, config, judge, tokens)
    except (OSError, ValueError) as error:
        print(f"cannot start: {one_line(str(error))}", file=sys.stderr)
        return 1
    _serve(server)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The development stand-in for the backend.")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes any free one")
    parser.add_argument(
        "--blocklist", type=Path, default=Path(__file__).with_name("blocklist.txt"), metavar="FILE"
    )
    parser.add_argument(
        "--token-key", type=Path, metavar="FILE", help="signs access tokens; made if not there"
    )
    parser.add_argument("--token-seconds", type=float, default=LIFE_SECONDS, metavar="SECONDS")
    return parser.parse_args()


def _serve(server: Backend) -> None:
    """Serve until told to stop; scans under way are finished. A second signal ends at once."""
    asked = {signal.SIGTERM, signal.SIGINT}
    # Blocked and waited for, here and in every thread that begins later: a handler could come
    # while this very thread holds the lock of what it waits on.
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    say(f"listening on http://127.0.0.1:{server.server_port}")
    signal.sigwait(asked)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, asked)
    server.shutdown()
    thread.join()
    server.server_close()
    say("stopped")


if __name__ == "__main__":
    sys.exit(main())
