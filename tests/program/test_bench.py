"""A small run of the benchmark: what it counts is right. Times are no matter of a test."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import programs_required
from tests.support.script_run import ScriptRun, left_behind
from tests.support.servers import postgres_binaries, server_folder

SMALL = (
    "--systems", "rebreak", "--idle-seconds", "0.5", "--mails", "50", "--bursts", "2",
    "--no-defaults",
)  # fmt: skip
MAILBOXES = 200
ROUNDS_BEFORE_THE_LAST_SCAN = (MAILBOXES - 1) // 16  # 16 scans are under way at once


class Run(ScriptRun):
    """The benchmark; its results come into the same folder."""

    end_seconds = 100.0

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, "bench", *arguments, "--out", str(folder))

    def figures(self) -> list[dict[str, Any]]:
        results = json.loads((self.folder / "bench.json").read_text())
        figures: list[dict[str, Any]] = results["figures"]
        return figures


@pytest.fixture
def folder() -> Iterator[Path]:
    with programs_required():
        postgres_binaries()
    with server_folder() as made:
        yield made


def test_a_small_run_counts_every_session_and_every_scan(folder: Path) -> None:
    """All mailboxes are watched, all that is announced is scanned, and all return after a storm."""
    run = Run(folder, "--sizes", str(MAILBOXES), *SMALL)
    assert run.end() == 0, run.text
    (figures,) = run.figures()
    assert figures["problem"] == ""
    assert figures["sessions"] == MAILBOXES
    assert figures["steady_mails"] == 50
    assert figures["burst_mails"] == 2 * MAILBOXES
    assert len(figures["burst_p99s_ms"]) == 2
    assert figures["slow_burst_mails"] == MAILBOXES
    assert figures["slow_burst_max_ms"] >= ROUNDS_BEFORE_THE_LAST_SCAN * 200
    assert figures["announced"] == 50 + 3 * MAILBOXES + 50
    assert figures["unscanned"] == 0
    assert figures["storm_broken"] == figures["storm_returned"] == MAILBOXES
    assert figures["storm_attempts"] >= MAILBOXES
    assert figures["exit_status"] == 0
    assert "| rebreak |" in (folder / "bench.md").read_text()
    assert left_behind(folder) == []


def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    """Ctrl-C at the terminal ends everything, and is no success."""
    run = Run(folder, "--sizes", "20", *SMALL)
    try:
        run.wait_line("rebreak: 20 mailboxes")
        run.press_ctrl_c()
        assert run.end() == 1
    finally:
        run.close()
    assert "stopped" in run.text
    assert left_behind(folder) == []
