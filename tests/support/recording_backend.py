"""A real HTTP backend on loopback that records every request and answers by a script.

A behaviour is a callable that answers one request: `answer`, `html`, `redirect`, `reset`, `drip`,
or a `Hang`. `backend.script` is a list of behaviours, used up one by one, or a callable that picks
the behaviour for a request; scans beyond the script get `backend.default`. `backend.tokens` picks
what answers a request for an access token. Requests for anything else are recorded, use up no
script, and get 404.
"""

import contextlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self

from tests.support.servers import free_port
from tests.support.waiting import wait_for

SCAN_PATH = "/api/mail/scan-internal"
STATE_PATH = "/api/mail/connection-state"
TOKEN_PATH = "/api/mail/access-token"
RESULT = {"scanned": 1, "blocked": 0}


@dataclass(eq=False)
class Request:
    """One request; times are those of `time.monotonic()`."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    text: str
    client_port: int  # the same for the requests of one keep-alive connection
    arrived: float
    answered: float | None = None  # None while it is under way

    @property
    def body(self) -> Any:
        """The JSON body, or None when it is not JSON."""
        with contextlib.suppress(ValueError):
            return json.loads(self.text)
        return None

    @property
    def connection_id(self) -> str | None:
        return self.body.get("connectionId") if isinstance(self.body, dict) else None

    @property
    def reason(self) -> str | None:
        return self.body.get("reason") if isinstance(self.body, dict) else None

    @property
    def is_for_token(self) -> bool:
        return self.method == "POST" and self.path == TOKEN_PATH

    @property
    def is_scan(self) -> bool:
        return self.method == "POST" and self.path == SCAN_PATH


class _Handler(BaseHTTPRequestHandler):
    """Records a request and lets a behaviour answer it."""

    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True
    server: "_Server"

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        request = Request(
            method=self.command,
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            text=self.rfile.read(length).decode(errors="replace"),
            client_port=self.client_address[1],
            arrived=time.monotonic(),
        )
        self.server.backend.serve(request, self)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815  (the names of http.server)

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client, or the script, hung up
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the requests are on record."""

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer at once and in full."""
        self.begin(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer whose body will have `length` bytes."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()


Behaviour = Callable[[_Handler], None]
Script = list[Behaviour] | Callable[[Request], Behaviour]


def answer(
    status: int = 200, body: object = RESULT, headers: Mapping[str, str] | None = None
) -> Behaviour:
    """Answer with a body: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    return lambda handler: handler.send(status, content, sent)


def empty(status: int = 204) -> Behaviour:
    """Answer without a body."""
    return lambda handler: handler.send(status, b"", {})


def html(status: int = 200) -> Behaviour:
    """Answer with a page, as a proxy in front of the backend does."""
    page = b"<html><body><h1>Something else</h1></body></html>"
    return answer(status, page, {"Content-Type": "text/html"})


def redirect(location: str, status: int = 302) -> Behaviour:
    """Send the client elsewhere."""
    return answer(status, b"", {"Location": location})


def reset(handler: _Handler) -> None:
    """Tear the connection down in the middle of the answer (RST, not FIN)."""
    handler.begin(200, 1000, {})
    handler.wfile.write(b'{"scanned":')
    no_linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
    handler.close_connection = True
    handler.rfile.close()  # holds the socket open otherwise
    handler.connection.close()


def cut_off(body: bytes, announced: int) -> Behaviour:
    """End the connection in order (FIN), but before the body is as long as was announced."""

    def cutting(handler: _Handler) -> None:
        handler.begin(200, announced, {"Content-Type": "application/json"})
        handler.wfile.write(body)
        handler.close_connection = True

    return cutting


def early_hints(handler: _Handler) -> None:
    """Answer twice: with an informational status (RFC 8297), then for good."""
    handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    answer()(handler)


def drip(total_seconds: float, body: object = RESULT) -> Behaviour:
    """Answer byte by byte, over `total_seconds`."""

    def dripping(handler: _Handler) -> None:
        content = json.dumps(body).encode()
        handler.begin(200, len(content), {"Content-Type": "application/json"})
        for byte in content:
            handler.wfile.write(bytes([byte]))
            if handler.server.backend.closing.wait(total_seconds / len(content)):
                return

    return dripping


class Hang:
    """Leave requests unanswered until `release()`, then let `then` answer them.

    The end of the backend releases them too.
    """

    def __init__(self, then: Behaviour | None = None) -> None:
        self._then = then or answer()
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def __call__(self, handler: _Handler) -> None:
        handler.server.backend.hanging.append(self)
        if handler.server.backend.closing.is_set():
            return
        self._released.wait()
        self._then(handler)


