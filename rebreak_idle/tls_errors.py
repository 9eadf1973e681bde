"""Errors of TLS that would come up again where they do not belong."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from functools import cache


def forget_tls_errors() -> None:
    """Clear OpenSSL's queue of errors of this thread.

    From Python 3.14 on a write or read over TLS that fails with an error of the system leaves it
    there, and the next read of any other connection on that thread raises it instead of waiting
    (tried on 3.14.10 and 3.15.2; 3.11 clears it). A call that OpenSSL refuses clears the queue.
    """
    with suppress(ssl.SSLError):
        _context().set_ciphers("NONE-OF-THIS-NAME")


@cache
def _context() -> ssl.SSLContext:
    """One for all: of each that a thread makes and frees it keeps up to 18 KiB for its next."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def send_all(sock: socket.socket, data: bytes) -> None:
    """`socket.sendall`; an error is raised once, and not by another connection too."""
    try:
        sock.sendall(data)
    except OSError:
        forget_tls_errors()
        raise
