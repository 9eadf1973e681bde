"""The daemon as a subprocess, watched from outside as an operator would."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

REPOSITORY = Path(__file__).parents[2]

END_SECONDS = 10.0

# What a process manager gives its programs; nothing of the tests' own environment gets in.
BASE_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "LANG": "C.UTF-8",
    "PYTHONPATH": str(REPOSITORY),
}


class Daemon:
    """Runs `python -m rebreak_idle` until the end of the `with` block.

    `command` replaces the program: what follows `python` on the command line.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        cwd: Path,
        arguments: Sequence[str] = (),
        command: Sequence[str | Path] = ("-m", "rebreak_idle"),
    ) -> None:
        self._environment = {**BASE_ENVIRONMENT, "HOME": str(cwd), **environment}
        self._cwd = cwd
        self._command = [sys.executable, *command, *arguments]
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._changed = threading.Condition()
        self._reading = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            self._read("stdout", self._process.stdout),
            self._read("stderr", self._process.stderr),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(END_SECONDS)
        for reader in self._readers:
            reader.join(END_SECONDS)

    # what it says

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lines(self) -> list[str]:
        """The lines of stdout so far."""
        with self._changed:
            return list(self._lines["stdout"])

    @property
    def text(self) -> str:
        """The lines of stdout so far, as one text."""
        return "\n".join(self.lines)

    @property
    def stderr(self) -> str:
        """The text of stderr so far; all of it once `wait` has returned."""
        with self._changed:
            return "\n".join(self._lines["stderr"])

    def mark(self) -> int:
        """Where the output stands, for `after`."""
        return len(self.lines)

    def wait_line(
        self, wanted: str | re.Pattern[str], timeout_seconds: float = 20.0, after: int = 0
    ) -> str:
        """The first line of stdout from index `after` on that holds a text or matches a regex.

        Raises:
            AssertionError: with the output, when the time is up or the daemon has ended.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while (line := self._first_line(wanted, after)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._reading:
                    break
                self._changed.wait(left)
        if line is not None:
            return line
        raise AssertionError(f"no line {wanted!r} in:\n{self.text}\n--- stderr:\n{self.stderr}")

    def _first_line(self, wanted: str | re.Pattern[str], after: int) -> str | None:
        pattern = re.compile(re.escape(wanted)) if isinstance(wanted, str) else wanted
        lines = self._lines["stdout"][after:]
        return next((line for line in lines if pattern.search(line)), None)

    # what is done to it

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_seconds: float = 20.0) -> int:
        """Wait for its end; the exit status.

        Raises:
            AssertionError: with the output, when it does not end in time.
        """
        try:
            status = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; its output:\n{self.text}") from None
        for reader in self._readers:
            reader.join(END_SECONDS)
        return status

    def stop(self, timeout_seconds: float = 20.0) -> int:
        """Ask it to stop (SIGTERM) and wait; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_seconds)

    def _read(self, name: str, stream: IO[bytes] | None) -> threading.Thread:
        assert stream is not None
        with self._changed:
            self._reading += 1
        reader = threading.Thread(target=self._collect, args=(name, stream), name=f"read-{name}")
        reader.start()
        return reader

    def _collect(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                with self._changed:
                    self._lines[name].append(raw.decode(errors="replace").rstrip("\r\n"))
                    self._changed.notify_all()
        with self._changed:
            self._reading -= 1
            self._changed.notify_all()
