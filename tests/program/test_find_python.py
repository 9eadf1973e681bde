"""scripts/find_python: where it looks, and what it says where there is none."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.script_run import SCRIPTS

WANTED = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "3.99"


class Machine:
    """A home and a PATH without Pythons and without apt-get."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.path = folder / "path"
        self.path.mkdir()
        for name in ("bash", "sort", "realpath"):
            (self.path / name).symlink_to(shutil.which(name) or name)

    def put(self, place: Path, python: str = sys.executable) -> Path:
        """Have a Python at this place, as a script that runs the real one."""
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'#!{shutil.which("bash")}\necho >>"$0.ran"\nexec {python} "$@"\n')
        place.chmod(0o755)
        return place

    def find(self, wanted: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / "find_python", wanted],
            env={"PATH": str(self.path), "HOME": str(self.home), **environment},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("root", ["home/.pyenv", "elsewhere"])
def test_path_comes_first_then_pyenvs_newest(machine: Machine, tmp_path: Path, root: str) -> None:
    """What it prints is the interpreter itself, not the script in PATH that starts it."""
    versions = tmp_path / root / "versions"
    newest = machine.put(versions / f"{WANTED}.10" / "bin" / f"python{WANTED}")
    older = machine.put(versions / f"{WANTED}.9" / "bin" / f"python{WANTED}")
    environment = {} if "home" in root else {"PYENV_ROOT": str(tmp_path / root)}
    found = machine.find(WANTED, **environment)
    assert (found.returncode, found.stdout) == (0, f"{sys.executable}\n"), found.stderr
    assert ran(newest)
    assert not ran(older)
    first = machine.put(machine.path / f"python{WANTED}")
    assert machine.find(WANTED, **environment).returncode == 0
    assert ran(first)


def test_one_of_another_version_is_passed_over(machine: Machine) -> None:
    """A name in PATH proves nothing, as with pyenv's shims; the one line says what was tried."""
    impostor = machine.put(machine.path / f"python{OTHER}")
    found = machine.find(OTHER)
    assert ran(impostor)
    assert (found.returncode, found.stdout) == (77, "")
    assert found.stderr.splitlines() == [
        f"Python {OTHER} cannot be had here: neither in PATH nor in pyenv, and there is no apt-get"
    ]


def test_a_path_is_taken_as_it_is(machine: Machine, tmp_path: Path) -> None:
    """It must run, whatever its version is."""
    python = machine.put(tmp_path / "some python")
    found = machine.find(str(python))
    assert (found.returncode, found.stdout) == (0, f"{python}\n"), found.stderr
    lost = machine.find(str(tmp_path / "nothing"))
    assert (lost.returncode, lost.stdout, len(lost.stderr.splitlines())) == (77, "", 1)


def ran(python: Path) -> bool:
    return python.with_name(f"{python.name}.ran").exists()
