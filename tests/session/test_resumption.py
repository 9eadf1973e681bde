"""TLS sessions that are resumed, and for whom; and handshakes that do not come about."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from rebreak_idle.errors import HostUnreachable, LoginRefused
from rebreak_idle.imap.connector import Connector
from rebreak_idle.mailbox import Mailbox as Row
from tests.session.conftest import secured
from tests.support.harness import quick_config
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates

PASSWORD = "secret"


def never() -> bool:
    return False


@pytest.fixture
def connector(certificates: Certificates) -> Connector:
    return Connector(certificates.client_context(), quick_config(imap_timeout_seconds=10.0))


@pytest.fixture(params=["tls", "starttls"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[ScriptedImap]:
    with secured(Mailbox(), certificates, request.param) as server:
        yield server


def visit(connector: Connector, server: ScriptedImap, password: str = PASSWORD) -> None:
    """Connect, log in, log out."""
    starttls = server.starttls_context is not None
    name = "user@example.org"
    row = Row("1", "u", name, "localhost", server.port, name, "", starttls=starttls)
    session = connector.session(row, never)
    try:
        session.open(password)
    finally:
        session.close()


def resumed(server: ScriptedImap) -> int:
    """How many connections have resumed a session."""
    context = server.tls_context or server.starttls_context
    assert context is not None
    return int(context.session_stats()["hits"])


def test_the_next_connection_resumes(connector: Connector, server: ScriptedImap) -> None:
    """All but the first, however many there are."""
    for _ in range(4):
        visit(connector, server)
    assert resumed(server) == 3


def test_a_server_that_was_not_logged_in_to(connector: Connector, server: ScriptedImap) -> None:
    """Only a login that worked leaves a session behind."""
    for _ in range(2):
        with pytest.raises(LoginRefused):
            visit(connector, server, "wrong")
    assert resumed(server) == 0


def test_another_port_is_another_server(
    connector: Connector, server: ScriptedImap, certificates: Certificates
) -> None:
    """A session is not offered to whom it is not of."""
    context = certificates.server_context()
    visit(connector, server)
    with ScriptedImap(Mailbox(), tls_context=context) as other:
        visit(connector, other)
        assert resumed(other) == 0


def test_a_server_that_is_another_now(connector: Connector, certificates: Certificates) -> None:
    """Who does not hold the keys of the session has to show a certificate that is good."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        visit(connector, server)
        for bad in (certificates.untrusted, certificates.wrong_name):
            server.tls_context = bad.server_context()
            with pytest.raises(HostUnreachable, match="certificate not accepted"):
                visit(connector, server)
        server.tls_context = certificates.server_context()
        visit(connector, server)
        visit(connector, server)
        assert resumed(server) == 1


def test_a_server_that_gives_no_tickets(connector: Connector, certificates: Certificates) -> None:
    """Each connection then stands for itself."""
    context = certificates.server_context()
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    with ScriptedImap(Mailbox(), tls_context=context) as server:
        for _ in range(3):
            visit(connector, server)
        assert resumed(server) == 0


def test_a_server_that_breaks_off_what_is_resumed(
    connector: Connector, certificates: Certificates
) -> None:
    """In TLS 1.3 that shows only behind the handshake; the connection after it resumes nothing."""
    context = certificates.server_context()
    capabilities = b"* CAPABILITY IMAP4rev1 IDLE\r\n"

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                with accepted, context.wrap_socket(accepted, server_side=True) as sock:
                    if not sock.session_reused:
                        answer(sock)

    def answer(sock: socket.socket) -> None:
        sock.sendall(b"* OK [CAPABILITY IMAP4rev1 IDLE] hello\r\n")
        for line in sock.makefile("rb"):
            tag, command = line.split()[:2]
            sock.sendall(
                (capabilities if command == b"CAPABILITY" else b"") + tag + b" OK done\r\n"
            )

    name, outcomes = "user@example.org", []
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve, listening)
        row = Row("1", "u", name, "localhost", listening.getsockname()[1], name, "")
        for _ in range(4):
            with closing(connector.session(row, never)) as session:
                try:
                    session.open(PASSWORD)
                    outcomes.append("ok")
                except HostUnreachable:
                    outcomes.append("broken off")
        listening.shutdown(socket.SHUT_RDWR)
        serving.result(10)
    assert outcomes == ["ok", "broken off"] * 2
