"""What all real servers of the tests have in common: programs, ports, folders, a process."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import wait_for

START_SECONDS = 30.0
STOP_SECONDS = 15.0
COMMAND_SECONDS = 30.0

# Linux hands out ports from 32768 on to outgoing connections (ip_local_port_range). A server
# that is stopped and started again must not find its port taken by one of those.
PORTS = range(15000, 32000)
LANES = 16

RUNS_AS_ROOT = os.geteuid() == 0


class MissingProgramError(Exception):
    """A program that a server needs is not installed."""


def find_program(name: str) -> str:
    """The path of a program; the system folders count although users lack them in PATH.

    Raises:
        MissingProgramError: it is not installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingProgramError(f"{name} is not installed")
    return found


def _lane() -> int:
    """Which ports are this process's, where tests run in parallel: one that was found free is
    listened on a moment later only.
    """
    return int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % LANES


_ports = cycle(random.sample(PORTS[_lane() :: LANES], len(PORTS[_lane() :: LANES])))


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, out of reach of outgoing connections; a thread
    that asks a moment later gets another one.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def has_ipv6() -> bool:
    """Whether the loopback address ::1 can be used here."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that servers with other user ids can reach into.

    pytest's own tmp_path does not do: every start of pytest shuts its root to other users.
    """
    folder = Path(tempfile.mkdtemp(prefix="rebreak-idle-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def unprivileged() -> dict[str, Any]:
    """The arguments that make subprocess give up root, for programs that refuse it."""
    if not RUNS_AS_ROOT:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


def run(*command: str | Path, text: str | None = None, **options: Any) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        RuntimeError: it failed; with its output.
    """
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_SECONDS,
        check=False,
        **options,
    )
    if done.returncode:
        raise RuntimeError(f"{command} failed with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """One server process in a folder of its own.

    A server says what to run in `_command`, and in `_ready` whether it answers yet.
    """

    name = "server"
    stop_signal = signal.SIGTERM
    stop_seconds = STOP_SECONDS
    run_options: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._resources = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = self._resources.enter_context(server_folder())

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Write what the server needs before its first start."""

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _ready(self) -> bool:
        raise NotImplementedError

    @property
    def _output(self) -> Path:
        return self.folder / "output.log"

    def log(self) -> str:
        """All that the server has logged so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        self._process = self._spawn(self._command())
        wait_for(self._answers, START_SECONDS, f"{self.name} to answer")

    def _spawn(self, command: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
        """Start a process of the server; what it prints goes into the log."""
        with self._output.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                **self.run_options,
            )

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended at its start:\n{self.log()}")
        return self._ready()

    def stop(self) -> None:
        """Stop the server if it runs, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.stop_signal)
        try:
            process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Keep the server away for the length of a `with` block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def close(self) -> None:
        self.stop()
        self._resources.close()
