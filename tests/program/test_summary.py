"""The end of scripts/test: what ran, on which Python, and what was skipped and why."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.tools.test import Step, Suite, duration, summary
from tests.support.script_run import ScriptRun

TESTS = """
import pytest

def test_good():
    pass

@pytest.mark.parametrize("turn", [1, 2])
def test_left_out(turn):
    pytest.skip("there is no moon")

def test_bad():
    assert {condition}
"""


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ScriptRun]:
    """scripts/test on a few tests; the parameter says whether the last one passes."""
    few = tmp_path / "test_few.py"
    few.write_text(TESTS.format(condition=request.param))
    options = ("-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(few))
    started = ScriptRun(tmp_path, "test", "--only-tests", *options)
    yield started
    started.close()


@pytest.mark.parametrize("run", [True], indirect=True)
def test_it_tells_what_passed_and_what_was_skipped_and_why(run: ScriptRun) -> None:
    """Each reason stands once, with how many tests it held back."""
    assert run.end() == 0, run.text
    end = run.text.partition("== Summary: ")[2].splitlines()
    assert end[0].startswith(f"Python {platform.python_version()} in ")
    assert end[1].startswith("pytest  passed in ")
    assert [line.strip() for line in end[2:]] == [
        "2 passed, 2 skipped",
        "skipped 2: there is no moon",
    ]


@pytest.mark.parametrize("run", [False], indirect=True)
def test_it_tells_what_failed(run: ScriptRun) -> None:
    """The test is named, and the exit status is pytest's."""
    assert run.end() == 1
    assert "pytest  FAILED in " in run.text
    assert run.lines[-1].strip() == "failed: test_few.py::test_bad"


def test_what_did_not_run_is_said() -> None:
    """After a step that failed there is no other."""
    tests = Suite([])
    steps = [
        Step("lint", lambda: 0, 0, 1.25),
        Step("types", lambda: 3, 3, 61),
        Step("x", tests.run),
    ]
    lines = summary(steps, tests).splitlines()[2:]
    assert lines == [
        "lint   passed in 1.2 s",
        "types  FAILED in 1 min 1 s",
        "x      not run",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.04, "0.0 s"), (59.4, "59.4 s"), (59.7, "1 min 0 s"), (1203, "20 min 3 s")],
)
def test_durations_are_for_people(seconds: float, told: str) -> None:
    """Seconds alone below a minute."""
    assert duration(seconds) == told
