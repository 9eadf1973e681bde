"""The endpoints for scans and for access tokens."""

from __future__ import annotations

import re
import socket
import time

from scripts.tools.bench.load_server.connection import Connection, Loop
from scripts.tools.bench.load_server.mailboxes import Mailboxes

CONNECTION_ID = re.compile(rb'"connectionId"\s*:\s*"[0-9a-f-]*?([0-9a-f]{12})"')
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)\r\n", re.IGNORECASE)
SCAN = b"POST /api/mail/scan-internal "
SCANNED = b'{"scanned":1,"blocked":0}'
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
OK = HEAD % (len(SCANNED), SCANNED)
TOKEN = b"POST /api/mail/access-token "
# As long as Google's; every mailbox has its own.
TOKEN_REPEATS = 17
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


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
        named = CONNECTION_ID.search(request) if request.startswith((SCAN, TOKEN)) else None
        mailbox = int(named[1], 16) - 1 if named else -1
        if not 0 <= mailbox < len(self._mailboxes.messages):
            self.send(NOT_FOUND)
            return
        if request.startswith(TOKEN):
            body = b'{"accessToken":"%s","expiresIn":3599}' % (b"%012x" % mailbox * TOKEN_REPEATS)
            self.send(HEAD % (len(body), body))
            return
        self._mailboxes.scanned(mailbox, at)
        if seconds := self._mailboxes.scan_seconds:
            self._loop.later(seconds, lambda: self.send(OK))
        else:
            self.send(OK)