class _Server(ThreadingTCPServer):
    """Knows its open connections, so that they can be cut off."""

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, backend: "RecordingBackend", port: int) -> None:
        self.backend = backend
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end(self) -> None:
        """Stop listening and cut off the open connections."""
        self.shutdown()
        self.socket.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass
class _UnderWay:
    """How many requests are under way, and the most there ever were."""

    now: Counter[str | None] = field(default_factory=Counter)
    most: int = 0
    most_by_connection: Counter[str | None] = field(default_factory=Counter)

    def begin(self, key: str | None) -> None:
        self.now[key] += 1
        self.most = max(self.most, self.now.total())
        self.most_by_connection[key] = max(self.most_by_connection[key], self.now[key])

    def end(self, key: str | None) -> None:
        self.now[key] -= 1


class RecordingBackend:
    """The backend. Its attributes may be read at any time from any thread."""

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = [] if script is None else script
        self.default: Behaviour = answer()
        self.states: Behaviour | None = None
        """Answers at `STATE_PATH`; None: there is no such endpoint."""
        self.tokens: Callable[[Request], Behaviour] | None = None
        """Picks the answer to a request for an access token; None: there is no such endpoint."""
        self.requests: list[Request] = []
        self.hanging: list[Hang] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._under_way = _UnderWay()
        self._tokens_under_way = _UnderWay()
        self._server: _Server | None = None
        self._ended: list[_Server] = []
        self._accepting: threading.Thread | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for hang in list(self.hanging):
            hang.release()
        self.refuse()
        for server in self._ended:
            server.server_close()  # waits for its threads

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # what came

    @property
    def scans(self) -> list[Request]:
        """The scan requests so far, in the order of their arrival."""
        return [request for request in list(self.requests) if request.is_scan]

    @property
    def notices(self) -> list[Request]:
        """What it was told of mailboxes so far, in the order of arrival."""
        return [request for request in list(self.requests) if request.path == STATE_PATH]

    @property
    def token_requests(self) -> list[Request]:
        """The requests for access tokens so far, in the order of their arrival."""
        return [request for request in list(self.requests) if request.is_for_token]

    def wait_for(self, number: int, timeout_seconds: float = 20.0) -> list[Request]:
        """The scan requests, as soon as there are at least `number` of them."""
        wait_for(
            lambda: len(self.scans) >= number,
            timeout_seconds,
            f"{number} scan requests at the backend",
        )
        return self.scans

    def wait_answered(self, number: int, timeout_seconds: float = 20.0) -> list[Request]:
        """The scan requests, as soon as at least `number` of them have had their answer."""
        wait_for(
            lambda: sum(scan.answered is not None for scan in self.scans) >= number,
            timeout_seconds,
            f"{number} answered scan requests at the backend",
        )
        return self.scans

    @property
    def concurrent_max(self) -> int:
        """The most requests that were under way at once."""
        return self._under_way.most

    @property
    def tokens_at_once_max(self) -> int:
        """The most requests for access tokens that were under way at once."""
        return self._tokens_under_way.most

    @property
    def concurrent_max_by_connection(self) -> dict[str | None, int]:
        """The same for each connectionId."""
        with self._lock:
            return dict(self._under_way.most_by_connection)

    # whether it can be reached

    def accept(self) -> None:
        """Listen, again on the same port, unless it listens."""
        if self._server is not None:
            return
        self._server = _Server(self, self.port)
        self._accepting = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="recording-backend"
        )
        self._accepting.start()

    def refuse(self) -> None:
        """Stop listening and cut off the open connections."""
        server, self._server = self._server, None
        if server is None:
            return
        assert self._accepting is not None
        server.end()
        self._accepting.join()
        self._ended.append(server)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections for the length of a `with` block."""
        self.refuse()
        try:
            yield
        finally:
            self.accept()

    # called by the handlers

    def serve(self, request: Request, handler: _Handler) -> None:
        with self._lock:
            self.requests.append(request)
            under_way = self._tokens_under_way if request.is_for_token else self._under_way
            under_way.begin(request.connection_id)
            behaviour = self._behaviour(request)
        try:
            behaviour(handler)
        finally:
            with self._lock:
                under_way.end(request.connection_id)
                request.answered = time.monotonic()

    def _behaviour(self, request: Request) -> Behaviour:
        if request.path == STATE_PATH and self.states is not None:
            return self.states
        if request.is_for_token and self.tokens is not None:
            return self.tokens(request)
        if not request.is_scan:
            return answer(404, {"error": "not found"})
        if callable(self.script):
            return self.script(request)
        return self.script.pop(0) if self.script else self.default
