"""What a socket of ours needs: keep-alive, resumed TLS, and words for its errors."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from ..tls_errors import forget_tls_errors
from .addresses import AddressOrder

# A silent peer is noticed within 90 s: probes after 60 s and then every 15 s, given up when 90 s
# passed without an answer (tcp(7), TCP_USER_TIMEOUT).
KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 3
USER_TIMEOUT_SECONDS = 90
# Of a greeting, to know it by.
FIRST_BYTES = 200
Look = Callable[[bytes], None]


class Resumption:
    """What a connection can use of earlier ones to the same name and port. Any thread may use it.

    The TLS session (RFC 8446, section 2.2) saves both sides work, and all connections that resume
    one share what it holds of certificates, about 8 KiB.
    """

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None
        self.addresses = AddressOrder()


class HandshakeClosed(ssl.SSLError):
    """The server closed the connection during the TLS handshake."""

    reason = ""  # the ssl module sets it in its own errors only


class TlsSocket(ssl.SSLSocket):
    """Closes itself where the connection was reset before it is wrapped: there `wrap_socket` would
    leave it open.
    """

    def getpeername(self) -> object:
        try:
            return super().getpeername()
        except OSError:
            self.close()
            raise


class NoTimeouts:
    """Stands for the socket in `idle_check`, which sets time-outs and polls by our `_poll_socket`.

    The stream sets its own. Each setting lets go of the interpreter, which in a burst of mail
    hundreds of other threads wait for.
    """

    __slots__ = ()

    def settimeout(self, seconds: float | None) -> None:
        """Ignored."""

    def setblocking(self, flag: bool) -> None:
        """Ignored."""


def over_tls(
    sock: socket.socket, context: ssl.SSLContext, host: str, session: ssl.SSLSession | None
) -> ssl.SSLSocket:
    """The socket for TLS in place of ``sock``, before the handshake; the context makes `TlsSocket`.

    Raises:
        HandshakeClosed: the connection was reset already.
    """
    try:
        return context.wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False, session=session
        )
    except OSError as error:
        raise HandshakeClosed from error


def shake_hands(sock: ssl.SSLSocket, look: Look | None = None) -> None:
    """Do the TLS handshake; ``look`` sees what the server says first, and may raise.

    Raises:
        HandshakeClosed: the server closed the connection.
        OSError: anything else.
    """
    try:
        if look:
            look(_first_bytes(sock))
        sock.do_handshake()
    except OSError as error:
        forget_tls_errors()
        if is_closed_by_server(error):
            raise HandshakeClosed from error
        raise


def _first_bytes(sock: ssl.SSLSocket) -> bytes:
    """What the server says first, which stays to be read; the handshake begins meanwhile.

    Plain text that comes while our part of it is sent goes to OpenSSL: WRONG_VERSION_NUMBER.
    """
    seconds = sock.gettimeout() or 0.0
    until = time.monotonic() + seconds
    try:
        sock.settimeout(0)
        with suppress(BlockingIOError):
            return _peek(sock)
        with suppress(ssl.SSLWantReadError):
            sock.do_handshake()
        sock.settimeout(seconds)
        return _peek(sock)
    finally:
        sock.settimeout(max(0.001, until - time.monotonic()))


def _peek(sock: ssl.SSLSocket) -> bytes:
    return socket.socket.recv(sock, FIRST_BYTES, socket.MSG_PEEK)


def is_closed_by_server(error: OSError) -> bool:
    """Whether an error of the handshake is the connection's end, by FIN or RST.

    Pythons and versions of OpenSSL show it differently.
    """
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return True
    if isinstance(error, ssl.SSLError):
        return error.reason == "UNEXPECTED_EOF_WHILE_READING"
    return isinstance(error, ConnectionError) or error.errno == 0


def concerns_name(error: BaseException | None) -> bool:
    """Whether a server refuses one name only, or is not the one that the name promises."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    return isinstance(error, ssl.SSLError) and "UNRECOGNIZED_NAME" in (error.reason or "")


def is_open(sock: socket.socket) -> bool:
    """Whether neither side has closed, as far as the system knows."""
    poll = select.poll()
    try:
        poll.register(sock, getattr(select, "POLLRDHUP", 0))
        return not poll.poll(0)
    except (OSError, ValueError):  # closed in this very moment
        return False


def describe_end(sock: socket.socket) -> str:
    """What the end of the stream means: up to Python 3.12, TLS shows a reset as an end, too.

    After a reset the socket has no peer any more; after an end it has.
    """
    try:
        socket.socket.getpeername(sock)
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
    if isinstance(error, HandshakeClosed):
        return (
            "the server closed the connection during the TLS handshake: "
            "a limit, or no TLS on this port: see imap_port"
        )
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
