"""scripts/unpack_server: what it prints, and what it says where there is nothing to be had."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.script_run import SCRIPTS


def unpack(server: str, cache: Path, path: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [shutil.which("bash") or "bash", SCRIPTS / "unpack_server", server],
        env={"PATH": str(path), "XDG_CACHE_HOME": str(cache), "HOME": "/nonexistent"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH without apt-get."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "id").symlink_to(shutil.which("id") or "id")
    return folder


def test_one_that_is_unpacked_is_taken(tmp_path: Path, path: Path) -> None:
    """Nothing is fetched twice."""
    folder = tmp_path / "cache" / "rebreak-idle" / "courier"
    folder.mkdir(parents=True)
    found = unpack("courier", tmp_path / "cache", path)
    assert (found.returncode, found.stdout) == (0, f"{folder}\n"), found.stderr


def test_where_there_is_none(tmp_path: Path, path: Path) -> None:
    """One line says why, and the exit status that it is nobody's fault."""
    found = unpack("cyrus", tmp_path / "cache", path)
    why = "it runs by chroot, which takes root" if os.geteuid() else "there is no apt-get"
    assert (found.returncode, found.stdout) == (77, "")
    assert found.stderr.splitlines() == [f"cyrus cannot be had here: {why}"]


def test_one_that_nobody_knows(tmp_path: Path, path: Path) -> None:
    """A name that is not in its list is a mistake of the caller's."""
    assert unpack("exchange", tmp_path / "cache", path).returncode == 2
