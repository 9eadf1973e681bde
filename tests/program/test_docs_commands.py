"""The commands of the documents, run as a newcomer types them: in a copy of the repository."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.documents import REPOSITORY, fences_of
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import environment, stored
from tests.support.servers import Certificates, Database, Dovecot, find_program
from tests.support.settings import REQUIRED, variables
from tests.support.waiting import wait_for

COMMAND_SECONDS = 240
INSTALL, RUN, INFISICAL = (
    fence.text for fence in fences_of("README.md", "sh") if fence.heading == "Run it"
)
STOP_SECONDS = 15


def executable(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH: `python3` is the Python of these tests, `infisical` a stand-in that does
    what matters of it: it runs what stands behind `--` with the variables that it keeps.
    """
    folder = tmp_path_factory.mktemp("programs")
    executable(folder / "python3", f'#!/bin/sh\nexec "{sys._base_executable}" "$@"\n')  # type: ignore[attr-defined]
    executable(
        folder / "infisical",
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\n. "$KEPT"\nexec "$@"\n',
    )
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A fresh copy of the repository in which the README's first block was run.

    It downloads packages; where there is no index to be reached the tests are skipped.
    """
    folder = tmp_path_factory.mktemp("rebreak-idle")
    for name in ("rebreak_idle", "scripts"):
        shutil.copytree(REPOSITORY / name, folder / name)
    for name in ("setup.py", "setup.cfg", "README.md", ".env.example"):
        shutil.copy(REPOSITORY / name, folder)
    done = shell(INSTALL, folder, programs, dict(os.environ))
    if done.returncode and "No matching distribution" in done.stderr:
        if os.environ.get("CI") == "true":
            pytest.fail(done.stderr)
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return folder


def shell(
    commands: str, folder: Path, programs: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the lines one after the other, as typed into one shell, up to the first that fails."""
    return subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env={**variables, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


@pytest.fixture
def deployment(
    database: Database, dovecot: Dovecot, backend: RecordingBackend, certificates: Certificates
) -> dict[str, str]:
    """The variables of a deployment with one mailbox."""
    dovecot.add_user("docs@example.org", "secret")
    port = dovecot.imaps_port
    database.add("docs@example.org", imap_port=port, password_encrypted=stored("secret"))
    return environment(database.url, backend.url, certificates)


@pytest.fixture
def filled_in(checkout: Path, deployment: dict[str, str]) -> Iterator[dict[str, str]]:
    """`.env` of the copy, with its first three lines filled in; the other variables."""
    file = checkout / ".env"
    copy = file.read_text("utf-8")
    lines = copy.splitlines()
    for number, line in enumerate(lines):
        name = line.partition("=")[0]
        if name in REQUIRED:
            lines[number] = f"{name}='{deployment[name]}'"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    yield {name: value for name, value in deployment.items() if name not in REQUIRED}
    file.write_text(copy, encoding="utf-8")


def without_ours(more: dict[str, str]) -> dict[str, str]:
    """This process's environment without what the daemon reads, and with that."""
    ours = {*variables(), "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPATH"}
    return {**{k: v for k, v in os.environ.items() if k not in ours}, **more}


def run_and_stop(
    command: str, folder: Path, programs: Path, variables: dict[str, str], backend: RecordingBackend
) -> str:
    """Run the daemon until it has asked for a scan, then stop it; its log."""
    process = subprocess.Popen(
        ["bash", "-euc", f". .venv/bin/activate\nexec {command}"],
        cwd=folder,
        env={**variables, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: backend.scans, 30, "the first scan")
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=STOP_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, log
    return log


@pytest.mark.timeout(COMMAND_SECONDS + 60)
def test_the_readme_s_installation(checkout: Path) -> None:
    """The four lines leave a `.venv` with the daemon in it, and a `.env` to fill in."""
    python = checkout / ".venv" / "bin" / "python"
    done = subprocess.run([python, "-m", "rebreak_idle", "--version"], timeout=60, check=True)
    assert done.returncode == 0
    assert (checkout / ".env").read_text("utf-8") == (checkout / ".env.example").read_text("utf-8")


@pytest.mark.timeout(COMMAND_SECONDS + 60)
def test_the_readme_s_daemon(
    checkout: Path, programs: Path, filled_in: dict[str, str], backend: RecordingBackend
) -> None:
    """With `.env` filled in, `check` passes, and the daemon watches; `.env` may be ours alone."""
    check, run = RUN.splitlines()
    values = without_ours(filled_in)
    done = shell(f"chmod 600 .env\n. .venv/bin/activate\n{check}", checkout, programs, values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "check passed — database ok, 1 of 1 mailboxes ready, backend reached" in done.stdout
    log = run_and_stop(run, checkout, programs, values, backend)
    assert "[idle/docs@example.org] connected (localhost:" in log
    assert log.endswith("[idle/db] stopped\n")


@pytest.mark.timeout(COMMAND_SECONDS + 60)
def test_with_infisical(
    checkout: Path,
    programs: Path,
    deployment: dict[str, str],
    backend: RecordingBackend,
    tmp_path: Path,
) -> None:
    """Without `.env`, the two lines work with variables that the program before `--` provides.

    That program is a stand-in: Infisical itself wants an account.
    """
    kept = tmp_path / "kept"
    kept.write_text("".join(f"export {k}='{v}'\n" for k, v in deployment.items()))
    check, run = INFISICAL.splitlines()
    values = without_ours({"KEPT": str(kept)})
    env = checkout / ".env"
    aside = env.rename(tmp_path / "env")
    try:
        done = shell(f". .venv/bin/activate\n{check}", checkout, programs, values)
        assert done.returncode == 0, done.stdout + done.stderr
        log = run_and_stop(run, checkout, programs, values, backend)
    finally:
        aside.rename(env)
    assert "[idle/docs@example.org] connected (localhost:" in log


@pytest.mark.timeout(COMMAND_SECONDS + 60)
def test_the_upgrade(checkout: Path, programs: Path, filled_in: dict[str, str]) -> None:
    """But for `git pull` and PM2, which want a remote and a PM2, the lines are run in the copy."""
    (block,) = [f.text for f in fences_of("docs/operations.md", "sh") if f.heading == "Upgrading"]
    own = [line for line in block.splitlines() if line.startswith(".venv/")]
    assert len(own) == 2
    install, check = own
    done = shell(install, checkout, programs, dict(os.environ))
    assert done.returncode == 0, done.stderr
    done = shell(check, checkout, programs, without_ours(filled_in))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(COMMAND_SECONDS + 60)
def test_the_image_s_installation(checkout: Path, programs: Path, tmp_path: Path) -> None:
    """What the Dockerfile copies is enough for the `pip install` that it runs.

    There is no Docker in a test: the sources are copied as it copies them, and installed into a
    folder, without the packages that the image downloads as well.
    """
    (fence,) = fences_of("docs/operations.md", "dockerfile")
    lines = [line.split() for line in fence.text.splitlines()]
    for name, *words in lines:
        if name == "COPY":
            *sources, target = words
            shell(f"cp -r {' '.join(sources)} {tmp_path}/{target}", checkout, programs, {})
    (install,) = [" ".join(words) for name, *words in lines if words[:2] == ["pip", "install"]]
    site = tmp_path / "site"
    command = f". {checkout}/.venv/bin/activate\n{install} --no-deps --target {site}"
    done = shell(command, tmp_path, programs, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert (site / "rebreak_idle" / "imap" / "session.py").exists()
    assert (site / "rebreak_idle" / "py.typed").exists()


def run_twice(commands: str, database: Database, programs: Path) -> None:
    """Run what makes a table, and once more where it is there."""
    require("psql")
    variables = {"DATABASE_URL": database.url, "PATH": str(Path(find_program("psql")).parent)}
    for _ in range(2):
        done = shell(commands, REPOSITORY, programs, variables)
        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr


def test_the_table_for_development(database: Database, programs: Path) -> None:
    """The line that makes the table does, however often it is run."""
    (fence,) = fences_of("docs/database.md", "sh")
    database.execute("DROP TABLE mail_connections")
    run_twice(fence.text, database, programs)
    assert database.add("a@example.org")


def test_the_table_of_several_daemons(database: Database, programs: Path) -> None:
    """The line that switches sharing on makes the table, with row-level security."""
    (line,) = [f.text for f in fences_of("docs/fleet.md", "sh") if f.text.startswith("psql")]
    run_twice(line, database, programs)
    found = database.execute(
        "SELECT relrowsecurity FROM pg_class WHERE oid = 'idle_instances'::regclass"
    )
    assert found == [(True,)]
