"""The HTTP side: it takes requests for a scan, and answers them."""

from __future__ import annotations

import hmac
import json
import re
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from rebreak_idle.config import Config
from scripts.tools.stand_in_backend.inbox import Counts
from scripts.tools.stand_in_backend.judge import Judge
from scripts.tools.stand_in_backend.log import one_line, say
from scripts.tools.stand_in_backend.scanner import Refusal, Scanner
from scripts.tools.stand_in_backend.tokens import TokenMaker, TokenRefused, read_fresh

SCAN_PATH = "/api/mail/scan-internal"
STATE_PATH = "/api/mail/connection-state"  # unless CONNECTION_STATE_PATH says another
STATE_FIELDS = ("connectionId", "userId", "state", "who", "reason", "since")
REASONS = ("exists", "catch-up", "poll")


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
    found = parse_object(body, "connectionId", "userId", "reason")
    if found["reason"] not in REASONS:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"reason is none of {', '.join(REASONS)}")
    return ScanRequest(found["connectionId"], found["userId"], found["reason"])


def parse_object(body: bytes, *names: str) -> dict[str, str]:
    """The JSON object that ``body`` carries, with a text under each of these names.

    Raises:
        Refusal: it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    for name in names:
        if not isinstance(found.get(name), str) or not found[name]:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{name} is missing, empty or not a string")
    return found


class Backend(ThreadingHTTPServer):
    """The HTTP server, with what its handlers need."""

    daemon_threads = False  # the end waits for the scans under way
    request_queue_size = 128

    def __init__(self, port: int, config: Config, judge: Judge, tokens: TokenMaker) -> None:
        self.scanner = Scanner(config, judge, tokens)
        self.tokens = tokens
        self.token_path = config.access_token_path
        self.state_path = config.connection_state_path or STATE_PATH
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
            if answer is None:
                self._answer(HTTPStatus.NO_CONTENT, b"", "text/plain")
            else:
                self._answer_json(HTTPStatus.OK, answer)

    def _do(self) -> dict[str, object] | None:
        # Read before anything is refused: closing on an unread body resets the connection, and
        # the answer may get lost on its way.
        body = self._body()
        given = (self.headers.get(self.server.secret_header) or "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.server.secret):
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"no right {self.server.secret_header} header")
        if self.path == self.server.token_path:
            return self._token(body)
        if self.path == self.server.state_path:
            self._note_state(body)
            return None
        if self.path != SCAN_PATH:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is only {SCAN_PATH}")
        return self._scan(body)._asdict()

    def _note_state(self, body: bytes) -> None:
        """Show what the daemon tells of a mailbox."""
        told = parse_object(body, *STATE_FIELDS)
        say("mailbox {connectionId} is {state} since {since} (who: {who}): {reason}".format(**told))

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
