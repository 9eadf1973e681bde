"""scripts/prepare: what it says where there is no Python that will do."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.script_run import SCRIPTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH without Pythons."""
    folder = tmp_path / "path"
    folder.mkdir()
    for name in ("bash", "basename", "cat", "cksum", "dirname", "grep", "mkdir", "rm"):
        (folder / name).symlink_to(shutil.which(name) or name)
    return folder


def prepare(path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Have it make an environment that is not there yet."""
    return subprocess.run(
        [SCRIPTS / "prepare", path / "venv", "scripts/requirements.txt"],
        env={"PATH": str(path), **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def add_python(place: Path, script: str) -> None:
    """Have a Python that is this script."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    place.chmod(0o755)


def test_no_python(path: Path) -> None:
    """One sentence says what to install; PYTHON names another."""
    tried = prepare(path)
    assert (tried.returncode, tried.stdout) == (1, "")
    assert tried.stderr.splitlines() == [
        "There is no python3 here: install Python 3.11 or newer, or name one with PYTHON=…"
    ]
    assert prepare(path, PYTHON="python9").stderr.startswith("There is no python9 here")


def test_an_old_python(path: Path) -> None:
    """Its version is told."""
    add_python(path / "python3", '[ "$1" = --version ] && echo "Python 3.9.2" || exit 1')
    tried = prepare(path)
    assert tried.returncode == 1
    assert tried.stderr.startswith("Python 3.9.2 is too old: install Python 3.11 or newer")


def test_a_python_without_venv(path: Path) -> None:
    """Debian's is in several packages: the one that is missing is named."""
    add_python(path / "python3", '[[ "$2" != *ensurepip* ]]')
    tried = prepare(path)
    assert tried.returncode == 1
    assert "python3 cannot make virtual environments" in tried.stderr
    assert "python3-venv" in tried.stderr
    assert not (path / "venv").exists()


def test_half_an_environment_is_not_left(path: Path) -> None:
    """What could not be made to its end would be taken for a whole one by the next start."""
    add_python(path / "python3", '[ "$1" != -m ] || { mkdir -p "$3/bin" && exit 1; }')
    assert prepare(path).returncode == 1
    assert not (path / "venv").exists()


def test_packages_that_cannot_be_installed(path: Path) -> None:
    """pip's own words come first, then a sentence."""
    add_python(path / "venv" / "bin" / "python", "echo no network >&2; exit 1")
    tried = prepare(path)
    assert tried.returncode == 1
    assert tried.stderr.splitlines()[-2:] == [
        "no network",
        "pip could not install what is needed; it says why above.",
    ]


def test_ctrl_c_is_told(path: Path) -> None:
    """Whoever stops the installation learns that nothing is lost."""
    add_python(path / "venv" / "bin" / "python", "echo begun >&2; read")
    process = subprocess.Popen(
        [SCRIPTS / "prepare", path / "venv", "scripts/requirements.txt"],
        env={"PATH": str(path)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    with process, process.stderr as said:  # type: ignore[union-attr]  # it has a pipe
        next(line for line in said if line == "begun\n")
        os.killpg(process.pid, signal.SIGINT)
        assert said.read() == "[setup] stopped; the next start goes on from here\n"
    assert process.returncode == 130
