"""What the stand-in takes for gambling mail."""

from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.tools.stand_in_backend.judge import Judge, read_blocklist
from scripts.tools.stand_in_backend.log import one_line
from tests.support.script_run import SCRIPTS

JUDGE = Judge(read_blocklist(SCRIPTS / "blocklist.txt"))


def base64_word(text: str, charset: str = "utf-8") -> str:
    """An encoded word, RFC 2047."""
    return f"=?{charset}?b?{b64encode(text.encode(charset)).decode()}?="


@pytest.mark.parametrize(
    ("sender", "subject"),
    [
        ("x@casino.example", "Hello"),
        ("X <x@news.CASINO.example>", "Hello"),
        ('"x@health.example" <x@bets.example>', "Hello"),
        ("x@casino.example.", "Hello"),
        ("x@example.org", "The JACKPOT is yours"),
        ("x@example.org", "Das OnlineCasino wartet"),
        ("x@example.org", "Gratis: 50 Freispiele"),
        ("x@example.org", "Place your bets"),
        ("x@example.org", "Free\r\n spins"),
        ("x@example.org", base64_word("Glücksspiel ohne Grenzen")),
        ("x@example.org", base64_word("Glücksspiel", "iso-8859-1")),
        ("x@example.org", f"{base64_word('jack')}\r\n {base64_word('pot')}"),
        ("x@example.org", "=?utf-8?q?Glu=CC=88cksspiel?="),
        ("x@example.org", "Glücksspiel"),
        ("x@example.org", "Ｃａｓｉｎｏ"),
        ("x@example.org", "ca\u200bsi\u00adno"),
        ("Royal Casino <x@example.org>", "Hello"),
        (f"{base64_word('Königliches Kasino')} <x@example.org>", "Hello"),
    ],
)
def test_gambling_mail_is_known_by_domain_or_keyword(sender: str, subject: str) -> None:
    """The sender's domain or its parent, or a keyword in subject or name, however encoded."""
    assert JUDGE.reason_to_delete(f"From: {sender}\r\nSubject: {subject}\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("sender", "subject"),
    [
        ("x@example.org", "Your appointment slot on Tuesday"),
        ("x@example.org", "The alphabet of better bread"),
        ("x@example.org", "Das Wetter wird besser"),
        ("x@notcasino.example", "Hello"),
        ("x@casino.example.org", "Hello"),
        ("casino-support@recovery.example", "How are you?"),
        ("x@example.org", ""),
        ("", ""),
        ("x@example.org", base64_word("Sonntag?")),
    ],
)
def test_ordinary_mail_is_left_alone(sender: str, subject: str) -> None:
    """What only looks alike stays."""
    assert not JUDGE.reason_to_delete(f"From: {sender}\r\nSubject: {subject}\r\n\r\n".encode())


def test_raw_latin_1_headers_are_read() -> None:
    """Eight-bit headers without a declared charset are read as Latin-1 where they are not UTF-8."""
    assert JUDGE.reason_to_delete("Subject: Glücksspiel\r\n\r\n".encode("latin-1"))


HEADER_PIECES = st.sampled_from(
    [
        b"From: ",
        b"Subject: ",
        b"\r\n",
        b" ",
        b"=?utf-8?b?",
        b"=?x?q?",
        b"=?\x00?b?",
        b"?=",
        b"<",
        b"@",
    ]
)


@given(st.lists(HEADER_PIECES | st.binary(max_size=8)).map(b"".join))
def test_no_header_breaks_the_judge(headers: bytes) -> None:
    """Whatever a stranger sends, there is a verdict, and it fits in a log line."""
    reason = JUDGE.reason_to_delete(headers)
    assert one_line(reason) == reason


@given(st.text())
def test_text_from_outside_stays_in_its_line(text: str) -> None:
    """Nothing in a log text ends the line or steers the terminal."""
    assert one_line(text) == "" or one_line(text).isprintable()


def test_the_blocklist_has_comments_and_any_case(tmp_path: Path) -> None:
    """One domain a line; comments, blank lines, case and a final dot do not matter."""
    file = tmp_path / "list"
    file.write_text("# mine\n\nCasino.Example. # the worst\n  bets.example\n")
    assert read_blocklist(file) == {"casino.example", "bets.example"}
