"""The lines of an answer in the one form that imaplib knows, of all that IMAP allows; pure."""

from __future__ import annotations

import re

from .responses import TAGGED, TAGGED_BYE

_NUMBERED = re.compile(rb"\* +([0-9]+) +([A-Za-z-]+)")
_STATUS = re.compile(rb"\* +(OK|NO|BAD|BYE|PREAUTH) +(\[ *[A-Za-z-]+)", re.IGNORECASE)
_KEYWORD = re.compile(rb"\* +([A-Za-z-]+)")
# All else is of no use to us. Tens of thousands of FETCH come where a folder is marked as read, 90
# KB of FLAGS where there are thousands of keywords, and of OK and NO only some codes tell anything.
_UNTAGGED = re.compile(rb"\* +(?:[0-9]+ +)?[A-Za-z-]+")
_WANTED = re.compile(
    rb"\* +(?:[0-9]+ +EXISTS\b|CAPABILITY\b|STATUS\b|BYE\b|NO +\["
    rb"|OK +\[ *(?:CAPABILITY|UIDNEXT|UIDVALIDITY)\b)",
    re.IGNORECASE,
)
_EXISTS = re.compile(rb"\* +([0-9]+) +EXISTS *\r?\n", re.IGNORECASE)
_EXPUNGE = re.compile(rb"\* +[0-9]+ +EXPUNGE\b", re.IGNORECASE)
_LITERAL = re.compile(rb"\{[0-9]+\+?\}\r?\n$")


def in_plain_form(raw: bytes) -> bytes:
    """The line with single blanks, tag and keywords in upper case, and CRLF; empty as it is."""
    return _plain(raw.rstrip(b"\r\n")) + b"\r\n" if raw else b""


def _plain(line: bytes) -> bytes:
    if tagged := TAGGED.fullmatch(line):
        return b"%s %s %s" % (tagged[1].upper(), tagged[2].upper(), tagged[3])
    if bye := TAGGED_BYE.fullmatch(line):
        return b"* BYE " + bye[1]
    for form, shape in ((_NUMBERED, b"* %s %s"), (_STATUS, b"* %s %s"), (_KEYWORD, b"* %s")):
        if found := form.match(line):
            return shape % tuple(part.upper() for part in found.groups()) + line[found.end() :]
    return line


def is_unwanted(line: bytes) -> bool:
    """Whether a line tells nothing that anybody asks for; not where a literal follows it."""
    if line.strip() in (b"", b"*"):
        return bool(line)
    is_known = _UNTAGGED.match(line) and not _WANTED.match(line)
    return bool(is_known) and not _LITERAL.search(line)


def is_expunge(line: bytes) -> bool:
    """Whether a message was removed, and the messages are fewer."""
    return _EXPUNGE.match(line) is not None


def replaces_last(exists: list[bytes], line: bytes) -> bool:
    """Whether ``line`` is one more of the EXISTS of an answer, which imaplib keeps all: from the
    third on each takes the last one's place. That tells how many, and two that there was news.
    """
    if len(exists) < 2 or not (found := _EXISTS.match(line)):
        return False
    exists[-1] = found[1]
    return True


def status_numbers(data: object) -> tuple[int | None, int | None]:
    """UIDNEXT and UIDVALIDITY in an answer to STATUS as imaplib hands it over (RFC 9051, section
    7.3.4); None where it is not there, or 0.
    """
    text = str(data).upper()
    return _number_after("UIDNEXT", text), _number_after("UIDVALIDITY", text)


def _number_after(name: str, text: str) -> int | None:
    found = re.search(rf"\b{name} +([0-9]{{1,10}})\b", text)
    return int(found[1]) or None if found else None


def last_number(responses: list[bytes]) -> int | None:
    """The number of the last response of a kind; 0 is none (RFC 9051, section 2.3.1.1), and NIL, a
    word, or nothing at all is not told either.
    """
    try:
        return int(responses[-1]) or None
    except (IndexError, TypeError, ValueError):
        return None
