"""What a script of `scripts/` starts, as a process of its own, and what it leaves behind."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support.daemon import REPOSITORY
from tests.support.waiting import wait_for

SCRIPTS = REPOSITORY / "scripts"
LINE_SECONDS = 60.0


class ScriptRun:
    """`python -m scripts.tools.…` in a session of its own, with a folder for all temporary files.

    `terminal` gives it a pseudo-terminal to write to, instead of a pipe.
    """

    end_seconds = 60.0

    def __init__(
        self,
        folder: Path,
        module: str,
        *arguments: str,
        terminal: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.lines: list[str] = []
        reading, writing = pty.openpty() if terminal else os.pipe()
        with os.fdopen(writing, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"scripts.tools.{module}", *arguments],
                cwd=REPOSITORY,
                env=_environment(folder, variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, args=(reading,))
        self._reader.start()

    def _read(self, descriptor: int) -> None:
        # A terminal whose other side is closed says so with EIO.
        with os.fdopen(descriptor, encoding="utf-8") as output, contextlib.suppress(OSError):
            for line in output:
                self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        """Its output so far."""
        return "\n".join(self.lines)

    def wait_line(self, text: str) -> None:
        """Wait until a line with this text has come."""
        wait_for(lambda: self._has(text), LINE_SECONDS, f"{text!r} in the output")

    def _has(self, text: str) -> bool:
        assert self.process.poll() is None, self.text
        return any(text in line for line in tuple(self.lines))

    def press_ctrl_c(self) -> None:
        """What a terminal does: SIGINT to every process of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Wait for its end; the exit status."""
        status = self.process.wait(self.end_seconds)
        self._reader.join()
        return status

    def close(self) -> None:
        """Have it end, if it has not."""
        if self.process.poll() is None:
            self.process.terminate()
        self.end()


def _environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder), **variables}


def left_behind(folder: Path) -> list[psutil.Process]:
    """Every process that a script with this folder has started, whoever its parent is now."""
    return [process for process in psutil.process_iter() if _temporary_folder(process) == folder]


def _temporary_folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.environ().get("TMPDIR", ""))
    except psutil.Error:
        return None
