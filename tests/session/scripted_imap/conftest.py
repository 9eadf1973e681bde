"""The scripted server is itself proved: with IMAPClient where it behaves, bytewise where not."""

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator

import pytest
from imapclient import IMAPClient

from tests.session.conftest import secured
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates

LOGIN, PASSWORD = "user@example.org", "secret"
SECONDS = 10.0  # for what should happen at once
HELLO = b"a LOGIN user@example.org secret\r\nb EXAMINE INBOX\r\n"


@pytest.fixture(params=["plain", "starttls", "tls"])
def server(
    request: pytest.FixtureRequest, certificates: Certificates, mailbox: Mailbox
) -> Iterator[ScriptedImap]:
    with secured(mailbox, certificates, request.param) as scripted:
        yield scripted


@pytest.fixture
def plain(mailbox: Mailbox) -> Iterator[ScriptedImap]:
    with ScriptedImap(mailbox) as scripted:
        yield scripted


@pytest.fixture
def secure(certificates: Certificates, mailbox: Mailbox) -> Iterator[ScriptedImap]:
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as scripted:
        yield scripted


class RawClient:
    """A client that sees bytes: each `recv` is one segment, and over TLS at most one record."""

    def __init__(self, server: ScriptedImap, context: ssl.SSLContext | None = None) -> None:
        self.tcp = socket.create_connection((server.host, server.port), timeout=SECONDS)
        self.sock = self.tcp
        self.seen = b""
        if context:
            self.start_tls(context)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(
            self.sock, server_hostname="localhost", suppress_ragged_eofs=False
        )

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def recv(self) -> bytes:
        return self.sock.recv(1 << 20)

    def until(self, pattern: bytes) -> bytes:
        """Read up to a match of `pattern`; return all that was read since the last call."""
        while not re.search(pattern, self.seen):
            data = self.recv()
            assert data, f"end of stream after {self.seen!r}"
            self.seen += data
        seen, self.seen = self.seen, b""
        return seen

    def rest(self) -> bytes:
        """Read to the end, however it comes."""
        with contextlib.suppress(OSError):
            while data := self.recv():
                self.seen += data
        return self.seen

    def idle(self) -> bytes:
        self.send(HELLO + b"c IDLE\r\n")
        return self.until(rb"\+ idling\r\n")


def connect(server: ScriptedImap, certificates: Certificates) -> IMAPClient:
    context = certificates.client_context()
    if server.tls_context:
        return IMAPClient("localhost", server.port, ssl_context=context, timeout=SECONDS)
    client = IMAPClient("localhost", server.port, ssl=False, timeout=SECONDS)
    if server.starttls_context:
        client.starttls(context)
    return client


def logged_in(server: ScriptedImap, certificates: Certificates) -> IMAPClient:
    client = connect(server, certificates)
    client.login(LOGIN, PASSWORD)
    return client
