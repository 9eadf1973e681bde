"""Servers that are not what the row says, known by what they say first: of another protocol, with
TLS from the start where the row has STARTTLS, or the other way round.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..errors import ServerUnusable
from ..mailbox import Mailbox
from .stream import Stream

SHOWN_CHARACTERS = 80
# Anything else that is no greeting of IMAP may be a server in trouble, or what stands before it (an
# HTTP 503 of a load balancer, -ERR, 421, 554), and is tried again.
OTHER_PROTOCOLS = re.compile(
    rb"""
      [+]OK\b            # POP3: RFC 1939, section 3
    | 2\d\d[ -]          # SMTP: RFC 5321, section 4.2; FTP: RFC 959, section 4.2; NNTP: RFC 3977
    | HTTP/[\d.]+[ ][1-4] | <!doctype\b | <html\b  # HTTP: RFC 9112, section 4, or a page alone
    | SSH-               # RFC 4253, section 4.2
    | "IMPLEMENTATION"   # ManageSieve: RFC 5804, section 1.7
    """,
    re.VERBOSE | re.IGNORECASE,
)


# What a plain-text IMAP server says that is ready. One in trouble may say so before any TLS.
_PLAIN_IMAP = re.compile(rb"\* (OK|PREAUTH)\b", re.IGNORECASE)
# ServerHello and alert (RFC 8446, sections 5.1 and 4); an IMAP server may say our hello back.
_TLS_RECORD = re.compile(rb"\x16\x03...\x02|\x15\x03.\x00\x02", re.DOTALL)
# Enough to know a record by.
TLS_RECORD_BYTES = 6


class WrongServer(Exception):
    """The server is not what the row says; ``line`` is what it says, or empty."""

    def __init__(self, what: str, advice: str, line: bytes = b"") -> None:
        super().__init__(what)
        self.what, self.advice = what, advice
        self.said = line.decode("utf-8", "replace").strip()


def refuse_other_protocols(line: bytes) -> None:
    """Look at the first line that a server sends.

    Raises:
        WrongServer: it is no IMAP server.
    """
    if OTHER_PROTOCOLS.match(line):
        raise WrongServer("no IMAP server answers", "see imap_port in the row", line)


def refuse_plain_text(data: bytes) -> None:
    """Look at the first that a server sends which is to speak TLS.

    Raises:
        WrongServer: it is the greeting of IMAP without TLS, or of another protocol.
    """
    line = data.partition(b"\n")[0]
    if _PLAIN_IMAP.match(line):
        advice = "see imap_security and imap_port in the row, 993 is the port for tls"
        raise WrongServer("no TLS from the start is spoken", advice, line)
    refuse_other_protocols(line)


def refuse_tls(data: bytes) -> None:
    """Look at the first that a server sends which is to speak plain text until STARTTLS.

    Raises:
        WrongServer: it is TLS.
    """
    if _TLS_RECORD.match(data):
        advice = "see imap_security and imap_port in the row, 143 is the port for starttls"
        raise WrongServer("TLS from the start is spoken", advice)


def client_hello(context: ssl.SSLContext, host: str) -> bytes:
    """What a TLS client says first, and line breaks for who does not understand it."""
    out = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=host).do_handshake()
    return out.read() + b"\r\n\r\n"


def first_line(
    stream: Stream, note: Callable[[bytes], bytes], context: ssl.SSLContext | None, host: str
) -> bytes:
    """The greeting; a server that says nothing until it is asked is asked (HTTPS, or TLS).

    ``context`` is None where TLS is spoken already.

    Raises:
        WrongServer, OSError: there is none.
    """
    try:
        line = note(stream.line())
    except TimeoutError:
        stream.send(client_hello(context, host) if context else b"A1 NOOP\r\n")
        refuse_tls(begin := stream.exactly(TLS_RECORD_BYTES))
        refuse_other_protocols(note(begin + stream.line()))
        raise
    refuse_other_protocols(line)
    return line


@contextmanager
def greeting_of(mailbox: Mailbox, redacted: Callable[[str], str]) -> Iterator[None]:
    """In its block the server is connected to, and the greeting read.

    Raises:
        ServerUnusable: the server is not what the row says.
    """
    try:
        yield
    except WrongServer as error:
        said = redacted(error.said)[:SHOWN_CHARACTERS]
        shown = f" (it says {said!a})" if said else ""
        raise ServerUnusable(
            f"{error.what} at {mailbox.host}:{mailbox.port}{shown}: {error.advice}"
        ) from error
