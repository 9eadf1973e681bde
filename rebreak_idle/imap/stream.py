"""One connection's bytes: connecting, TLS, lines; every wait has a deadline and can be woken.

Time-outs of sockets hold for each `recv`; here an answer is bounded as a whole.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from ..errors import Interrupted
from ..tls_errors import forget_tls_errors, send_all
from .addresses import Address
from .answer_size import MAX_ANSWER_BYTES, AnswerSize
from .network import Look, Resumption, describe, describe_end, is_timeout, over_tls, shake_hands
from .pace import ANSWER_BYTES_PER_SECOND, Pace
from .race import Race

# FLAGS of a mailbox with thousands of keywords were seen with 90 KB.
MAX_LINE_BYTES = 192 * 1024
# A TLS record holds no more (RFC 8446, section 5.1), so that nothing of one is left in OpenSSL.
RECEIVE_BYTES = 16 * 1024
TIMEOUT_SLACK = 0.05  # the share by which a wait may be too short; it is never too long
# A peer that closed is ready to be read: Linux says so even while older data is unread.
CLOSED = getattr(select, "POLLRDHUP", 0)
READABLE = select.POLLIN | CLOSED


class Stream:
    """A connection that delivers whole lines. Used by one thread at a time, but for `interrupt`
    and `abort`.

    ``is_stopping`` tells whether every wait is to end with `Interrupted`.
    """

    def __init__(
        self, is_stopping: Callable[[], bool], timeout_seconds: float, resumption: Resumption
    ) -> None:
        self.sock: socket.socket | None = None
        self._address: Address | None = None
        self._closed: socket.socket | None = None
        self.close_reason = ""
        """Why nothing more can be read, or empty."""
        self.answer = AnswerSize()
        """What was received since the last `send` or `restart_deadline`."""
        self._is_stopping = is_stopping
        self._timeout_seconds = timeout_seconds
        self._resumption = resumption
        self._is_good = False
        self._deadline = 0.0
        self._is_logging_out = False
        self._buffer = bytearray()
        self._pace = Pace(ANSWER_BYTES_PER_SECOND)

    def connect(self, addresses: list[Address]) -> None:
        """Connect to the first address that answers within the time-out.

        Raises:
            OSError: none answered.
            Interrupted: the mailbox is to stop.
        """
        self.close()
        wake, other_end = socket.socketpair()
        with wake, other_end:
            self.sock = wake  # what `interrupt` and `abort` shut down meanwhile
            race = Race(addresses, self._resumption.addresses, wake)
            try:
                self._check_stop()
                self.sock, self._address = race.run(time.monotonic() + self._timeout_seconds)
            finally:
                if self.sock is wake:
                    self.sock = None
                self._check_stop()

    def address_failed(self) -> bool:
        """The next connection is to begin with another address; whether there was one at all."""
        if self._address is not None:
            self._resumption.addresses.failed([self._address])
        return self._address is not None

    def secure(self, context: ssl.SSLContext, host: str, look: Look | None = None) -> None:
        """Go over to TLS; ``host`` is verified against the certificate. ``look`` is for
        `shake_hands`.

        Raises:
            OSError: among them ssl.SSLError, for instance a certificate that does not verify.
        """
        if self._buffer:
            raise OSError("the server sent data before the TLS handshake (CVE-2011-0411)")
        self.restart_deadline()
        try:
            session = self._resumption.session
            self.sock = sock = over_tls(self._open_socket(), context, host, session)
            self._set_timeout(sock)
            shake_hands(sock, look)
        except OSError:
            self._resumption.session = None  # in case it was that
            raise
        finally:
            self._check_stop()

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
        sock = self._open_socket()
        self._set_timeout(sock)
        send_all(sock, data)

    def restart_deadline(self) -> None:
        """The next answer begins: it has the whole time-out and its own measure of bytes."""
        self.answer.restart()
        if not self._is_logging_out:
            self._deadline = time.monotonic() + self._timeout_seconds

    def begin_logout(self, seconds: float) -> None:
        """From now on the stop no longer interrupts, and all that follows has ``seconds``."""
        self._is_logging_out = True
        self._deadline = time.monotonic() + seconds

    def line(self) -> bytes:
        """The next line with its line break, waited for; empty at the end of the stream.

        Raises:
            OSError: the deadline passed, or a bound of memory was exceeded.
            Interrupted: the mailbox is to stop.
        """
        while (line := self.line_at_hand()) is None:
            self._receive_in_time()
        return line

    def line_at_hand(self) -> bytes | None:
        """The next line of those received, empty at the end of the stream, else None."""
        end = self._buffer.find(b"\n") + 1
        if end:
            return self._take(end)
        if len(self._buffer) > MAX_LINE_BYTES:
            self.limit_exceeded(f"the server sent a line longer than {MAX_LINE_BYTES} bytes")
        return b"" if self.close_reason else None

    def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes, waited for; fewer at the end of the stream."""
        if size > MAX_ANSWER_BYTES:
            self.limit_exceeded(f"the server announced a literal of {size} bytes")
        while len(self._buffer) < size and not self.close_reason:
            self._receive_in_time()
        return self._take(size)

    def poll(self, seconds: float) -> bool:
        """Wait until there is something to read, at most ``seconds``; False where nothing came.

        Raises:
            Interrupted: the mailbox is to stop.
        """
        if self.close_reason or b"\n" in self._buffer:
            return True
        waiting = select.poll()
        waiting.register(self._open_socket(), READABLE)
        self._check_stop()
        ready = waiting.poll(math.ceil(max(0.0, seconds) * 1000))
        self._check_stop()
        return bool(ready)

    def receive_available(self) -> None:
        """Receive what is there, some 16 KiB at most: of a flood only a part."""
        sock = self._open_socket()
        if sock.gettimeout() != 0:
            sock.settimeout(0)
        end = len(self._buffer) + RECEIVE_BYTES
        while len(self._buffer) < end and not self.close_reason:
            try:
                self._receive(sock)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return

    def interrupt(self) -> None:
        """End the wait for the server, so that the thread looks whether it is to stop; what it
        sends then still goes out. Any thread may call.
        """
        self._shut_down(socket.SHUT_RD)

    def abort(self) -> None:
        """Free a thread that hangs on this connection. Any thread may call."""
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        """By the unbound method: that of `SSLSocket` takes the TLS layer from under a reader."""
        if (sock := self.sock) is not None:
            with suppress(OSError):  # not connected, or closed meanwhile
                socket.socket.shutdown(sock, how)

    def close(self) -> None:
        """Close the connection. What TLS keeps for it is freed with the stream itself, by whichever
        thread lets go of it.
        """
        sock, self.sock = self.sock, None
        if isinstance(sock, ssl.SSLSocket) and sock.session_reused and not self._is_good:
            self._resumption.session = None
        if sock is not None:
            self._closed = sock
            if (descriptor := sock.detach()) != -1:
                socket.close(descriptor)

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def limit_exceeded(self, what: str) -> NoReturn:
        """A bound is exceeded: nothing more is read of this connection.

        Raises:
            OSError: always.
        """
        self.close_reason = f"provider trouble: {what}"
        self._buffer.clear()
        raise OSError(self.close_reason)

    def _receive_in_time(self) -> None:
        """Wait for data until the deadline, and take it in."""
        sock = self._open_socket()
        self._set_timeout(sock)
        before = self.answer.received_bytes
        self._receive(sock)
        if self._pace.is_exceeded:
            self.receive_available()  # what came in pieces during the rest counts as one
        rest_seconds = self._pace.rest_seconds(self.answer.received_bytes - before)
        if rest_seconds and not self._is_logging_out:
            self._rest(sock, rest_seconds)

    def _rest(self, sock: socket.socket, seconds: float) -> None:
        """Leave a server alone that says much; the time is not counted as its own. The stop ends
        it, and so does the end of the connection.
        """
        self._deadline += seconds
        closed = select.poll()
        closed.register(sock, CLOSED)
        closed.poll(math.ceil(seconds * 1000))
        self._check_stop()

    def _receive(self, sock: socket.socket) -> None:
        """Take in one portion. The end and broken connections are noted in `close_reason`."""
        try:
            data = sock.recv(RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            if is_timeout(error):
                raise
            forget_tls_errors()
            self._check_stop()
            self.close_reason = f"connection lost ({describe(error)})"
            return
        self._check_stop()
        if not data:
            self.close_reason = describe_end(sock)
        self._buffer += data
        self.answer.add(len(data))
        if what := self.answer.excess():
            self.limit_exceeded(what)

    def _set_timeout(self, sock: socket.socket) -> None:
        """Bound the socket's next wait by the deadline, with some slack: each setting lets go of
        the interpreter, which other threads wait for.

        The stop is looked for after the socket is in place: whoever stops the mailbox shuts down
        the socket after saying so, and one of the two is seen.
        """
        self._check_stop()
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if not remaining * (1 - TIMEOUT_SLACK) <= (sock.gettimeout() or 0) <= remaining:
            sock.settimeout(remaining * (1 - TIMEOUT_SLACK / 2))

    def _check_stop(self) -> None:
        if self._is_stopping() and not self._is_logging_out:
            raise Interrupted("stopping")

    def _open_socket(self) -> socket.socket:
        if self.sock is None:
            raise OSError("the connection is closed")
        return self.sock
