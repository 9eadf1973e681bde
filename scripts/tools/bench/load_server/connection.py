"""One thread for all sockets: the loop, and what all connections have in common."""

from __future__ import annotations

import contextlib
import heapq
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable
from itertools import count
from typing import Any

READ_BYTES = 16 * 1024
LONGEST_COMMAND_BYTES = 64 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Gone(Exception):
    """The other side closed the connection, or it broke."""


class Loop:
    """Calls whoever has asked for it when a socket can be read or written, or a time has come."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._turn = count()  # so that two of one moment can be compared

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for key, _ in self._selector.select(self._seconds_to_wait()):
                key.data()
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call it so many seconds from now."""
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._turn), call))

    def watch(self, file: Any, ready: Callable[[], None], writing: bool = False) -> None:
        """From now on call ``ready`` when there is something to read, or also room to write."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
        if file in self._selector.get_map():
            self._selector.modify(file, events, ready)
        else:
            self._selector.register(file, events, ready)

    def forget(self, file: Any) -> None:
        """Call nobody for it any more."""
        self._selector.unregister(file)

    def _seconds_to_wait(self) -> float | None:
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None


class Connection:
    """One accepted connection: its buffers, and its end."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = loop
        self._received = bytearray()
        self._unsent = b""
        self._open = True
        loop.watch(sock, self.ready)

    def ready(self) -> None:
        """Something came, or can go."""
        if not self._open:
            return  # closed by what happened to another in the same turn
        try:
            if self._unsent:
                self.send(b"")
            if self._receive():
                self.take()
        except (Gone, OSError):
            self.close()

    def take(self) -> None:
        """Take what is whole out of `_received`, and answer."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Send; what does not fit goes when there is room."""
        if not self._open:
            return
        had_unsent, self._unsent = bool(self._unsent), self._unsent + data
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._loop.watch(self.sock, self.ready, writing=True)
        except OSError:
            self.close()
        else:
            if had_unsent:
                self._loop.watch(self.sock, self.ready)

    def close(self) -> None:
        """Close, once."""
        if self._open:
            self._open = False
            self._loop.forget(self.sock)
            self.sock.close()

    def reset(self) -> None:
        """Break it: the other side gets a RST."""
        if self._open:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.close()

    def _receive(self) -> bool:
        """Read what is there; whether there was anything."""
        before = len(self._received)
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while True:
                data = self.sock.recv(READ_BYTES)
                if not data or len(self._received) > LONGEST_COMMAND_BYTES:
                    raise Gone
                self._received += data
        return len(self._received) > before
