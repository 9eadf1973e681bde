"""Reading one response line of an IMAP server for what it means to a session in IDLE; pure."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
    """What a line is (RFC 9051, section 7)."""

    EXISTS = auto()
    EXPUNGE = auto()
    BYE = auto()
    CONTINUATION = auto()
    TAGGED = auto()
    OTHER = auto()
    """Understood, and no business of ours: OK, FETCH, RECENT, FLAGS, an empty line …"""
    TOO_MUCH = auto()
    """No line: more was announced than is kept, so what is kept proves nothing."""
    UNREADABLE = auto()
    """Not a response of the protocol: it may have been an announcement, so a scan is owed."""


class Line(NamedTuple):
    """A response line: its kind, its number where it has one, and its text after the keyword."""

    kind: Kind
    number: int = 0
    text: bytes = b""


# Case does not matter in keywords; ABNF allows one blank, servers send more (RFC 9051, section 9).
_NUMBERED = re.compile(
    rb"\* +0*([0-9]{1,10}) +(EXISTS|EXPUNGE|RECENT|FETCH|VANISHED)\b", re.IGNORECASE
)
_UNTAGGED = re.compile(
    rb"\* +(OK|NO|BAD|BYE|PREAUTH|CAPABILITY|ENABLED|FLAGS|LIST|LSUB|SEARCH|ESEARCH|STATUS|"
    rb"VANISHED|ID|NAMESPACE|METADATA|QUOTA|QUOTAROOT)(?: +(.*))?$",
    re.IGNORECASE | re.DOTALL,
)
# Exchange sends "TAG OK" and no text, others a tab or a bracket right behind it.
TAGGED = re.compile(
    rb"([A-Za-z0-9.]+)[ \t]+(OK|NO|BAD)(?![^ \t\[:])[ \t:]*(.*)", re.IGNORECASE | re.DOTALL
)
# Against the grammar, but it was seen; what it means is that the connection ends.
TAGGED_BYE = re.compile(
    rb"[A-Za-z0-9.]+[ \t]+BYE(?![^ \t\[:])[ \t:]*(.*)", re.IGNORECASE | re.DOTALL
)
_KINDS = {b"EXISTS": Kind.EXISTS, b"EXPUNGE": Kind.EXPUNGE, b"BYE": Kind.BYE}


def read_line(line: bytes) -> Line:
    """Classify one line without its CRLF.

    Literals are not followed: in IDLE a line is a line, so that a literal which is announced and
    never sent cannot swallow what comes after it.
    """
    if found := _NUMBERED.match(line):
        return Line(_KINDS.get(found[2].upper(), Kind.OTHER), int(found[1]))
    if found := _UNTAGGED.match(line):
        return Line(_KINDS.get(found[1].upper(), Kind.OTHER), text=found[2] or b"")
    if line.startswith(b"+"):
        return Line(Kind.CONTINUATION)
    if TAGGED.match(line):
        return Line(Kind.TAGGED, text=line)
    if found := TAGGED_BYE.match(line):
        return Line(Kind.BYE, text=found[1])
    return Line(Kind.UNREADABLE if line.strip() else Kind.OTHER)
