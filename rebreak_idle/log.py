"""The log: plain text on stdout, one event a line, every line with its prefix."""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import Any, TextIO

from .turns import Signal, away, turn

# How much of one text that comes from outside a line shows.
SHOWN_CHARACTERS = 300

NET_CHARACTERS = 8
_secrets: list[str] = []

log = logging.getLogger("rebreak_idle")
log.propagate = False
log.addHandler(logging.NullHandler())  # silent until `set_up`
DATABASE_PREFIX = "idle/db"


def set_up(level: str, stream: TextIO | None = None, secrets: Iterable[str] = ()) -> None:
    """Write the log to ``stream`` (stdout) as UTF-8, each line at once, without the ``secrets``.

    Other libraries' loggers stay silent: their debug output shows passwords.
    """
    handler = logging.StreamHandler(stream) if stream else Writer(sys.stdout.fileno())
    atexit.register(drain)
    _secrets[:] = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    handler.setFormatter(_Formatter())
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    logging.getLogger().addHandler(logging.NullHandler())
    logging.raiseExceptions = False  # a reader that went away must not hurt the daemon


def sanitize(text: str) -> str:
    """A text from outside on one line: without secrets, control characters escaped, at most 300
    characters.
    """
    for secret in _secrets:
        text = text.replace(secret, "***")
    return truncate(text)


def truncate(text: str) -> str:
    """At most 300 characters, control characters escaped."""
    text = escape(text)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def escape(text: str) -> str:
    """Everything that could leave the line, or lead a terminal astray, as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Formatter(logging.Formatter):
    """``[prefix] message``; a traceback follows on lines with the same prefix."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"[{getattr(record, 'prefix', DATABASE_PREFIX)}]"
        lines = [record.getMessage()]
        if record.exc_text:
            lines += record.exc_text.splitlines()
        return "\n".join([f"{prefix} {escape(self._redacted(line))}" for line in lines])

    @staticmethod
    def _redacted(text: str) -> str:
        """The last net, for tracebacks; a short secret could be part of any ordinary word."""
        for secret in _secrets:
            if len(secret) >= NET_CHARACTERS:
                text = text.replace(secret, "***")
        return text


class Writer(logging.Handler):
    """Writes lines to a descriptor from a thread of its own, which formats them too.

    A reader that stalls blocks that thread and nobody else; what then does not fit into the queue
    is left out, and said to be. A reader that went away ends the log, not the daemon.
    """

    MOST_LINES = 10_000
    # Others have their turn after so many.
    AT_ONCE = 64

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        # What is to be written, and in between who waits until that before is.
        self._queue: deque[logging.LogRecord | threading.Event] = deque()
        self._more = Signal()
        self._is_told = False
        self._left_out = 0
        threading.Thread(target=self._write, name="idle-log", daemon=True).start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue the record; any thread may call, without the lock that handlers have."""
        if len(self._queue) >= self.MOST_LINES:
            self._left_out += 1
            return False
        if self._left_out:
            count, self._left_out = self._left_out, 0
            text = "%d lines of the log were left out"
            self._put(_Record(logging.WARNING, text, (count,), None, DATABASE_PREFIX))
        self._put(record)
        return True

    def drain(self, seconds: float) -> None:
        """Wait until all that was logged so far is written, at most ``seconds``."""
        written = threading.Event()
        self._put(written)
        written.wait(seconds)

    def _put(self, item: logging.LogRecord | threading.Event) -> None:
        self._queue.append(item)
        if not self._is_told:
            self._is_told = True
            self._more.set()

    def _write(self) -> None:
        with turn:
            while True:
                if not self._queue:
                    self._more.wait(math.inf)
                self._is_told = False
                with suppress(MemoryError):  # some lines are lost, the log goes on
                    self._write_some()

    def _write_some(self) -> None:
        items = [self._queue.popleft() for _ in range(min(self.AT_ONCE, len(self._queue)))]
        try:
            self._write_out(
                [self._line(item) for item in items if isinstance(item, logging.LogRecord)]
            )
        finally:
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception:  # noqa: BLE001  # whatever it is, the others are to be read
            return f"[{DATABASE_PREFIX}] a line of the log cannot be shown: {escape(record.msg)}"

    def _write_out(self, lines: list[str]) -> None:
        data = "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")
        with suppress(OSError), away:
            while data:
                data = data[os.write(self._descriptor, data) :]


def drain(seconds: float = 1.0) -> None:
    """Wait until all that was logged is written, at most ``seconds``."""
    for handler in log.handlers:
        if isinstance(handler, Writer):
            handler.drain(seconds)


class RepeatFilter:
    """Says what is said again and again only when it changed, or once an hour."""

    HOUR_SECONDS = 3600.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: tuple[str, float] | None = None

    def should_log(self, text: str) -> bool:
        """Whether the text is to be said now; it then counts as said."""
        now = self._clock()
        if self._said and self._said[0] == text and now - self._said[1] < self.HOUR_SECONDS:
            return False
        self._said = (text, now)
        return True

    @property
    def last(self) -> str:
        """What was said last and not forgotten since, or empty."""
        return self._said[0] if self._said else ""

    def forget(self) -> None:
        """It works again: the next trouble is news."""
        self._said = None


@cache
def _blank(level: int) -> dict[str, Any]:
    return vars(logging.LogRecord(log.name, level, "", 0, "", None, None))


class _Record(logging.LogRecord):
    """What the format shows, and no more: to find out the rest takes longer than to write it."""

    def __init__(
        self, level: int, message: object, args: tuple[object, ...], exc_info: object, prefix: str
    ) -> None:
        self.__dict__.update(_blank(level))
        self.msg, self.args = str(message), args
        if exc_info and sys.exc_info()[0] is not None:
            self.exc_text = traceback.format_exc()  # at once: frames hold much, secrets among it
        self.prefix = prefix


class Logger(logging.LoggerAdapter[logging.Logger]):
    """The log of one mailbox, or of the database."""

    def __init__(self, name: str) -> None:
        # A closing bracket in a name would end the prefix early.
        super().__init__(log, {})
        self._prefix = f"idle/{truncate(name)}".replace("]", "\\x5d")

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if log.isEnabledFor(level):
            log.callHandlers(_Record(level, msg, args, kwargs.get("exc_info"), self._prefix))


database_logger = Logger("db")
