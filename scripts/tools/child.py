"""Programs that run as children, and what they take."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from scripts.tools.console import Failure

STOPS_WITHIN_SECONDS = 10.0  # the daemon's own promise

# In a session of its own a child does not get the terminal's Ctrl-C; who started it ends it.
OWN_SESSION = {"start_new_session": True}


class Child:
    """A process in a session of its own, watched through /proc."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        folder: Path,
        output: int | IO[bytes],
    ) -> None:
        self.name = name
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._proc = Path("/proc") / str(self._process.pid)

    def last_line(self) -> str:
        """What it said last."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises Failure where it runs no more."""
        if (status := self._process.poll()) is not None:
            raise Failure(self._ended_by_itself(status))

    def _ended_by_itself(self, status: int) -> str:
        last = self.last_line() or "it said nothing"
        return f"{self.name} ended by itself with exit status {status}: {last}"

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self, within_seconds: float = STOPS_WITHIN_SECONDS) -> tuple[int | None, float]:
        """Ask it to stop; its exit status and the seconds that it took.

        None instead of a status says that it did not stop in time, and was killed.
        """
        began = time.monotonic()
        self.send_signal(signal.SIGTERM)
        try:
            status: int | None = self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            status = None
        seconds = time.monotonic() - began
        self.end()
        return status, seconds

    def end(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    # what it takes

    def cpu_seconds(self) -> float:
        """The processor time that it took so far, all threads together."""
        self.check()
        times = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def pss_kib(self) -> int:
        """Its memory, what is shared with other processes counted in part."""
        return self._number("smaps_rollup", "Pss")

    def rss_kib(self) -> int:
        """Its memory, all of it."""
        return self._number("status", "VmRSS")

    def threads(self) -> int:
        return self._number("status", "Threads")

    def descriptors(self) -> int:
        self.check()
        return len(list((self._proc / "fd").iterdir()))

    def _number(self, file: str, name: str) -> int:
        """The number of the line `name: number …` of one of its files in /proc."""
        self.check()
        found = re.search(rf"(?m)^{name}:\s+(\d+)", (self._proc / file).read_text())
        if found is None:
            raise Failure(f"{self._proc / file} says nothing of {name}")
        return int(found[1])


class Program(Child):
    """A Python program of this repository; its output is read as it comes."""

    def __init__(
        self,
        name: str,
        *arguments: str,
        environment: Mapping[str, str],
        folder: Path,
        on_line: Callable[[str], None],
    ) -> None:
        command = [sys.executable, *arguments]
        super().__init__(name, command, environment, folder, subprocess.PIPE)
        self._last_line = ""
        self._reader = threading.Thread(target=self._read, args=(on_line,), name=f"read {name}")
        self._reader.start()

    def _read(self, on_line: Callable[[str], None]) -> None:
        with self._process.stdout as output:  # type: ignore[union-attr]  # it has a pipe
            for raw in output:
                self._last_line = raw.decode("utf-8", "replace").rstrip("\r\n")
                on_line(self._last_line)

    def last_line(self) -> str:
        return self._last_line

    def end(self) -> None:
        super().end()
        self._reader.join()

    def end_in_order(self) -> str:
        """Stop it; what was wrong with its end, or nothing."""
        if (ended := self._process.poll()) is not None:
            self.end()
            # The terminal's Ctrl-C may have come before it had a session of its own.
            return "" if self._died_young(ended) else self._ended_by_itself(ended)
        status, _ = self.stop()
        if status is None:
            return f"{self.name} did not stop within {STOPS_WITHIN_SECONDS:g} s, and was killed"
        # Before its first line a program may not have taken charge of the signals yet.
        bad = status and not self._died_young(status)
        return f"{self.name} stopped with exit status {status}" if bad else ""

    def _died_young(self, status: int) -> bool:
        return not self._last_line and status in (-signal.SIGTERM, -signal.SIGINT)
