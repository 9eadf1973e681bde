"""A backend that answers byte by byte as it is told, and a client that leads to it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress

import pytest

from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.answer import ScanResult
from rebreak_idle.scan.client import ScanClient
from tests.support.harness import quick_config
from tests.support.servers import Certificates

TIMEOUT_SECONDS = 10.0
MAILBOX = Mailbox("the-id", "the-user", "a@example.org", "h", 993, "a@example.org", "stored")
COUNTS = b'{"scanned":12,"blocked":1}'
DONE = ScanResult(12, 1)
Pieces = Sequence[bytes]


class Last(tuple[bytes, ...]):
    """An answer after which the server hangs up, although the answer does not say so."""


Serve = Callable[..., tuple[ScanClient, "Server"]]


def plain(body: bytes = COUNTS, headers: bytes = b"") -> bytes:
    """An answer as Node gives it."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n"
        b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n%b" % (headers, len(body), body)
    )


class Server:
    """Answers each request with the next of ``answers``, the last one again and again.

    An answer without pieces hangs up.
    """

    def __init__(self, answers: list[Pieces], context: ssl.SSLContext | None) -> None:
        self._answers = answers
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.connections = 0
        self.hung_up = threading.Event()
        self.drip: threading.Event | None = None
        """If set: after the pieces, bytes without end until it is."""
        self.requests: list[tuple[bytes, bytes]] = []
        self._threads = [threading.Thread(target=self._accept, name="backend")]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(sock,), name="backend")
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._converse(sock)
        finally:
            self.hung_up.set()

    def _converse(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as reading:
                while request := self._request(reading):
                    self.requests.append(request)
                    answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                    if not answer:
                        return
                    for piece in answer:
                        sock.sendall(piece)
                    while self.drip and not self.drip.wait(0.05):
                        sock.sendall(b"x")
                    if isinstance(answer, Last) or b"connection: close" in b"".join(answer).lower():
                        return

    @staticmethod
    def _request(reading: object) -> tuple[bytes, bytes] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reading.readline()  # type: ignore[attr-defined]
            if not line:
                return None
            head += line
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        return head, reading.read(length)  # type: ignore[attr-defined]


@pytest.fixture(params=["http", "https"])
def serve(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Makes a server with such answers, and a `ScanClient` that leads to it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    with ExitStack() as stack:

        def make(
            *answers: Pieces, path: str = "", secret: str = "the secret"
        ) -> tuple[ScanClient, Server]:
            context = certificates.server_context() if request.param == "https" else None
            server = stack.enter_context(closing(Server(list(answers), context)))
            url = f"{request.param}://localhost:{server.port}{path}"
            backend = ScanClient(
                quick_config(
                    backend_url=url, admin_secret=secret, scan_timeout_seconds=TIMEOUT_SECONDS
                )
            )
            return stack.enter_context(closing(backend)), server

        yield make


HEAD = b"HTTP/1.1 200 OK\r\n"


def is_for_people(text: str) -> bool:
    """One line, without what Python calls its objects."""
    return not any(sign in text for sign in ("\n", "('", "Pool(", "Read(", "<", " object at "))
