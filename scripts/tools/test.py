"""Format, lint, types and tests, one after the other, and a summary that a person reads.

`--only-tests` leaves out all but the tests; what follows goes to pytest, and where nothing follows
all tests run in parallel. The first step that fails
is the last that runs, and its exit status is this program's.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from scripts.tools.console import BOLD, GREEN, RED, painted

ONLY_TESTS = "--only-tests"
CHECKS = {
    "ruff check": ("ruff", "check", "."),
    "ruff format": ("ruff", "format", "--check", "."),
    "mypy": ("mypy", "rebreak_idle", "scripts"),
}
TESTS = "pytest"
# All tests together take twenty minutes one by one, and most of them wait.
IN_PARALLEL = ("-n", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal")
COUNTED = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "deselected", "warnings")


@dataclass
class Step:
    """One step, and what came of it."""

    name: str
    run: Callable[[], int]
    status: int | None = None
    """The exit status; None as long as it has not run."""
    seconds: float = 0.0

    def perform(self) -> None:
        """Run it, under a heading."""
        print(painted(f"\n== {self.name}", BOLD), flush=True)
        began = time.monotonic()
        try:
            self.status = self.run()
        except KeyboardInterrupt:
            self.status = 130  # as a shell says it of SIGINT
        self.seconds = time.monotonic() - began

    def __str__(self) -> str:
        if self.status is None:
            return "not run"
        how = painted("FAILED", BOLD, RED) if self.status else painted("passed", GREEN)
        return f"{how} in {duration(self.seconds)}"


@dataclass
class Suite:
    """Runs pytest, and is its plugin that keeps what the summary tells."""

    arguments: Sequence[str]
    counts: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    """How many tests were skipped for each reason."""
    failed: list[str] = field(default_factory=list)

    def run(self) -> int:
        return int(pytest.main(list(self.arguments), plugins=[self]))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Called by pytest at its end."""
        stats = terminalreporter.stats
        self.counts.update({name: len(stats.get(name, ())) for name in COUNTED})
        self.skipped.update(_reason(report) for report in stats.get("skipped", ()))
        self.failed += [each.nodeid for name in ("failed", "error") for each in stats.get(name, ())]

    def lines(self) -> list[str]:
        """What the summary tells of it."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count)
        skipped = [f"skipped {count}: {why}" for why, count in self.skipped.most_common()]
        return [
            *([counts] if counts else []),
            *skipped,
            *(f"failed: {name}" for name in self.failed),
        ]


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def duration(seconds: float) -> str:
    """For people to read."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def check(command: Sequence[str]) -> int:
    """Run a module of a tool; its exit status."""
    return subprocess.run([sys.executable, "-m", *command], check=False).returncode


def summary(steps: Sequence[Step], tests: Suite) -> str:
    """What ran, on which Python, and what was skipped and why."""
    where = f"Python {platform.python_version()} in {os.path.relpath(sys.prefix)}"
    width = max(len(step.name) for step in steps)
    lines = [f"{step.name:{width}}  {step}" for step in steps]
    lines += [" " * (width + 2) + line for line in tests.lines()]
    return "\n".join([painted(f"\n== Summary: {where}", BOLD), *lines])


def main() -> int:
    """Run the steps until one fails. Its exit status, or 0."""
    only_tests = sys.argv[1:2] == [ONLY_TESTS]
    tests = Suite(sys.argv[1 + only_tests :] or IN_PARALLEL)
    checks = {} if only_tests else CHECKS
    steps = [Step(name, partial(check, command)) for name, command in checks.items()]
    steps.append(Step(TESTS, tests.run))
    for step in steps:
        step.perform()
        if step.status:
            break
    print(summary(steps, tests), flush=True)
    return next((step.status for step in steps if step.status), 0)


if __name__ == "__main__":
    sys.exit(main())
