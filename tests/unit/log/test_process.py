"""The log of a process: what is queued, and where it goes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rebreak_idle.log import MAX_QUEUED_LINES, Log, Logger

ROOT = Path(__file__).parents[3]
PROGRAM_SECONDS = 30.0


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
