"""How far a long task is, on a terminal."""

from __future__ import annotations

import os
from contextlib import suppress

STDOUT, STDERR = 1, 2


class Progress:
    """A text below the log, for somebody who watches; nothing where there is no terminal.

    It leaves the cursor at the start of its line, so that the next line of the log covers it.
    """

    def __init__(self) -> None:
        self._terminal = next((number for number in (STDERR, STDOUT) if os.isatty(number)), None)
        self._width = 0

    def show(self, text: str) -> None:
        """Show this text, in place of what was shown before; an empty one clears the line."""
        if self._terminal is None:
            return
        with suppress(OSError):  # a terminal that went away
            os.write(self._terminal, f"\r{text.ljust(self._width)}\r".encode())
        self._width = len(text)
