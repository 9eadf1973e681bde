"""Both servers, and the commands that steer them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from scripts.tools.bench.load_server.connection import READ_BYTES, Loop
from scripts.tools.bench.load_server.http import HttpConnection
from scripts.tools.bench.load_server.imap import ImapConnection
from scripts.tools.bench.load_server.mailboxes import Mailboxes

BACKLOG = 4096
ACCEPTED_AT_ONCE = 64  # so that a storm of connections does not keep the others waiting


class LoadServer:
    """Both servers and the commands that reach them on stdin."""

    def __init__(self, mailboxes: int, context: ssl.SSLContext) -> None:
        self._loop = Loop()
        self._context = context
        self._mailboxes = Mailboxes(mailboxes)
        self._connections: set[ImapConnection] = set()
        self._attempts: list[float] = []
        self._commands = b""
        self._imap = self._listen(self._accept_imap)
        self._http = self._listen(self._accept_http)
        self._loop.watch(0, self._take_commands)

    def run(self) -> None:
        """Say the ports, and serve until stdin ends."""
        _tell({"imap_port": _port(self._imap), "http_port": _port(self._http)})
        self._loop.run()

    def _listen(self, accepted: Callable[[socket.socket], None]) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        listener.setblocking(False)
        self._loop.watch(listener, lambda: self._accept(listener, accepted))
        return listener

    @staticmethod
    def _accept(listener: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(ACCEPTED_AT_ONCE):
                sock, _address = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted(sock)

    def _accept_imap(self, sock: socket.socket) -> None:
        self._attempts.append(time.monotonic())
        with contextlib.suppress(OSError):  # gone before it could be wrapped
            secured = self._context.wrap_socket(
                sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            forget = self._connections.discard
            self._connections.add(ImapConnection(self._loop, secured, self._mailboxes, forget))

    def _accept_http(self, sock: socket.socket) -> None:
        HttpConnection(self._loop, sock, self._mailboxes)

    # commands

    def _take_commands(self) -> None:
        data = os.read(0, READ_BYTES)
        if not data:
            sys.exit()
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            _tell(getattr(self, f"do_{command.pop('do')}")(**command))

    def do_status(self) -> dict[str, Any]:
        """How things are now."""
        return {
            "idling": len(self._mailboxes.idling),
            "connections": len(self._connections),
            "all_idling_at": self._mailboxes.all_idling_at,
            "unscanned": len(self._mailboxes.unscanned),
            "all_scanned_at": self._mailboxes.all_scanned_at,
            "scans": self._mailboxes.scans,
            "cpu_seconds": time.process_time(),
        }

    def do_announce(self, mailboxes: list[int]) -> dict[str, Any]:
        """A mail in each of these mailboxes, in the same instant; how many were announced."""
        return {"announced": sum(map(self._mailboxes.arrive, mailboxes))}

    def do_scans_take(self, seconds: float) -> dict[str, Any]:
        """From now on the answer to each scan takes so long; 0: it is given at once."""
        self._mailboxes.scan_seconds = seconds
        return {}

    def do_latencies(self) -> dict[str, Any]:
        """The latencies in seconds since this was asked last."""
        taken, self._mailboxes.latencies = self._mailboxes.latencies, []
        return {"seconds": taken}

    def do_attempts(self) -> dict[str, Any]:
        """The connection attempts since this was asked last, and the most in any one second."""
        taken, self._attempts = self._attempts, []
        return {"attempts": len(taken), "most_in_a_second": _most_in_a_second(taken)}

    def do_reset(self, mailboxes: list[int]) -> dict[str, Any]:
        """Break every IMAP connection, then let a mail arrive in each of these mailboxes."""
        at = time.monotonic()
        broken = list(self._connections)
        for connection in broken:
            connection.reset()
        for mailbox in mailboxes:
            self._mailboxes.arrive(mailbox)
        return {"at": at, "broken": len(broken)}


def _most_in_a_second(times: list[float]) -> int:
    """The most of these ascending moments that lie within one second."""
    return max((i + 1 - bisect_left(times, at - 1.0) for i, at in enumerate(times)), default=0)


def _port(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def _tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
