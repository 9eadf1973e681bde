#!/usr/bin/env python3
"""The load server of `scripts/bench`: thousands of IMAP sessions over TLS, and the scan endpoint.

One process, one thread, one selector. The mailboxes are `box<number>@bench.example`, with any
password; the connection ids of their rows end in the same number, plus one, in hexadecimal. Every
mailbox starts with mail that nobody has scanned.

It is told what to do on stdin and answers on stdout, a JSON object a line each; the first line
that it says carries its ports. It ends when stdin does. All times are of the monotonic clock, which
is the same for all processes of a machine.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import heapq
import json
import os
import re
import selectors
import signal
import socket
import ssl
import struct
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from itertools import count
from typing import Any

BACKLOG = 4096
ACCEPTED_AT_ONCE = 64  # so that a storm of connections does not keep the others waiting
READ_BYTES = 16 * 1024
LONGEST_COMMAND_BYTES = 64 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

CAPABILITIES = "IMAP4rev1 SASL-IR LITERAL- AUTH=PLAIN ID IDLE"
UIDVALIDITY = 1700000000
USER = re.compile(r"box(\d+)@bench\.example")
CONNECTION_ID = re.compile(rb'"connectionId"\s*:\s*"[0-9a-f-]*?([0-9a-f]{12})"')
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)\r\n", re.IGNORECASE)
SCAN = b"POST /api/mail/scan-internal "
SCANNED = b'{"scanned":1,"blocked":0}'
OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(SCANNED), SCANNED)
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Gone(Exception):
    """The other side closed the connection, or it broke."""


class Mailboxes:
    """What is in the mailboxes, who listens to them, and what was announced and scanned."""

    def __init__(self, number: int) -> None:
        self.messages = [1] * number
        self.idling: dict[int, ImapConnection] = {}
        self.unscanned = set(range(number))
        self.all_idling_at = 0.0
        """When the last of all mailboxes was listened to."""
        self.all_scanned_at = 0.0
        """When the last mailbox that owed a scan got it."""
        self.scan_seconds = 0.0
        """How long each scan takes: so long the answer to its POST is held back."""
        self.scans = 0
        self.latencies: list[float] = []
        """Seconds from the write of each EXISTS to the arrival of the next POST."""
        self._announced: dict[int, list[float]] = {}

    def arrive(self, mailbox: int) -> bool:
        """A mail arrives; whether somebody listens, to whom it is announced."""
        self.messages[mailbox] += 1
        self.unscanned.add(mailbox)
        connection = self.idling.get(mailbox)
        if connection is None:
            return False
        self._announced.setdefault(mailbox, []).append(time.monotonic())
        connection.say(f"* {self.messages[mailbox]} EXISTS")
        return True

    def scanned(self, mailbox: int, at: float) -> None:
        """A scan was asked for: it covers what has arrived so far."""
        self.scans += 1
        self.latencies += [at - written for written in self._announced.pop(mailbox, ())]
        if mailbox in self.unscanned:
            self.unscanned.remove(mailbox)
            self.all_scanned_at = at

    def listens(self, mailbox: int, connection: ImapConnection) -> None:
        """IDLE has begun."""
        self.idling[mailbox] = connection
        if len(self.idling) == len(self.messages):
            self.all_idling_at = time.monotonic()

    def listens_no_more(self, mailbox: int, connection: ImapConnection) -> None:
        """IDLE has ended, if it was this connection's."""
        if self.idling.get(mailbox) is connection:
            del self.idling[mailbox]


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


