"""Servers of other protocols, known by how they greet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import MailboxUnusable
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


class NoImapServer(Exception):
    """The first line is another protocol's."""


def refuse_other_protocols(line: bytes) -> None:
    """Look at the first line that a server sends.

    Raises:
        NoImapServer: it is no IMAP server; with what it says.
    """
    if OTHER_PROTOCOLS.match(line):
        raise NoImapServer(line.decode("utf-8", "replace").strip())


def greeting(stream: Stream, note: Callable[[bytes], bytes]) -> bytes:
    """The first line; a server that says nothing until it is asked is asked (HTTPS).

    Raises:
        NoImapServer, OSError: there is none.
    """
    try:
        line = note(stream.line())
    except TimeoutError:
        stream.send(b"A1 NOOP\r\n")
        refuse_other_protocols(note(stream.line()))
        raise
    refuse_other_protocols(line)
    return line


@contextmanager
def greeting_of(mailbox: Mailbox, redacted: Callable[[str], str]) -> Iterator[None]:
    """In its block the greeting is read.

    Raises:
        MailboxUnusable: no IMAP server answers there.
    """
    try:
        yield
    except NoImapServer as error:
        said = redacted(str(error))[:SHOWN_CHARACTERS]
        raise MailboxUnusable(
            f"no IMAP server answers at {mailbox.host}:{mailbox.port} (it says {said!a}): "
            "see imap_port in the row"
        ) from error
