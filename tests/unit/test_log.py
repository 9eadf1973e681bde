"""The log: its format, and that nothing from outside can break out of its line."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rebreak_idle.log import (
    MAX_QUEUED_LINES,
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

ROOT = Path(__file__).parents[2]
PROGRAM_SECONDS = 30.0
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160))]
BIDI = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
BREAKS = list("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what `set_up` does to the process."""
    root = logging.getLogger()
    before = (log.handlers[:], log.level, root.handlers[:], logging.raiseExceptions)
    yield
    log.handlers[:], level, root.handlers[:], logging.raiseExceptions = before
    log.setLevel(level)


def set_up(level: str, stream: io.StringIO, secrets: tuple[str, ...] = ()) -> None:
    """Write the log to a text, as the program formats it."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(secrets))
    log.handlers[:] = [handler]
    log.setLevel(level.upper())


@pytest.fixture
def output() -> io.StringIO:
    """The log's output."""
    stream = io.StringIO()
    set_up("debug", stream)
    return stream


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
    Logger("x").error("alone", exc_info=True)
    assert output.getvalue() == "[idle/x] alone\n"


# The process


LOG_AN_ARROW = r"""
from rebreak_idle.log import Log, Logger
Log("info", 1)
Logger("d\u00fcnn@example.org").info("scan-triggered \u2192 scanned=%s \ud800", 1)
"""


@pytest.mark.parametrize(
    "locale",
    [
        {"LANG": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
    ],
    ids=lambda locale: " ".join(f"{name}={value}" for name, value in locale.items()),
)
def test_utf8_whatever_the_locale(locale: dict[str, str]) -> None:
    """Lines come out as UTF-8 even where the locale knows ASCII only."""
    shell = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LOG_AN_ARROW],
        env={**shell, **locale},
        capture_output=True,
        timeout=PROGRAM_SECONDS,
        check=True,
    )
    assert done.stdout == "[idle/dünn@example.org] scan-triggered → scanned=1 \\ud800\n".encode()
    assert done.stderr == b""


def started(program: str) -> subprocess.Popen[bytes]:
    """A Python program that logs; its pipes have no buffers here that `communicate` would miss."""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


LOG_AND_WAIT = """
import sys
from rebreak_idle.log import Log, Logger
Log("info", 1)
Logger("x").info("here")
sys.stdin.read()
"""


def test_each_line_is_written_at_once() -> None:
    """A line can be read from a pipe while the program goes on."""
    with started(LOG_AND_WAIT) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"[idle/x] here\n"
            assert process.poll() is None
        finally:
            process.communicate(timeout=PROGRAM_SECONDS)


LOG_MORE_THAN_FITS = """
import sys
from rebreak_idle.log import MAX_QUEUED_LINES, Log, Logger
output = Log("info", 1)
logger = Logger("x")
for number in range(3 * MAX_QUEUED_LINES):
    logger.info("%d", number)
print("logged", file=sys.stderr, flush=True)
if again := sys.stdin.readline().strip():
    logger.info(again)
output.drain(20.0)
"""


