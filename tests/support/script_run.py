"""A script of `scripts/` as a process of its own, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

from tests.support.daemon import REPOSITORY
from tests.support.waiting import wait_for

SCRIPTS = REPOSITORY / "scripts"
LINE_SECONDS = 60.0


class ScriptRun:
    """A script at a terminal of its own, with a folder for all its temporary files."""

    end_seconds = 60.0

    def __init__(self, folder: Path, script: str, *arguments: str) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, SCRIPTS / script, *arguments],
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with self.process.stdout as output:  # type: ignore[union-attr]  # it has a pipe
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


def left_behind(folder: Path) -> list[psutil.Process]:
    """Every process that a script with this folder has started, whoever its parent is now."""
    return [process for process in psutil.process_iter() if _temporary_folder(process) == folder]


def _temporary_folder(process: psutil.Process) -> Path | None:
    try:
        return Path(process.environ().get("TMPDIR", ""))
    except psutil.Error:
        return None
