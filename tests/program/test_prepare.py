"""scripts/prepare: what it says where there is no Python that will do."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.script_run import SCRIPTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH without Pythons."""
    folder = tmp_path / "path"
    folder.mkdir()
    for name in ("bash", "dirname", "cat", "rm"):
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


def add_python(path: Path, script: str) -> None:
    """Have a `python3` that is this script."""
    (path / "python3").write_text(f"#!{shutil.which('bash')}\n{script}\n")
    (path / "python3").chmod(0o755)


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
    add_python(path, '[ "$1" = --version ] && echo "Python 3.9.2" || exit 1')
    tried = prepare(path)
    assert tried.returncode == 1
    assert tried.stderr.startswith("Python 3.9.2 is too old: install Python 3.11 or newer")


def test_a_python_without_venv(path: Path) -> None:
    """Debian's is in several packages: the one that is missing is named."""
    add_python(path, '[[ "$2" != *ensurepip* ]]')
    tried = prepare(path)
    assert tried.returncode == 1
    assert "python3 cannot make virtual environments" in tried.stderr
    assert "python3-venv" in tried.stderr
    assert not (path / "venv").exists()


def test_half_an_environment_is_not_left(path: Path) -> None:
    """What could not be made to its end would be taken for a whole one by the next start."""
    add_python(path, '[ "$1" != -m ] || { mkdir -p "$3/bin" && exit 1; }')
    (path / "mkdir").symlink_to(shutil.which("mkdir") or "mkdir")
    assert prepare(path).returncode == 1
    assert not (path / "venv").exists()


def test_packages_that_cannot_be_installed(path: Path) -> None:
    """pip's own words come first, then a sentence."""
    python = path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{shutil.which('bash')}\necho no network >&2; exit 1\n")
    python.chmod(0o755)
    (path / "grep").symlink_to(shutil.which("grep") or "grep")
    for name in ("cksum", "basename"):
        (path / name).symlink_to(shutil.which(name) or name)
    tried = prepare(path)
    assert tried.returncode == 1
    assert tried.stderr.splitlines()[-2:] == [
        "no network",
        "pip could not install what is needed; it says why above.",
    ]