@pytest.mark.parametrize("again", [["[idle/x] again"], []], ids=["log again", "log no more"])
def test_what_does_not_fit_is_left_out_and_counted(again: list[str]) -> None:
    """While the reader stalls the program goes on; later the log says how many lines it lost,
    whether or not anything more is logged.
    """
    with started(LOG_MORE_THAN_FITS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == b"logged\n"
            first = [process.stdout.readline() for _ in range(MAX_QUEUED_LINES // 2)]
        finally:
            words = b"again\n" if again else b"\n"
            rest, _ = process.communicate(words, timeout=PROGRAM_SECONDS)
    lines = [line.decode().rstrip() for line in (*first, *rest.splitlines())]
    notices = [line for line in lines if "left out" in line]
    left_out = [int(line.split()[1]) for line in notices]
    shown = [int(line.split()[1]) for line in lines if line not in (*notices, *again)]
    assert shown == sorted(shown)
    assert len(shown) + sum(left_out) == 3 * MAX_QUEUED_LINES
    assert notices[-1] == f"[idle/db] {left_out[-1]} lines of the log were left out"
    assert lines[-1 - len(again) :] == [notices[-1], *again]


def read_all(reading: int, into: bytearray) -> None:
    """Read a pipe to its end."""
    while data := os.read(reading, 65536):
        into.extend(data)


def test_close_writes_all_that_is_queued() -> None:
    """The log ends in order though its queue was full: what fitted is written, the rest is told."""
    before = threading.enumerate()
    reading, writing = os.pipe()
    output = Log("info", writing)
    for number in range(3 * MAX_QUEUED_LINES):
        Logger("x").info("%d", number)
    output.drain(0.01)  # waits no longer, though nobody reads
    written = bytearray()
    reader = threading.Thread(target=read_all, args=(reading, written))
    reader.start()
    output.close()
    os.close(writing)
    reader.join(PROGRAM_SECONDS)
    os.close(reading)
    lines = written.decode().splitlines()
    notices = [line for line in lines if "left out" in line]
    shown = [line for line in lines if line not in notices]
    left_out = sum(int(line.split()[1]) for line in notices)
    assert len(shown) + left_out == 3 * MAX_QUEUED_LINES
    assert lines[-1] == notices[-1]
    assert threading.enumerate() == before


LOG_FROM_MANY_THREADS = """
import threading
from rebreak_idle.log import MAX_QUEUED_LINES, Log, Logger
output = Log("info", 1)
all_run = threading.Barrier(1000)

def run(name):
    logger = Logger(name)
    all_run.wait()
    for number in range(MAX_QUEUED_LINES // 1000):
        logger.info("%d", number)

threading.stack_size(256 * 1024)
threads = [threading.Thread(target=run, args=(str(name),)) for name in range(1000)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
output.drain(20.0)
"""


def test_a_burst_from_many_threads_loses_nothing() -> None:
    """What a thousand threads log at once is written whole, each thread's lines in order."""
    with started(LOG_FROM_MANY_THREADS) as process:
        output, errors = process.communicate(timeout=PROGRAM_SECONDS)
    lines = output.decode().splitlines()
    each = MAX_QUEUED_LINES // 1000
    expected = [f"[idle/{name}] {number}" for name in range(1000) for number in range(each)]
    assert sorted(lines, key=lambda line: int(line[6 : line.index("]")])) == expected
    assert (process.returncode, errors) == (0, b"")


LOG_WHAT_CANNOT_BE_SHOWN = """
from rebreak_idle.log import Log, Logger

class Strange:
    def __str__(self):
        raise RuntimeError("no text")

output = Log("info", 1, ["canary-secret"])
for thing in ("before", Strange(), "after"):
    Logger("x").info("it is %s", thing)
Logger("x").info(Strange())
Logger("x").info("canary-secret %d", "no number")
output.drain(20.0)
"""


def test_a_line_that_cannot_be_shown_costs_no_other() -> None:
    """Its text stands there without what belongs into it; all others are whole."""
    with started(LOG_WHAT_CANNOT_BE_SHOWN) as process:
        output, errors = process.communicate(timeout=PROGRAM_SECONDS)
    assert output.decode().splitlines() == [
        "[idle/x] it is before",
        "[idle/db] a line of the log cannot be shown: it is %s",
        "[idle/x] it is after",
        "[idle/db] a line of the log cannot be shown: Strange",
        "[idle/db] a line of the log cannot be shown: *** %d",
    ]
    assert (process.returncode, errors) == (0, b"")


LOG_INTO_NOTHING = """
import os, sys
from rebreak_idle.log import Log, Logger
Log("info", 1)
sys.stdin.readline()
for _ in range(3):
    Logger("x").info("nobody reads this")
print("went on", file=sys.stderr, flush=True)
os._exit(0)
"""


def test_a_reader_that_went_away_does_no_harm() -> None:
    """When nobody reads the log any more the program goes on, without a word about it."""
    with started(LOG_INTO_NOTHING) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate(b"\n", timeout=PROGRAM_SECONDS)
    assert (process.returncode, errors) == (0, b"went on\n")


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


LOG_TO_A_PIPE_THAT_DOES_NOT_BLOCK = """
import os
from rebreak_idle.log import Log, Logger
os.set_blocking(1, False)
output = Log("info", 1)
for number in range(3001):
    Logger("x").info("%s", str(number) + " " + "y" * 200)
output.drain(20.0)
assert not os.get_blocking(1)
"""


def test_a_pipe_that_does_not_block_loses_nothing() -> None:
    """Where others made stdout non-blocking, what does not fit at once is written later."""
    with started(LOG_TO_A_PIPE_THAT_DOES_NOT_BLOCK) as process:
        output, errors = process.communicate(timeout=PROGRAM_SECONDS)
    numbers = [int(line.split()[1]) for line in output.decode().splitlines()]
    assert numbers == list(range(3001))
    assert (process.returncode, errors) == (0, b"")


LOG_AND_LET_GO = """
import os, weakref
from rebreak_idle.log import Log, Logger

class Thing:
    pass

output = Log("info", 1)
output.stop()  # as if its reader stalled
thing = Thing()
gone = weakref.ref(thing)
try:
    raise ValueError(thing)
except ValueError:
    Logger("x").exception("it was %s", thing)
del thing
assert gone() is None
os._exit(7)
"""


def test_the_queue_keeps_no_objects_alive() -> None:
    """What was logged, frames of tracebacks among it, can go although nobody reads the log."""
    with started(LOG_AND_LET_GO) as process:
        _, errors = process.communicate(timeout=PROGRAM_SECONDS)
    assert (process.returncode, errors) == (7, b"")


WITHOUT_DESCRIPTORS = """
import os, socket, sys
from rebreak_idle.log import Log, Logger, open_standard_descriptors
output = Log("info", open_standard_descriptors())
Logger("x").info("here")
output.drain(20.0)
os.fstat(0), os.fstat(1), os.fstat(2)
assert socket.socket().fileno() > 2
sys.stdout.flush(), sys.stderr.flush()
os._exit(7)
"""


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ("", "[idle/x] here\n", ""),
        ("<&-", "[idle/x] here\n", ""),
        ("2>&-", "[idle/x] here\n", ""),
        (">&-", "", "[idle/db] stdout is closed: the log goes to stderr\n[idle/x] here\n"),
        (">&- 2>&-", "", ""),
        ("<&- >&- 2>&-", "", ""),
    ],
)
def test_closed_standard_descriptors(closed: str, out: str, err: str) -> None:
    """The program starts all the same; without stdout the log goes to stderr, and says so."""
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, WITHOUT_DESCRIPTORS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == (out, err)
    assert done.returncode == 7


def test_nobody_reads_where_the_log_goes() -> None:
    """With stdout closed and a stderr that nobody reads the program starts all the same."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" >&-', sys.executable, WITHOUT_DESCRIPTORS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=writing,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 7
