"""Lines for whoever watches, and the wish to stop that comes back from there."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

LOOK_SECONDS = 0.01

# SGR parameters, ECMA-48 section 8.3.117
BOLD, DIM, RED, GREEN, MAGENTA, CYAN = "1", "2", "31", "32", "35", "36"


class Stopped(Exception):
    """Somebody asked the program to stop."""


class Failure(Exception):
    """Something did not happen; the text says what."""


class Flag:
    """Something to wait for that a signal may raise.

    Not `threading.Event`: its lock may be held by the very thread that the signal interrupts.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)

    def set(self) -> None:
        os.write(self._write_end, b".")

    def set_by_signals(self) -> None:
        """Have each signal that has a handler set it at once, whichever thread takes it: handlers
        run on the main thread, and only when that wakes.
        """
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def wait(self, seconds: float) -> bool:
        """Whether it is set, within ``seconds``."""
        return bool(select.select([self._read_end], [], [], seconds)[0])


_showing = threading.Lock()
_stop = Flag()


def has_colours() -> bool:
    """Whether colours are welcome on stdout: a terminal that knows them, and no NO_COLOR.

    https://no-color.org: any value but an empty one says no.
    """
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return not refused and sys.stdout.isatty()


def painted(text: str, *styles: str) -> str:
    """``text`` in these styles, where stdout has colours."""
    return f"\x1b[{';'.join(styles)}m{text}\x1b[0m" if has_colours() else text


def show(text: str) -> None:
    """Put text on the screen at once; where there is no screen any more, stop."""
    try:
        with _showing:
            print(text, flush=True)
    except OSError:
        sys.stdout = io.StringIO()
        _stop.set()


def show_any_character() -> None:
    """Let no character fail, whatever the encoding of the screen is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def listen_for_signals() -> None:
    """Only note that it is time to stop: an exception at any place could lose a started server."""
    _stop.set_by_signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)


def asked_to_stop() -> bool:
    """Whether somebody has asked the program to stop."""
    return _stop.wait(0)


def pause(seconds: float) -> None:
    """Wait.

    Raises:
        Stopped: as soon as somebody asks for it.
    """
    if _stop.wait(seconds):
        raise Stopped


def wait_until(
    happened: Callable[[], bool], seconds: float, look_seconds: float = LOOK_SECONDS
) -> bool:
    """Whether it has happened within ``seconds``.

    Raises:
        Stopped: as soon as somebody asks for it.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        pause(look_seconds)
    return True
