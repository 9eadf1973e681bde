"""The preflight on a terminal: its progress, and Ctrl-C."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.program.check.conftest import ANY_LOGIN, Gate, add_mailboxes
from tests.support.daemon import BASE_ENVIRONMENT, Daemon
from tests.support.recording_backend import Hang, RecordingBackend
from tests.support.rig import environment
from tests.support.scripted_imap import Connection, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

# A terminal


class Terminal:
    """A terminal of whose lines one sees what is left after carriage returns."""

    def __init__(self) -> None:
        self.raw = ""
        self._controller, self.descriptor = os.openpty()
        self._reader = threading.Thread(target=self._read, name="terminal")
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: nobody writes to it any more
            while data := os.read(self._controller, 4096):
                self.raw += data.decode(errors="replace")

    def read_to_end(self) -> None:
        """Wait until nobody writes to it any more."""
        self._reader.join(10)
        os.close(self._controller)

    @property
    def lines(self) -> list[str]:
        return [_overwritten(line) for line in self.raw.split("\n")]


def _overwritten(line: str) -> str:
    shown = ""
    for part in line.split("\r"):
        shown = part + shown[len(part) :]
    return shown.rstrip()


@contextmanager
def started(
    values: dict[str, str], folder: Path, streams: tuple[str, ...]
) -> Iterator[tuple[Terminal, "subprocess.Popen[bytes]"]]:
    """A check with these streams on a terminal, and the others in the file `output`."""
    terminal = Terminal()
    with (folder / "output").open("wb") as output:
        places = dict.fromkeys(("stdout", "stderr"), output.fileno())
        places |= dict.fromkeys(streams, terminal.descriptor)
        process = subprocess.Popen(
            [sys.executable, "-m", "rebreak_idle", "check"],
            cwd=folder,
            env={**BASE_ENVIRONMENT, "HOME": str(folder), **values},
            stdin=subprocess.DEVNULL,
            stdout=places["stdout"],
            stderr=places["stderr"],
        )
    os.close(terminal.descriptor)
    try:
        yield terminal, process
    finally:
        process.kill()
        process.wait(10)
        terminal.read_to_end()


@contextmanager
def third_login_held(server: ScriptedImap) -> Iterator[threading.Event]:
    """The third login waits until it is let go."""
    go, logins = threading.Event(), itertools.count(1)

    def hold(_: Connection) -> None:
        if next(logins) == 3:
            go.wait(60)

    server.on("login", hold)
    try:
        yield go
    finally:
        go.set()


@pytest.mark.parametrize("streams", [("stdout", "stderr"), ("stdout",), ("stderr",), ()])
def test_progress_is_shown_on_a_terminal(
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
    certificates: Certificates,
    tmp_path: Path,
    streams: tuple[str, ...],
) -> None:
    """It is seen while it lasts, leaves nothing behind, and does not touch the log's lines."""
    add_mailboxes(database, 2, server.port, "further-")
    values = environment(database.url, backend.url, certificates, MAIL_CONNECTIONS_QUERY=ANY_LOGIN)
    with (
        third_login_held(server) as go,
        started(values, tmp_path, streams) as (terminal, process),
    ):
        if streams:
            wait_for(lambda: "2 of 3 …" in terminal.raw, 20, "the progress")
            wait_for(lambda: terminal.lines[-1] == "2 of 3 …", 20, "the progress in its place")
        go.set()
        assert process.wait(30) == 0
    file = (tmp_path / "output").read_text(encoding="utf-8")
    seen = [line for line in terminal.lines if line]
    log = seen if "stdout" in streams else file.splitlines()
    assert all(line.startswith("[idle/") for line in (*seen, *log))
    assert len(log) == 8
    assert log[-1].endswith("3 of 3 mailboxes ready, backend reached")
    assert " of 3 …" not in file
    assert "\r" not in file


# Ctrl-C


@contextmanager
def hanging_at(
    step: str, server: ScriptedImap, database: Database, run: Run
) -> Iterator[tuple[Daemon, Callable[[], object]]]:
    """A check that hangs for a minute and more in this step, and whether it is there."""
    hang = Hang()
    with Gate(lambda _: hang) as backend:
        variables = {"BACKEND_URL": backend.url, "MAIL_CONNECTIONS_QUERY": ANY_LOGIN}
        reached: Callable[[], object] = lambda: backend.requests  # noqa: E731
        if step == "database":
            variables["MAIL_CONNECTIONS_QUERY"] = "SELECT pg_sleep(60)"
            running = (
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND state = 'active' AND query = 'SELECT pg_sleep(60)'"
            )
            reached = lambda: database.execute(running)  # noqa: E731
        if step == "mailbox":
            logins: list[Connection] = []
            server.on("login", lambda connection: logins.append(connection), instead=True)
            reached = lambda: logins  # noqa: E731
        with run("check", IMAP_TIMEOUT_SECONDS=60, **variables) as daemon:
            yield daemon, reached


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "tried"), [("database", "0 of 0"), ("mailbox", "0 of 1"), ("backend", "1 of 1")]
)
def test_an_interrupted_check_ends_at_once(
    run: Run, server: ScriptedImap, database: Database, step: str, tried: str, number: int
) -> None:
    """Whatever it waits for, it says how far it came, and has not passed."""
    with hanging_at(step, server, database, run) as (daemon, reached):
        wait_for(reached, 20, step)
        daemon.signal(number)
        assert daemon.wait(5) == 1
    assert daemon.lines[-1] == (
        f"[idle/db] check interrupted — {tried} mailboxes tried, nothing is known of the rest"
    )
    assert daemon.stderr == ""


@pytest.mark.parametrize(("arguments", "status"), [(["check"], 1), ([], 0)])
def test_a_stop_while_the_program_is_loaded(
    tmp_path: Path, arguments: list[str], status: int
) -> None:
    """A preflight that did not come to run has not passed; a daemon has stopped in order."""
    (tmp_path / "dotenv.py").write_text("import os\nos.kill(os.getpid(), 2)\n")
    with Daemon({}, tmp_path, arguments) as daemon:
        assert daemon.wait() == status
    assert daemon.stderr == ""