class ImapConnection(Connection):
    """One IMAP session (RFC 3501 and 2177), as far as programs that wait for mail need it."""

    sock: ssl.SSLSocket

    def __init__(
        self,
        loop: Loop,
        sock: ssl.SSLSocket,
        mailboxes: Mailboxes,
        closed: Callable[[ImapConnection], None],
    ) -> None:
        super().__init__(loop, sock)
        self._mailboxes = mailboxes
        self._closed = closed
        self._greeted = False
        self._mailbox: int | None = None
        self._idle_tag = ""
        self._sasl_tag = ""
        self._commands: dict[str, Callable[[str, str], None]] = {
            "CAPABILITY": self._capability,
            "LOGIN": self._login,
            "AUTHENTICATE": self._authenticate,
            "ID": self._id,
            "EXAMINE": self._examine,
            "SELECT": self._examine,
            "STATUS": self._status,
            "LIST": self._list,
            "NOOP": self._nothing,
            "IDLE": self._idle,
            "LOGOUT": self._logout,
        }

    def ready(self) -> None:
        if self._greeted or not self._open:
            super().ready()
            return
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.watch(self.sock, self.ready)
        except ssl.SSLWantWriteError:
            self._loop.watch(self.sock, self.ready, writing=True)
        except OSError:
            self.close()
        else:
            self._greeted = True
            self._loop.watch(self.sock, self.ready)
            self.say(f"* OK [CAPABILITY {CAPABILITIES}] at your service")
            super().ready()  # the handshake may have read on

    def take(self) -> None:
        while (end := self._received.find(b"\n")) >= 0:
            line = self._received[:end].decode("utf-8", "replace").rstrip("\r")
            del self._received[: end + 1]
            self._line(line)

    def say(self, line: str) -> None:
        """Send one line."""
        self.send(line.encode() + b"\r\n")

    def close(self) -> None:
        if self._open:
            self._end_idle()
            super().close()
            self._closed(self)

    def _line(self, line: str) -> None:
        if self._idle_tag:
            tag, done = self._idle_tag, line.upper() == "DONE"
            self._end_idle()
            self.say(f"{tag} OK IDLE is over" if done else f"{tag} BAD DONE was expected")
            return
        if self._sasl_tag:
            tag, self._sasl_tag = self._sasl_tag, ""
            self._log_in(tag, _sasl_user(line))
            return
        tag, _, rest = line.partition(" ")
        name, _, arguments = rest.partition(" ")
        command = self._commands.get(name.upper())
        if command is None:
            self.say(f"{tag or '*'} BAD no such command here")
        elif self._mailbox is None and name.upper() in ("EXAMINE", "SELECT", "STATUS", "IDLE"):
            self.say(f"{tag} BAD log in first")
        else:
            command(tag, arguments)

    def _capability(self, tag: str, _arguments: str) -> None:
        self.say(f"* CAPABILITY {CAPABILITIES}\r\n{tag} OK done")

    def _login(self, tag: str, arguments: str) -> None:
        self._log_in(tag, arguments)

    def _authenticate(self, tag: str, arguments: str) -> None:
        mechanism, _, response = arguments.partition(" ")
        if mechanism.upper() != "PLAIN":
            self.say(f"{tag} NO only PLAIN")
        elif response:
            self._log_in(tag, _sasl_user(response))
        else:
            self._sasl_tag = tag
            self.say("+ ")

    def _log_in(self, tag: str, user: str) -> None:
        """Log in the mailbox that is named in this text."""
        found = USER.search(user)
        if found is None or int(found[1]) >= len(self._mailboxes.messages):
            self.say(f"{tag} NO [AUTHENTICATIONFAILED] there is no such mailbox")
            return
        self._mailbox = int(found[1])
        self.say(f"{tag} OK [CAPABILITY {CAPABILITIES}] logged in")

    def _id(self, tag: str, _arguments: str) -> None:
        self.say(f'* ID ("name" "bench_load")\r\n{tag} OK done')

    def _examine(self, tag: str, _arguments: str) -> None:
        messages = self._count()
        self.say(
            f"* FLAGS (\\Seen \\Deleted)\r\n* {messages} EXISTS\r\n* 0 RECENT\r\n"
            "* OK [PERMANENTFLAGS ()] none\r\n"
            f"* OK [UIDVALIDITY {UIDVALIDITY}] stays\r\n* OK [UIDNEXT {messages + 1}] next\r\n"
            f"{tag} OK [READ-ONLY] INBOX"
        )

    def _status(self, tag: str, _arguments: str) -> None:
        messages = self._count()
        status = f"MESSAGES {messages} UIDNEXT {messages + 1} UIDVALIDITY {UIDVALIDITY}"
        self.say(f"* STATUS INBOX ({status})\r\n{tag} OK done")

    def _list(self, tag: str, arguments: str) -> None:
        named = "INBOX" in arguments.upper() or "*" in arguments or "%" in arguments
        found = '* LIST () "/" INBOX' if named else '* LIST (\\Noselect) "/" ""'
        self.say(f"{found}\r\n{tag} OK done")

    def _nothing(self, tag: str, _arguments: str) -> None:
        self.say(f"{tag} OK done")

    def _idle(self, tag: str, _arguments: str) -> None:
        self._idle_tag = tag
        self.say("+ idling")
        if self._mailbox is not None and self._open:
            self._mailboxes.listens(self._mailbox, self)

    def _logout(self, tag: str, _arguments: str) -> None:
        self.say(f"* BYE see you\r\n{tag} OK logged out")
        self.close()

    def _end_idle(self) -> None:
        if self._idle_tag and self._mailbox is not None:
            self._mailboxes.listens_no_more(self._mailbox, self)
        self._idle_tag = ""

    def _count(self) -> int:
        return 0 if self._mailbox is None else self._mailboxes.messages[self._mailbox]


def _sasl_user(response: str) -> str:
    """The user's name in a response of SASL PLAIN (RFC 4616), or nothing."""
    try:
        return base64.b64decode(response).decode().split("\0")[1]
    except (binascii.Error, UnicodeError, IndexError):
        return ""


class HttpConnection(Connection):
    """One connection to the scan endpoint, kept alive."""

    def __init__(self, loop: Loop, sock: socket.socket, mailboxes: Mailboxes) -> None:
        super().__init__(loop, sock)
        self._mailboxes = mailboxes

    def take(self) -> None:
        at = time.monotonic()
        while (head := self._received.find(b"\r\n\r\n") + 4) > 3:
            length = CONTENT_LENGTH.search(self._received, 0, head)
            end = head + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            request = bytes(self._received[:end])
            del self._received[:end]
            self._answer(request, at)

    def _answer(self, request: bytes, at: float) -> None:
        named = CONNECTION_ID.search(request) if request.startswith(SCAN) else None
        mailbox = int(named[1], 16) - 1 if named else -1
        if not 0 <= mailbox < len(self._mailboxes.messages):
            self.send(NOT_FOUND)
            return
        self._mailboxes.scanned(mailbox, at)
        if seconds := self._mailboxes.scan_seconds:
            self._loop.later(seconds, lambda: self.send(OK))
        else:
            self.send(OK)


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


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description="The load server of scripts/bench.")
    parser.add_argument("--mailboxes", type=int, required=True)
    parser.add_argument("--certificate", required=True, help="PEM file")
    parser.add_argument("--key", required=True, help="PEM file")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    LoadServer(options.mailboxes, context).run()


if __name__ == "__main__":
    main()
