"""What a socket of ours needs: keep-alive, resumed TLS, and words for its errors."""

from __future__ import annotations

import errno
import os
import socket
import ssl

# A silent peer is noticed within 90 s: probes after 60 s and then every 15 s, given up when 90 s
# passed without an answer (tcp(7), TCP_USER_TIMEOUT).
KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 3
USER_TIMEOUT_SECONDS = 90


class Resumption:
    """What resumes TLS with one server: the session of an earlier connection to the same name and
    port (RFC 8446, section 2.2).

    That saves both sides work, and all connections that resume one session share what it holds of
    certificates, about 8 KiB. Any thread may use it.
    """

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None


def describe_end(sock: socket.socket) -> str:
    """What the end of the stream means: up to Python 3.12, TLS shows a reset as an end, too.

    After a reset the socket has no peer any more; after an end it has.
    """
    try:
        sock.getpeername()
    except OSError:
        return f"connection lost ({os.strerror(errno.ECONNRESET)})"
    return "the server closed the connection"


def is_timeout(error: OSError) -> bool:
    """Whether our own time-out passed; one of the system's has a number."""
    return isinstance(error, TimeoutError) and error.errno is None


def describe(error: OSError) -> str:
    """What an operating system or TLS error says, in few words."""
    if is_timeout(error):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS on this port: see imap_port and imap_security"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error.strerror or error}"
    return error.strerror or str(error) or error.__class__.__name__


def keep_alive(sock: socket.socket) -> None:
    """Send at once what is small, and notice a peer that is not there any more."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_SECONDS * 1000),
    ):
        if hasattr(socket, name):  # Linux has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
