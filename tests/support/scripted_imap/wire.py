"""One TCP connection of a client, with TLS or without, byte by byte."""

import contextlib
import itertools
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.scripted_imap.server import ScriptedImap


STALLED_SECONDS = 30.0  # a client that takes no byte for so long is given up


class OverError(Exception):
    """The conversation has ended; its thread unwinds."""


class Wire:
    """One TCP connection, with TLS or without, and all that can be done with it and to it.

    What ends it raises `OverError` in its own thread and returns in any other.
    """

    def __init__(self, server: "ScriptedImap", sock: socket.socket, number: int) -> None:
        self.server = server
        self.number = number
        """1 for the server's first connection."""
        self.closed: str | None = None
        """Who or what ended it: "client", "logout", "fin", "truncate", "close_notify", "rst",
        "silence", "server" (its end), "tls", "stalled" or "error"; None while it goes on."""
        self.sent_bytes = 0
        """Application bytes sent: lines, not TLS records."""
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls: ssl.SSLObject | None = None
        self._from_client, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._held: list[bytearray] = []
        self._output = threading.RLock()  # guards the order of output, and the TLS object
        self._life = threading.Lock()  # guards the socket against use after its close
        self._gone = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"scripted-imap-{number}")
        self.thread.daemon = True

    @property
    def open(self) -> bool:
        """Whether the TCP connection still stands on this side."""
        return not self._gone.is_set()

    def _run(self) -> None:
        try:
            self._converse()
        except OverError:
            pass
        except Exception as error:  # an action's failure is the test's failure
            self.server.errors.append(error)
            self._mark("error")
        finally:
            with contextlib.suppress(OverError):
                self._linger()
            self._close()

    def _converse(self) -> None:
        raise NotImplementedError

    # Sending

    def send(self, data: bytes) -> None:
        """Send `data` as it is: one TLS record and one segment, unless it is held by `glue`."""
        with self._output:
            if self._held:
                self._held[-1] += data
            else:
                self._transmit(data)

    @contextlib.contextmanager
    def glue(self, change: Callable[[bytes], bytes] = bytes) -> Iterator[None]:
        """Hold back what is sent meanwhile and send it as one segment, passed through `change`."""
        with self._output:
            self._held.append(bytearray())
        try:
            yield
        finally:
            with self._output:
                held = self._held.pop()
                if held and not self.closed:
                    self.send(change(bytes(held)))

    def send_split(self, data: bytes, size: int = 1, pause_seconds: float = 0.0) -> None:
        """Send `data` in pieces of `size` bytes, each in a TLS record and a segment of its own."""
        self._flush()
        for piece in _pieces(data, size):
            if not self._transmit(piece) or self.pause(pause_seconds):
                return

    def send_segments(self, data: bytes, size: int = 1, pause_seconds: float = 0.0) -> None:
        """Send `data` as one TLS record whose ciphertext goes out in segments of `size` bytes."""
        self._flush()
        with self._output:
            for piece in _pieces(self._encrypt(data), size):
                self.send_raw(piece)
                if self.pause(pause_seconds):
                    return

    def send_partial_record(self, data: bytes) -> bytes:
        """Send half of the TLS record of `data`; return the rest, for `send_raw`.

        Nothing else may be sent before the rest, or the client sees a broken record.
        """
        self._flush()
        with self._output:
            record = self._encrypt(data)
            self.send_raw(record[: len(record) // 2])
        return record[len(record) // 2 :]

    def send_raw(self, data: bytes) -> None:
        """Put bytes on the wire as they are, outside any TLS record."""
        self._flush()
        with self._output:
            if not self._stopped():
                self._write(data)

    def drip(self, data: bytes, every_seconds: float = 0.05, size: int = 1) -> None:
        """Send `data` over and over, `size` bytes at a time, until the connection ends."""
        self._flush()
        for piece in itertools.cycle(_pieces(data, size)):
            if not self._transmit(piece) or self.pause(every_seconds):
                return

    def flood(self, data: bytes, max_bytes: int = 1 << 30) -> None:
        """Send `data` over and over, as fast as it is taken, for at most about `max_bytes`."""
        self._flush()
        block = data * (65536 // len(data) + 1)
        for _ in range(max_bytes // len(block) + 1):
            if not self._transmit(block):
                return

    def pause(self, seconds: float) -> bool:
        """Do nothing for so long; return at once, with True, when the connection ends."""
        if seconds and not self._stopped() and self._poll(select.POLLRDHUP, seconds):
            self._mark("client")
        return self._stopped()

    # Ending

    def fin(self, notify: bool = True, how: str = "fin") -> None:
        """Close by FIN, with TLS's close_notify before it unless `notify` is False."""
        self._flush()
        with self._output:
            self._mark(how, by_test=True)
            if notify:
                self._write_close_notify()
            self._shutdown(socket.SHUT_WR)
        self._stopped()

    def close_notify(self) -> None:
        """End TLS by its close_notify, and leave the TCP connection open."""
        self._flush()
        with self._output:
            self._mark("close_notify", by_test=True)
            self._write_close_notify()
        self._stopped()

    def rst(self) -> None:
        """Reset the TCP connection."""
        self._flush()
        self._mark("rst", by_test=True)
        self._shutdown(socket.SHUT_RD)  # sends nothing, but wakes the thread that must close it
        self._stopped()

    def silence(self) -> None:
        """Read, answer and announce nothing any more, and leave the TCP connection open."""
        self._flush()
        self._mark("silence", by_test=True)
        self._stopped()

    def end(self, how: str) -> None:
        """End in the way that `closed` will name."""
        if how in ("fin", "truncate"):
            self.fin(notify=how == "fin", how=how)
        else:
            {"rst": self.rst, "silence": self.silence, "close_notify": self.close_notify}[how]()

    def stop(self) -> None:
        """Wake the thread, wherever it waits, and let it end. For the server."""
        self._mark("server")
        self._shutdown(socket.SHUT_RDWR)

    # Bytes in

    def _receive(self) -> bytes:
        data = b""
        while not (plain := self._decrypt(data)):
            data = self._receive_raw()
        return plain

    def _receive_raw(self) -> bytes:
        self._poll(select.POLLIN)
        try:
            data = self._socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._mark("client")
        self._stopped()
        return data

    # Bytes out

    def _transmit(self, data: bytes) -> bool:
        """Encrypt and write `data`, or as much of it as a cut lets through; False once ended."""
        with self._output:
            if self._stopped():
                return False
            cut = self.server.cut
            if not cut or not cut.applies_to(self):
                self._write(self._encrypt(data))
                return not self._stopped()
            self._write(self._encrypt(data[: cut.n_bytes - self.sent_bytes]))
            if self.sent_bytes == cut.n_bytes:
                cut.fire(self)
            return not self._stopped()

    def _encrypt(self, data: bytes) -> bytes:
        self.sent_bytes += len(data)
        if not self._tls or not data:
            return data
        self._tls.write(data)
        return self._to_client.read()

    def _decrypt(self, data: bytes) -> bytes:
        if not self._tls:
            return data
        plain = b""
        with self._output:
            self._from_client.write(data)
            try:
                while chunk := self._tls.read(65536):
                    plain += chunk
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self._mark("client")
            except ssl.SSLError:
                self._mark("tls")
        if not plain:
            self._stopped()
        return plain

    def _handshake(self, context: ssl.SSLContext) -> None:
        tls = context.wrap_bio(self._from_client, self._to_client, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._write(self._to_client.read())
                self._from_client.write(self._receive_raw())
            except ssl.SSLError:
                self._write(self._to_client.read())  # the alert
                self._mark("tls")
                self._stopped()
            else:
                self._write(self._to_client.read())
                self._tls = tls
                return

    def _write_close_notify(self) -> None:
        if self._tls:
            with contextlib.suppress(ssl.SSLError):  # the client's own close_notify is not awaited
                self._tls.unwrap()
            self._write(self._to_client.read())

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                events = self._poll(select.POLLOUT | select.POLLRDHUP, STALLED_SECONDS)
                if events != select.POLLOUT:
                    self._mark("client" if events else "stalled")
                    break
            except OSError:
                self._mark("client")
                break

    def _flush(self) -> None:
        """Send what is held: what follows must not overtake it."""
        with self._output:
            held = b"".join(self._held)
            for buffer in self._held:
                buffer.clear()
            if held:
                self._transmit(held)

    # The socket's life

    def _poll(self, events: int, seconds: float | None = None) -> int:
        poller = select.poll()
        poller.register(self._socket, events)
        found = poller.poll(None if seconds is None else seconds * 1000)
        return found[0][1] if found else 0

    def _stopped(self) -> bool:
        """Say whether the conversation has ended; its own thread leaves it here."""
        if self.closed and threading.current_thread() is self.thread:
            raise OverError
        return self.closed is not None

    def _mark(self, how: str, by_test: bool = False) -> None:
        if self.closed is None or (by_test and self.open):
            self.closed = how
        self.server.notify()

    def _shutdown(self, how: int) -> None:
        with self._life, contextlib.suppress(OSError):
            self._socket.shutdown(how)

    def _linger(self) -> None:
        """After an end that leaves the TCP connection standing, wait for the client's."""
        if self.closed == "silence":
            self._poll(select.POLLRDHUP)
        elif self.closed in ("fin", "truncate", "logout", "close_notify"):
            with contextlib.suppress(OSError):
                while self._poll(select.POLLIN) and self._socket.recv(65536):
                    pass

    def _close(self) -> None:
        with self._output, self._life:
            if self.closed == "rst":
                reset = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self._socket.close()
        self._gone.set()
        self.server.notify()


@dataclass
class CutAfter:
    """End a connection after exactly `n_bytes` application bytes, wherever in a line that is.

    `how` is "fin", "truncate" (FIN without close_notify), "rst", "silence" or "close_notify".
    `callback` is called after the last byte and before the client can know of the end.
    The first connection is cut, or with `every` each of them.
    """

    n_bytes: int
    how: str
    callback: Callable[[], object] | None = None
    every: bool = False
    fired: threading.Event = field(default_factory=threading.Event)

    def applies_to(self, connection: Wire) -> bool:
        return self.every or connection.number == 1

    def fire(self, connection: Wire) -> None:
        connection.closed = self.how  # nothing that the callback does goes out over it
        if self.callback:
            self.callback()
        self.fired.set()
        connection.end(self.how)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
