"""A TLS connection that breaks, and the others of the same thread."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rebreak_idle.tls_errors import send_all
from tests.support.servers import Certificates
from tests.support.waiting import wait_for


@contextlib.contextmanager
def tls_pair(certificates: Certificates) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A client's connection and the server's, after the handshake and what TLS sends after it."""
    server_context, client_context = (
        certificates.server.server_context(),
        certificates.client_context(),
    )
    with contextlib.ExitStack() as parts, ThreadPoolExecutor(1) as pool:
        listener = parts.enter_context(socket.create_server(("127.0.0.1", 0)))
        accepted = pool.submit(
            lambda: server_context.wrap_socket(listener.accept()[0], server_side=True)
        )
        plain = socket.create_connection(listener.getsockname())
        client = client_context.wrap_socket(plain, server_hostname="localhost")
        parts.enter_context(client)
        server = parts.enter_context(accepted.result())
        server.sendall(b"hello")
        assert client.recv(10) == b"hello"
        yield client, server


def test_what_broke_one_connection_does_not_break_another(certificates: Certificates) -> None:
    """From Python 3.14 on the error of a failed write would come up at the next read of another."""
    with tls_pair(certificates) as (broken, its_server), tls_pair(certificates) as (well, server):
        its_server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        its_server.close()

        def has_failed() -> bool:
            try:
                send_all(broken, b"x")
            except OSError:
                return True
            return False

        wait_for(has_failed, 20, "the reset to arrive")
        with pytest.raises(OSError):
            send_all(broken, b"x")
        well.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            well.recv(10)
        well.settimeout(20)
        server.sendall(b"mail")
        assert well.recv(10) == b"mail"
