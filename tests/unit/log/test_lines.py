"""The lines of the log: their format, and that nothing from outside can break out of one."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rebreak_idle.log import (
    SHOWN_CHARACTERS,
    Formatter,
    Log,
    Logger,
    RepeatFilter,
    database_logger,
    escape,
    log,
    sanitize,
)
from tests.unit.log.conftest import set_up

CONTROLS = [chr(code) for code in (*range(32), *range(127, 160))]
BIDI = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
BREAKS = list("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")


# The format


def test_a_mailbox_line(output: io.StringIO) -> None:
    """A mailbox's line carries its name as the prefix and nothing else before the text."""
    Logger("anna@example.org").info("connected (%s:%d)", "imap.example.org", 993)
    assert output.getvalue() == "[idle/anna@example.org] connected (imap.example.org:993)\n"


def test_a_database_line(output: io.StringIO) -> None:
    """The database's lines have the prefix of the database."""
    database_logger.info("refreshed — %d active connections, %d sessions", 47, 47)
    assert output.getvalue() == "[idle/db] refreshed — 47 active connections, 47 sessions\n"


def test_a_line_without_a_journal(output: io.StringIO) -> None:
    """A line that names no mailbox has a prefix all the same."""
    log.warning("something")
    assert output.getvalue() == "[idle/db] something\n"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")],
)
def test_levels(level: str, shown: str) -> None:
    """LOG_LEVEL is the least that is shown."""
    stream = io.StringIO()
    set_up(level, stream)
    logger = Logger("x")
    for write, text in zip(
        (logger.debug, logger.info, logger.warning, logger.error), "diwe", strict=True
    ):
        write(text)
    assert stream.getvalue() == "".join(f"[idle/x] {text}\n" for text in shown)


def test_other_libraries_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    """What other libraries log, passwords perhaps among it, appears nowhere."""
    reading, writing = os.pipe()
    output = Log("debug", writing)
    for name in ("imapclient", "imapclient.imaplib", "urllib3", "psycopg", "dotenv.main"):
        logging.getLogger(name).error("LOGIN anna hunter2")
    output.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        written = pipe.read()
    captured = capfd.readouterr()
    assert "hunter2" not in captured.out + captured.err
    assert written == b""


# Secrets


def test_a_secret_is_never_shown_in_part() -> None:
    """A text from outside loses its secrets before it is shortened."""
    secret, stream = "canary-" + "s" * 200, io.StringIO()
    set_up("info", stream, (secret,))
    Logger("x").info("it said %s", sanitize("y" * 200 + secret))
    assert stream.getvalue() == f"[idle/x] it said {'y' * 200}***\n"


def test_short_secrets_go_from_texts_from_outside_only() -> None:
    """A secret that could be part of any word is left in words of ours."""
    stream = io.StringIO()
    set_up("info", stream, ("can", "long-enough"))
    Logger("x").info("scan %s long-enough", sanitize("a can"))
    assert stream.getvalue() == "[idle/x] scan a *** ***\n"


def test_a_text_from_outside_alone_is_shown_without_its_secret() -> None:
    """It loses its secrets where it is the whole message as well, or one of several by name."""
    secret, stream = "canary-" + "s" * 200, io.StringIO()
    set_up("info", stream, (secret,))
    text = sanitize("y" * 200 + secret)
    Logger("x").info(text)
    Logger("x").info("%(text)s", {"text": text})
    assert stream.getvalue() == f"[idle/x] {'y' * 200}***\n" * 2


@pytest.mark.parametrize("shown", [str, repr, ascii, lambda text: quote(text, safe="")])
def test_a_secret_is_known_in_every_spelling(shown: Callable[[str], str]) -> None:
    """As `repr` and `ascii` write a secret, and as it stands in a URL, it is a secret still."""
    secret, stream = "canäry's\\pass\tword", io.StringIO()
    set_up("info", stream, (secret,))
    Logger("x").info("bad %s, %s", shown(secret), sanitize(shown(secret)))
    assert re.fullmatch(r"\[idle/x\] bad (['\"]?)\*\*\*\1, \1\*\*\*\1\n", stream.getvalue())


def test_a_name_shows_no_secret() -> None:
    """The prefix is part of the line: a name that is a secret is not shown in it."""
    stream = io.StringIO()
    set_up("info", stream, ("canary-secret",))
    Logger("canary-secret").info("here")
    assert stream.getvalue() == "[idle/***] here\n"


def test_a_secret_of_several_lines_is_not_shown_in_a_traceback() -> None:
    """A secret with a line break in it is found before the traceback is taken apart."""
    stream = io.StringIO()
    set_up("info", stream, ("canary\nsecret",))
    try:
        raise ValueError("bad canary\nsecret")
    except ValueError:
        Logger("x").exception("unexpected error:")
    assert stream.getvalue().endswith("[idle/x] ValueError: bad ***\n")


def test_a_traceback_shows_no_secret() -> None:
    """What an error says of a secret is taken out of its traceback."""
    stream = io.StringIO()
    set_up("info", stream, ("canary-secret",))
    try:
        raise ValueError("bad canary-secret")
    except ValueError:
        Logger("x").exception("unexpected error:")
    assert "ValueError: bad ***" in stream.getvalue()
    assert "canary" not in stream.getvalue()


# Nothing breaks out


@pytest.mark.parametrize("character", [*CONTROLS, *BIDI, *BREAKS, "\u200b", "\ufeff"])
def test_dangerous_characters_are_escaped(output: io.StringIO, character: str) -> None:
    """Control, direction and line-breaking characters appear as escapes, in text and name."""
    Logger(f"a{character}b").info("said %s", f"c{character}d")
    text = output.getvalue()
    assert character not in text[:-1]
    assert text.count("\n") == 1
    assert text.startswith("[idle/a\\")
    assert "] said c\\" in text
    assert text.endswith("d\n")


