"""The demo as a newcomer runs it: it shows what it promises, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.support.script_run import SCRIPTS, ScriptRun, left_behind
from tests.support.servers import server_folder

END_SECONDS = 60.0
TALLY = re.compile(r"delivered (\d+), scanned (\d+), deleted (\d+), slowest reaction (\d+\.\d\d) s")


class Demo(ScriptRun):
    """The demo."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, "demo.py", *arguments)

    def program(self, *arguments: str) -> psutil.Process:
        """The process whose command line ends with these arguments."""
        processes = left_behind(self.folder)
        (found,) = [p for p in processes if tuple(p.cmdline()[-len(arguments) :]) == arguments]
        return found


def check_nothing_left(folder: Path) -> None:
    assert left_behind(folder) == []
    assert list(folder.iterdir()) == []


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo puts all that is temporary; PostgreSQL, as another user, gets there too."""
    with server_folder() as path:
        yield path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Demo]]:
    """Starts the one demo of a test; `start(*arguments)`."""
    with ExitStack() as demos:

        def starting(*arguments: str) -> Demo:
            demo = Demo(folder, *arguments)
            demos.callback(demo.close)
            return demo

        yield starting


def test_one_round_shows_everything_and_leaves_nothing(start: Callable[..., Demo]) -> None:
    """Twelve messages are delivered and scanned, the six of gambling are gone; nothing stays."""
    demo = start("--once")
    assert demo.end() == 0, demo.text
    tally = TALLY.fullmatch(demo.lines[-1])
    assert tally, demo.lines[-1]
    assert tally.groups()[:3] == ("12", "12", "6")
    assert float(tally[4]) < 20
    check_nothing_left(demo.folder)


def test_the_daemons_own_lines_are_shown(start: Callable[..., Demo]) -> None:
    """The daemon's log passes through to the letter; every other line says it is the demo's."""
    demo = start("--once")
    assert demo.end() == 0
    text = demo.text
    for name in ("anna", "ben", "clara"):
        assert re.search(rf"(?m)^\[idle/{name}@example.org\] connected \(localhost:\d+\)$", text)
        assert f"\n[idle/{name}@example.org] exists-event received (new mail)\n" in text
        assert f"\n[idle/{name}@example.org] scan-triggered → scanned=1 blocked=1\n" in text
    assert "\n[idle/db] refreshed — 3 active connections, 3 sessions\n" in text
    assert all(line.startswith(("[demo] ", "[idle/")) for line in demo.lines[:-1])


def test_ctrl_c_ends_a_running_demo_in_order(start: Callable[..., Demo]) -> None:
    """It runs until Ctrl-C; then it ends the daemon orderly, prints the tally and exits with 0."""
    demo = start()
    demo.wait_line("gone after")
    demo.press_ctrl_c()
    assert demo.end() == 0, demo.text
    assert TALLY.fullmatch(demo.lines[-1])
    check_nothing_left(demo.folder)


@pytest.mark.parametrize(
    "moment",
    [
        "starting PostgreSQL",
        "starting an IMAP server",
        "starting the stand-in",
        "starting the daemon",
    ],
)
def test_ctrl_c_during_the_start_leaves_nothing(start: Callable[..., Demo], moment: str) -> None:
    """Whatever has been started by then is ended, and no traceback is shown."""
    demo = start()
    demo.wait_line(moment)
    demo.press_ctrl_c()
    assert demo.end() == 0, demo.text
    assert demo.lines[-1] == "stopped before any mail was delivered"
    assert not any("Traceback" in line for line in demo.lines)
    check_nothing_left(demo.folder)


def test_sigterm_in_the_middle_of_a_round_is_a_failed_round(start: Callable[..., Demo]) -> None:
    """A round that was cut short has not shown what it should: exit status 1, nothing left."""
    demo = start("--once")
    demo.wait_line("starting the stand-in")
    demo.process.terminate()
    assert demo.end() == 1
    assert "[demo] FAILED: stopped before the round was complete" in demo.lines
    check_nothing_left(demo.folder)


def test_a_daemon_that_dies_fails_the_demo(start: Callable[..., Demo]) -> None:
    """A killed daemon is told with its exit status, and ends the demo with 1."""
    demo = start()
    demo.wait_line("gone after")
    demo.program("-m", "rebreak_idle").kill()
    assert demo.end() == 1
    failed = [line for line in demo.lines if "FAILED" in line]
    assert len(failed) == 1
    assert "the daemon ended by itself with exit status -9" in failed[0]
    assert TALLY.fullmatch(demo.lines[-1])
    check_nothing_left(demo.folder)


def test_a_screen_that_goes_away_ends_the_demo(folder: Path) -> None:
    """Where nobody reads any more (a pipe to `head`) it stops, and cleans up all the same."""
    command = '"$0" "$1" | head -n 3; exit "${PIPESTATUS[0]}"'
    ended = subprocess.run(
        ["bash", "-c", command, sys.executable, SCRIPTS / "demo.py"],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        encoding="utf-8",
        timeout=END_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 3
    check_nothing_left(folder)
