"""What happened, and when."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

from scripts.tools import console


def say(text: str) -> None:
    """A line for whoever watches."""
    console.show(f"[soak] {text}")


class Chronicle:
    """A file with the daemon's lines and all that was done, each with its second of the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.happened: Counter[str] = Counter()
        self._began = time.monotonic()
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()

    def second(self, at: float | None = None) -> float:
        """The second of the run, of a moment or now."""
        return (time.monotonic() if at is None else at) - self._began

    def write(self, line: str) -> None:
        """Add a line. Any thread may call."""
        with self._lock:
            self._file.write(f"{self.second():9.3f} {line}\n")

    def count(self, what: str, where: object = "") -> None:
        """Something was done to the daemon."""
        self.happened[what] += 1
        self.write(f"[soak] {what} {where}")