def test_half_a_surrogate_pair_is_escaped() -> None:
    """Formatted without being logged: what pytest captures of it, pytest-xdist cannot send."""
    record = logging.LogRecord(log.name, logging.INFO, "", 0, "said %s", ("c\ud800d",), None)
    assert Formatter(()).format(record).endswith("said c\\ud800d")


def test_a_forged_line_stays_in_its_line(output: io.StringIO) -> None:
    """A server's text with a line break and a prefix of its own stays one line."""
    forged = "bye\r\n[idle/db] refreshed — 0 active connections, 0 sessions"
    Logger("anna@example.org").info("the server said %s", forged)
    assert output.getvalue() == (
        "[idle/anna@example.org] the server said bye\\r\\n"
        "[idle/db] refreshed — 0 active connections, 0 sessions\n"
    )


def test_terminal_sequences_are_escaped(output: io.StringIO) -> None:
    """Colours, titles and cursor movements reach no terminal."""
    Logger("x").info("\x1b[2J\x1b]0;title\x07 \x9b31m")
    assert output.getvalue() == "[idle/x] \\x1b[2J\\x1b]0;title\\x07 \\x9b31m\n"


def test_a_name_cannot_end_the_prefix(output: io.StringIO) -> None:
    """A closing bracket in an address does not end the prefix early."""
    Logger("a] connected (evil:1)").info("real")
    assert output.getvalue() == "[idle/a\\x5d connected (evil:1)] real\n"


def test_ordinary_text_is_left_alone() -> None:
    """Letters of all scripts, emoji, quotes and backslashes are shown as they are."""
    text = "Grüße → «Ελλάδα» 日本語 🎰 \"quoted\" 'it' back\\slash — 100 %"
    assert escape(text) == text
    assert sanitize(text) == text


def test_arguments_are_not_formats(output: io.StringIO) -> None:
    """A text from outside with percent signs is no format."""
    Logger("100%s").info("%s", "50%d off %(name)s")
    assert output.getvalue() == "[idle/100%s] 50%d off %(name)s\n"


def test_arguments_by_name(output: io.StringIO) -> None:
    """A dict alone gives its values by name, or is shown itself."""
    Logger("x").info("%(here)s", {"here": "there"})
    Logger("x").info("%s", {"here": "there"})
    assert output.getvalue() == "[idle/x] there\n[idle/x] {'here': 'there'}\n"


def test_a_message_that_is_no_text(output: io.StringIO) -> None:
    """Whatever is logged is shown as its text."""
    Logger("x").error(ValueError("one\ntwo"))
    assert output.getvalue() == "[idle/x] one\\ntwo\n"


@pytest.mark.parametrize("length", [0, 1, SHOWN_CHARACTERS - 1, SHOWN_CHARACTERS])
def test_texts_up_to_the_bound_are_shown_whole(length: int) -> None:
    """Up to 300 characters nothing is cut."""
    assert sanitize("x" * length) == "x" * length


@pytest.mark.parametrize("length", [SHOWN_CHARACTERS + 1, 1_000_000])
def test_longer_texts_are_cut(length: int) -> None:
    """Of a longer text 300 characters are shown, and that there was more."""
    assert SHOWN_CHARACTERS == 300
    assert sanitize("x" * length) == "x" * 300 + "…"


def test_a_long_name_is_cut(output: io.StringIO) -> None:
    """A name without end does not make lines without end."""
    Logger("x" * 10_000).info("hello")
    assert output.getvalue() == f"[idle/{'x' * 300}…] hello\n"


@given(name=st.text(), text=st.text())
@example(name="\n", text="\u2028")
@settings(deadline=None)
def test_one_event_is_one_printable_line(name: str, text: str) -> None:
    """Whatever a name and a text contain, the event is one printable line with its prefix."""
    stream = io.StringIO()
    set_up("info", stream)
    Logger(name).info("%s", text)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.startswith("[idle/")
    prefix, bracket, _ = line.partition("] ")
    assert bracket
    assert "]" not in prefix


# Tracebacks


def test_a_traceback_has_the_prefix_on_every_line(output: io.StringIO) -> None:
    """A bug's traceback follows its line, each of its lines with the same prefix."""
    try:
        raise ValueError("one\n[idle/db] two\u2028three \x1b[31m")
    except ValueError:
        Logger("anna@example.org").exception("unexpected error:")
    lines = output.getvalue().split("\n")
    assert lines.pop() == ""
    assert lines[0] == "[idle/anna@example.org] unexpected error:"
    assert lines[1] == "[idle/anna@example.org] Traceback (most recent call last):"
    assert all(line.startswith("[idle/anna@example.org] ") for line in lines)
    assert all(line.isprintable() for line in lines)
    assert "ValueError: one" in output.getvalue()


def test_exception_outside_of_an_except_block(output: io.StringIO) -> None:
    """Where there is no exception there is no traceback, and the line appears."""
    Logger("x").exception("alone")
    assert output.getvalue() == "[idle/x] alone\n"


def test_repeated_trouble_is_said_when_it_changes_or_once_an_hour() -> None:
    """The same again is no news, another text is, and so is the same after an hour or a success."""
    now = 0.0
    repeats = RepeatFilter(lambda: now)
    assert repeats.should_log("down")
    assert not repeats.should_log("down")
    assert repeats.should_log("refused")
    assert repeats.last == "refused"
    now = 3599.0
    assert not repeats.should_log("refused")
    now = 3600.0
    assert repeats.should_log("refused")
    repeats.forget()
    assert repeats.last == ""
    assert repeats.should_log("refused")
