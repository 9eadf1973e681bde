"""What is said of TLS handshakes that the server ends."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from rebreak_idle.errors import HostUnreachable
from rebreak_idle.imap.connector import Connector
from rebreak_idle.imap.network import concerns_name, is_closed_by_server
from rebreak_idle.imap.race import Race
from rebreak_idle.mailbox import Mailbox as Row
from tests.support.harness import quick_config
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates

CLOSED = (
    r"^the server closed the connection during the TLS handshake: "
    r"a limit, or no TLS on this port: see imap_port \(connecting to localhost:\d+\)$"
)


@pytest.fixture
def connector(certificates: Certificates) -> Connector:
    return Connector(certificates.client_context(), quick_config(imap_timeout_seconds=10.0))


def visit(connector: Connector, port: int, starttls: bool = False) -> None:
    name = "user@example.org"
    row = Row("1", "u", name, "localhost", port, name, "", starttls=starttls)
    with closing(connector.session(row, lambda: False)) as session:
        session.open("secret")


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("how", ["fin", "truncate", "rst"])
def test_a_server_that_closes_in_the_handshake(
    connector: Connector, certificates: Certificates, security: str, how: str
) -> None:
    """It is said what happened and what it may mean, whether by FIN or by RST."""
    context = certificates.server_context()
    with ScriptedImap(Mailbox()) as server:
        setattr(server, f"{security}_context", context)
        server.on("tls-handshake", lambda connection: connection.end(how))
        with pytest.raises(HostUnreachable, match=CLOSED):
            visit(connector, server.port, security == "starttls")


def close_at_once(sock: socket.socket) -> None:
    sock.close()


def reset_at_once(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def close_after_the_hello(sock: socket.socket) -> None:
    assert sock.recv(1)
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass
    sock.close()


def reset_after_the_hello(sock: socket.socket) -> None:
    assert sock.recv(1)
    reset_at_once(sock)


def close_in_the_midst_of_a_record(sock: socket.socket) -> None:
    assert sock.recv(65536)
    sock.sendall(b"\x16\x03\x03\x00\x7a\x02\x00")
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(65536):
        pass
    sock.close()


def reset_while_it_connects(sock: socket.socket) -> None:
    reset_at_once(sock)


@pytest.mark.parametrize(
    "end",
    [
        close_at_once,
        reset_at_once,
        reset_while_it_connects,
        close_after_the_hello,
        reset_after_the_hello,
        close_in_the_midst_of_a_record,
    ],
    ids=lambda end: end.__name__,
)
def test_wherever_it_closes(
    connector: Connector, end: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are the same."""

    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with accepted:
            end(accepted)

    def slowly(self: Race, until: float) -> object:
        """The server's reset is there before anybody looks."""
        serving.result(10)
        return look(self, until)

    look = Race._first_to_answer
    if end is reset_while_it_connects:
        monkeypatch.setattr(Race, "_first_to_answer", slowly)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve, listening)
        with pytest.raises(HostUnreachable, match=CLOSED):
            visit(connector, listening.getsockname()[1])
        serving.result(10)


def tls_error(kind: type[ssl.SSLError], number: int, reason: str = "") -> ssl.SSLError:
    error = kind(number, "text")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "closed"),
    [
        (tls_error(ssl.SSLEOFError, 8), True),
        (tls_error(ssl.SSLZeroReturnError, 6), True),
        (tls_error(ssl.SSLSyscallError, 5), True),
        (tls_error(ssl.SSLError, 1, "UNEXPECTED_EOF_WHILE_READING"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (BrokenPipeError(errno.EPIPE, "broken"), True),
        (OSError(0, "Error"), True),
        (tls_error(ssl.SSLError, 1, "WRONG_VERSION_NUMBER"), False),
        (tls_error(ssl.SSLCertVerificationError, 1, "CERTIFICATE_VERIFY_FAILED"), False),
        (TimeoutError("timed out"), False),
        (OSError(errno.EHOSTUNREACH, "no route"), False),
    ],
)
def test_how_pythons_show_it(error: OSError, closed: bool) -> None:
    """Each version has its own error for the end of a connection."""
    assert is_closed_by_server(error) is closed


def test_what_concerns_a_name_only() -> None:
    """A certificate for another name, or a server that knows no such name."""
    assert concerns_name(tls_error(ssl.SSLCertVerificationError, 1))
    assert concerns_name(tls_error(ssl.SSLError, 1, "TLSV1_UNRECOGNIZED_NAME"))
    assert not concerns_name(tls_error(ssl.SSLError, 1, "SSLV3_ALERT_HANDSHAKE_FAILURE"))
    assert not concerns_name(ConnectionResetError())
    assert not concerns_name(None)
