"""One connection's bytes: connecting, TLS, lines; every wait has a deadline and can be woken.

The socket never blocks; all waiting is in `_poll`. What time-outs on each `recv` cannot do is done
here: an answer is bounded as a whole, however slowly its bytes drip in.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import ssl
import termios
import time
from collections.abc import Callable
from typing import NoReturn

from ..poller import READABLE, WRITABLE, Watch, poller
from ..turns import away
from ..wake import Stop
from .addresses import Address

# A silent peer is noticed within 90 s: probes after 60 s and then every 15 s, given up when 90 s
# passed without an answer (tcp(7), TCP_USER_TIMEOUT).
KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 3
USER_TIMEOUT_SECONDS = 90

# Far above what servers send (RFC 9051, section 4: lines of some kilobytes); with the copies that
# imaplib makes a session stays well under 2 MiB.
MAX_LINE_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 256 * 1024
# An answer that comes in more pieces than this is dripped on purpose.
MAX_ANSWER_READS = 4096
# A TLS record holds no more (RFC 8446, section 5.1), so that nothing of one is left in OpenSSL.
RECEIVE_BYTES = 16 * 1024


class Resumption:
    """What resumes TLS with one server: the session of an earlier connection to the same name and
    port (RFC 8446, section 2.2).

    That saves both sides work, and all connections that resume one session share what it holds of
    certificates, about 8 KiB. Any thread may use it.
    """

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None


class Stream:
    """A connection that delivers whole lines. Used by one thread, but for `cut`."""

    def __init__(self, stop: Stop, timeout_seconds: float, resumption: Resumption) -> None:
        self.sock: socket.socket | None = None
        self.ended = ""
        """Why nothing more can be read, or empty."""
        self.answer_bytes = 0
        """Received since the last `send` or `restart_deadline`."""
        self._stop = stop
        self._watch: Watch | None = None
        self._timeout_seconds = timeout_seconds
        self._resumption = resumption
        self._is_good = False
        self._deadline = 0.0
        self._last_words = False
        self._buffer = bytearray()
        self._answer_reads = 0
        self._just_sent = False

    def connect(self, addresses: list[Address]) -> None:
        """Connect to the first address that answers; each gets its share of the time-out.

        Raises:
            OSError: none answered; the last one's error.
            Interrupted: the stop came first.
        """
        end = time.monotonic() + self._timeout_seconds
        for position, address in enumerate(addresses):
            now = time.monotonic()
            self._deadline = now + (end - now) / (len(addresses) - position)
            try:
                return self._connect(address)
            except OSError:
                if position == len(addresses) - 1:
                    raise
        raise OSError("no address")

    def _connect(self, address: Address) -> None:
        family, sockaddr = address
        self.close()
        self.sock = sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        _keep_alive(sock)
        while (code := sock.connect_ex(sockaddr)) in (errno.EINPROGRESS, errno.EALREADY):
            self._wait(WRITABLE)
        if code not in (0, errno.EISCONN):
            raise OSError(code, os.strerror(code))

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Go over to TLS; ``host`` is verified against the certificate.

        Raises:
            OSError: among them ssl.SSLError, for instance a certificate that does not verify.
        """
        if self._buffer:
            raise OSError("the server sent data before the TLS handshake (CVE-2011-0411)")
        self.restart_deadline()
        sock = self._open()
        self._end_watch()  # the descriptor is closed where the next step fails
        self.sock = secured = context.wrap_socket(
            sock,
            server_hostname=host,
            do_handshake_on_connect=False,
            session=self._resumption.session,
        )
        try:
            self._retry(lambda: _shake_hands(secured))
        except OSError:
            self._resumption.session = None  # in case it was that
            raise

    def keep_tls_session(self) -> None:
        """Have later connections resume this one's TLS; its server has just proved to be good.

        Where this is not called by the end, later connections resume nothing if this one did: it
        may have failed for that.
        """
        sock, self._is_good = self.sock, True
        if isinstance(sock, ssl.SSLSocket) and not sock.session_reused:
            session = sock.session
            if session is not None and session.has_ticket:
                self._resumption.session = session

    def send(self, data: bytes) -> None:
        """Send all of ``data``; what is read from now on is its answer, with a deadline anew."""
        self.restart_deadline()
        sock, view = self._open(), memoryview(data)
        while view:
            view = view[self._retry(lambda view=view: sock.send(view)) :]  # type: ignore[misc]
        self._just_sent = True

    def restart_deadline(self) -> None:
        """The next answer begins: it has the whole time-out and its own measure of bytes."""
        self.answer_bytes = self._answer_reads = 0
        if not self._last_words:
            self._deadline = time.monotonic() + self._timeout_seconds

    def begin_logout(self, seconds: float) -> None:
        """From now on the stop no longer interrupts, and all that follows has ``seconds``."""
        self._last_words = True
        self._deadline = time.monotonic() + seconds

    def line(self) -> bytes:
        """The next line with its line break, waited for; empty at the end of the stream.

        Raises:
            OSError: the deadline passed, or a bound of memory was exceeded.
            Interrupted: the stop came first.
        """
        if self._just_sent and b"\n" not in self._buffer:
            self._wait()  # an answer takes a moment: no need to look for it before
        self._just_sent = False
        while (line := self.line_at_hand()) is None:
            if not self._receive():
                self._wait()
        return line

    def line_at_hand(self) -> bytes | None:
        """The next line of those received, empty at the end of the stream, else None."""
        end = self._buffer.find(b"\n") + 1
        if end:
            return self._take(end)
        if len(self._buffer) > MAX_LINE_BYTES:
            self.refuse(f"the server sent a line longer than {MAX_LINE_BYTES} bytes")
        return b"" if self.ended else None

    def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes, waited for; fewer at the end of the stream."""
        if size > MAX_ANSWER_BYTES:
            self.refuse(f"the server announced a literal of {size} bytes")
        while len(self._buffer) < size and not self.ended:
            if not self._receive():
                self._wait()
        return self._take(size)

    def ready(self, seconds: float) -> bool:
        """Wait until something came, and receive it, some 16 KiB at most; False where nothing did.

        Raises:
            Interrupted: the stop came first.
        """
        if self.ended or b"\n" in self._buffer:
            return True
        return (seconds <= 0 or self._poll(READABLE, seconds)) and self._receive_portion()

    def cut(self) -> None:
        """Free a thread that hangs on this connection. Any thread may call.

        The unbound `shutdown`: that of `SSLSocket` takes the TLS layer from under a reader.
        """
        sock = self.sock
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                return  # not connected, or closed meanwhile

    def close(self) -> None:
        """Close the connection, and let go of all that TLS keeps for it."""
        self._end_watch()
        sock, self.sock = self.sock, None
        if isinstance(sock, ssl.SSLSocket) and sock.session_reused and not self._is_good:
            self._resumption.session = None
        if sock is not None:
            sock.close()

    def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def refuse(self, why: str) -> NoReturn:
        """A bound is exceeded: nothing more is read of this connection.

        Raises:
            OSError: always.
        """
        self.ended = f"provider trouble: {why}"
        self._buffer.clear()
        raise OSError(self.ended)

    def _receive_portion(self) -> bool:
        """Read what is there, but of a flood only a part; False when nothing is."""
        if not self._receive():
            return False
        while self.answer_bytes < RECEIVE_BYTES and not self.ended and self._has_more():
            if not self._receive():
                break
        return True

    def _has_more(self) -> bool:
        """Whether the socket holds further bytes: for less than what TLS takes to say that not."""
        number = bytearray(4)
        fcntl.ioctl(self._open(), termios.FIONREAD, number)
        return any(number)

    def _receive(self) -> bool:
        """Read what is there; False when nothing is. The end and errors are noted in `ended`."""
        try:
            sock = self._open()
            receive = sock.read if isinstance(sock, ssl.SSLSocket) else sock.recv
            data = receive(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            self.ended = f"connection lost ({reason(error)})"
            return True
        if not data:
            self.ended = "the server closed the connection"
        self._buffer += data
        self.answer_bytes += len(data)
        self._answer_reads += 1
        if self.answer_bytes > MAX_ANSWER_BYTES:
            self.refuse(f"the server sent more than {MAX_ANSWER_BYTES} bytes in one answer")
        if self._answer_reads > MAX_ANSWER_READS:
            self.refuse(f"the server sent one answer in more than {MAX_ANSWER_READS} pieces")
        return True

    def _retry(self, action: Callable[[], int | None]) -> int:
        """Do what may have to wait for the socket, again and again until the deadline."""
        while True:
            try:
                return action() or 0
            except ssl.SSLWantReadError:
                self._wait()
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(WRITABLE)

    def _wait(self, events: int = READABLE) -> None:
        """Wait until the socket may be ready, to the deadline at most."""
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("no answer in time")
        self._poll(events, remaining)

    def _poll(self, events: int, seconds: float) -> bool:
        """Wait until the socket may be ready; False when it is not, perhaps before the time is up.

        Raises:
            Interrupted: the stop came first.
        """
        watch = self._watch
        if watch is None:
            self._watch = watch = poller.watch(self._open().fileno(), self._stop.signal)
        if not self._last_words:
            self._stop.check()
        ready = watch.wait(events, seconds)
        if not self._last_words:
            self._stop.check()
        return ready

    def _open(self) -> socket.socket:
        if self.sock is None:
            raise OSError("the connection is closed")
        return self.sock


def _shake_hands(sock: ssl.SSLSocket) -> None:
    """The one thing that OpenSSL takes its time for: others run meanwhile."""
    with away:
        sock.do_handshake()


def reason(error: OSError) -> str:
    """What an operating system or TLS error says, in few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "the server does not speak TLS on this port: see imap_port and imap_security"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error.strerror or error}"
    return error.strerror or str(error) or error.__class__.__name__


def _keep_alive(sock: socket.socket) -> None:
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
