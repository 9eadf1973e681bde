"""Reading one line of a server."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rebreak_idle.imap.responses import Kind, Line, read_line


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"* 5 EXISTS", 5),
        (b"* 5 exists", 5),
        (b"* 5 Exists", 5),
        (b"* 05 EXISTS", 5),
        (b"* 0000000000000000005 EXISTS", 5),
        (b"* 0 EXISTS", 0),
        (b"* 000 EXISTS", 0),
        (b"*  5   EXISTS", 5),
        (b"* 5 EXISTS ", 5),
        (b"* 4294967295 EXISTS", 4294967295),
        (b"* 5 EXISTS (and more", 5),
        (b"* 5 EXISTS {12}", 5),
        (b"* 5 EXISTS\0", 5),
        (b"* 5 EXISTS \xff\xfe", 5),
    ],
)
def test_exists(line: bytes, number: int) -> None:
    """EXISTS with its number, in every spelling that servers use."""
    assert read_line(line) == Line(Kind.EXISTS, number)


@pytest.mark.parametrize("line", [b"* 3 EXPUNGE", b"* 3 expunge", b"* 003  EXPUNGE "])
def test_expunge(line: bytes) -> None:
    """EXPUNGE with its number."""
    assert read_line(line) == Line(Kind.EXPUNGE, 3)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"* BYE", b""),
        (b"* BYE ", b""),
        (b"* BYE Autologout; idle for too long", b"Autologout; idle for too long"),
        (b"* bye see you", b"see you"),
        (b"*  BYE   see you", b"see you"),
        (b"* BYE (unbalanced", b"(unbalanced"),
        (b"* BYE \xff\0", b"\xff\0"),
        (b"* BYE {5}", b"{5}"),
    ],
)
def test_bye(line: bytes, text: bytes) -> None:
    """BYE with the server's words."""
    found = read_line(line)
    assert found.kind is Kind.BYE
    assert found.text.strip() == text


@pytest.mark.parametrize("line", [b"+ idling", b"+", b"+ ", b"+ still here", b"+idling", b"+ \xff"])
def test_continuation(line: bytes) -> None:
    """Continuations, those that only keep the connection warm included."""
    assert read_line(line).kind is Kind.CONTINUATION


@pytest.mark.parametrize(
    "line",
    [b"ABCD1 OK IDLE terminated", b"ABCD1 ok", b"ABCD1 NO", b"ABCD1 BAD x", b"ABCD1  OK  done"],
)
def test_tagged(line: bytes) -> None:
    """A command's end, with the whole line as its text."""
    assert read_line(line) == Line(Kind.TAGGED, text=line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
        b"\t",
        b"* OK Still here",
        b"* OK",
        b"* ok still here",
        b"*   OK  Still here",
        b"* OK [HIGHESTMODSEQ 12] x",
        b"* OK [unbalanced",
        b"* OK \xe4\xf6\xfc \0",
        b"* OK {400}",
        b"* NO Mailbox is being moved",
        b"* BAD x",
        b"* 2 RECENT",
        b"* 12 FETCH (FLAGS (\\Seen))",
        b"* 12 FETCH (FLAGS (\\Seen",
        b"* 12 fetch (BODY[HEADER.FIELDS (SUBJECT)] {200}",
        b"* FLAGS (\\Answered \\Seen)",
        b"* FLAGS (",
        b"* CAPABILITY IMAP4rev1 IDLE",
        b'* LIST () "/" {5}',
        b'* STATUS "INBOX" (MESSAGES 4)',
        b"* VANISHED 41,43:116",
        b"* VANISHED (EARLIER) 41",
        b"* SEARCH 2 3 6",
        b"* SEARCH",
    ],
)
def test_other(line: bytes) -> None:
    """What is understood and announces nothing, however it ends."""
    assert read_line(line).kind is Kind.OTHER


@pytest.mark.parametrize(
    "line",
    [
        b"*",
        b"* ",
        b"*5 EXISTS",
        b" * 5 EXISTS",
        b"* 5",
        b"* EXISTS",
        b"* five EXISTS",
        b"* -5 EXISTS",
        b"* 5.0 EXISTS",
        b"* 5 EXISTSX",
        b"* 5EXISTS",
        b"* 5\tEXISTS",
        b"* 5\0 EXISTS",
        b"* \xb2 EXISTS",
        b"* \0",
        b"* 99999999999 EXISTS",
        b"5 EXISTS",
        b"EXISTS",
        b"* 5 EXI",
        b"STS",
        b")",
        b"hello there, this is not IMAP",
        b"\0",
        b"\xff\xfe\xfd",
        b"ABCD1 IDLE terminated",
        b"ABCD1 OKAY",
    ],
)
def test_unreadable(line: bytes) -> None:
    """What is no response may have been an announcement, and is marked for it."""
    assert read_line(line).kind is Kind.UNREADABLE


@given(st.binary())
@example(b"* 5 EXISTS\r\n")
@example(b"* " + b"0" * 60_000 + b" ")
@example(b"*" + b" " * 60_000)
@example(b"(" * 60_000)
@settings(deadline=None)
def test_any_line_is_classified(line: bytes) -> None:
    """Whatever a server sends is read without an error."""
    found = read_line(line)
    assert isinstance(found, Line)
    assert isinstance(found.kind, Kind)
    assert found.number >= 0


WORDS = [b"*", b"+", b"5", b"EXISTS", b"OK", b"BYE", b"FETCH", b"(", b")", b'"', b"{5}", b"\0"]


@given(st.lists(st.sampled_from([*WORDS, b" ", b"A1", b"\xff", b"0", b"\\", b"["])))
@settings(deadline=None)
def test_pieces_of_protocol_are_classified(pieces: list[bytes]) -> None:
    """Lines that are nearly right are read without an error; only EXISTS looks like EXISTS."""
    line = b"".join(pieces)
    if read_line(line).kind is Kind.EXISTS:
        assert line.startswith(b"* ")
        assert b"EXISTS" in line


@given(
    number=st.integers(0, 2**32 - 1),
    zeros=st.integers(0, 20),
    blanks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    upper=st.lists(st.booleans(), min_size=6, max_size=6),
    rest=st.binary().map(lambda data: b" " + data) | st.just(b""),
)
@settings(deadline=None)
def test_an_announcement_is_never_missed(
    number: int, zeros: int, blanks: tuple[int, int], upper: list[bool], rest: bytes
) -> None:
    """EXISTS is read in any case, with any zeros, blanks and whatever follows it."""
    word = "".join(c if up else c.lower() for c, up in zip("EXISTS", upper, strict=True)).encode()
    digits = b"0" * zeros + str(number).encode()
    line = b"*" + b" " * blanks[0] + digits + b" " * blanks[1] + word + rest
    assert read_line(line) == Line(Kind.EXISTS, number)
