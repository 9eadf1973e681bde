"""An IMAP server for tests, on real sockets, that behaves well until it is told not to.

`Mailbox` is the mail, `ScriptedImap` the server, `Connection` one client's connection. Left alone
the server is a small, correct IMAP4rev1 server with IDLE (RFC 9051, RFC 2177). A test bends it:

    server.on("login", lambda c: c.answer(b"NO [UNAVAILABLE] Try later"), times=1)
    server.after("idle", lambda c: mailbox.arrive(), glued=True)
    server.rewrite("examine", lambda out: out.replace(b"UIDNEXT", b"UIDNEXT x"))
    server.idling[0].rst()

TLS is done in memory (`ssl.MemoryBIO`), so that every byte of ciphertext can be held back or
replaced too. Each connection has one thread; all of them end with the server.
"""

from tests.support.scripted_imap.commands import parse_command
from tests.support.scripted_imap.connection import Connection
from tests.support.scripted_imap.mailbox import Arrival, Mailbox
from tests.support.scripted_imap.providers import (
    GMAIL_BYE,
    GMAIL_ERROR,
    GMAIL_NO,
    OUTLOOK_BAD,
    OUTLOOK_BYE,
    OUTLOOK_NO,
    OUTLOOK_NOT_CONNECTED,
)
from tests.support.scripted_imap.server import STEPS, Action, ScriptedImap
from tests.support.scripted_imap.wire import CutAfter

__all__ = [
    "GMAIL_BYE",
    "GMAIL_ERROR",
    "GMAIL_NO",
    "OUTLOOK_BAD",
    "OUTLOOK_BYE",
    "OUTLOOK_NO",
    "OUTLOOK_NOT_CONNECTED",
    "STEPS",
    "Action",
    "Arrival",
    "Connection",
    "CutAfter",
    "Mailbox",
    "ScriptedImap",
    "parse_command",
]
