"""The log: plain text, one event a line, every line with its prefix.

Records are formatted where they are logged and written by one thread, so that a reader that stalls
holds up nobody.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

# How much of one text that comes from outside a line shows.
SHOWN_CHARACTERS = 300
# A shorter secret could be part of any ordinary word; it is replaced in texts from outside only.
MIN_SECRET_CHARACTERS = 8
MAX_QUEUED_LINES = 10_000
DATABASE_PREFIX = "idle/db"

log = logging.getLogger("rebreak_idle")
log.propagate = False
log.addHandler(logging.NullHandler())  # silent until there is a `Log`


class External(str):
    """A text from outside, fit for one line: shortened, control characters escaped.

    ``raw`` is what it was: a secret must be taken out before it can be cut in half.
    """

    raw: str


def sanitize(text: str) -> External:
    """A text from outside, for the log, which shows it without secrets."""
    shown = External(truncate(text))
    shown.raw = text
    return shown


def truncate(text: str) -> str:
    """At most 300 characters, control characters escaped."""
    text = escape(text)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def escape(text: str) -> str:
    """Everything that could leave the line, or lead a terminal astray, as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Formatter(logging.Formatter):
    """``[prefix] message``, without the ``secrets``; a traceback follows with the same prefix."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"[{getattr(record, 'prefix', DATABASE_PREFIX)}]"
        lines = [self._message(record)]
        if record.exc_info and record.exc_info[0] is not None:
            lines += self.formatException(record.exc_info).splitlines()
        return "\n".join([f"{prefix} {escape(self._redacted(line))}" for line in lines])

    def _message(self, record: logging.LogRecord) -> str:
        args = record.args
        if not isinstance(args, tuple):
            return str(record.msg)
        return str(record.msg) % tuple(self._shown(arg) for arg in args) if args else record.msg

    def _shown(self, value: object) -> object:
        """A text from outside loses its secrets before it is shortened, lest a part be left."""
        if not isinstance(value, External):
            return value
        return truncate(self._without(value.raw, self._secrets))

    def _redacted(self, text: str) -> str:
        """The last net, for tracebacks and whatever else."""
        long_ones = [secret for secret in self._secrets if len(secret) >= MIN_SECRET_CHARACTERS]
        return self._without(text, long_ones)

    @staticmethod
    def _without(text: str, secrets: list[str]) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        return text


class _Queue(QueueHandler):
    """Formats records where they are logged, and never blocks; counts what found no room."""

    def __init__(self, lines: queue.Queue[str | threading.Event], formatter: Formatter) -> None:
        super().__init__(lines)
        self.setFormatter(formatter)
        self._left_out = 0

    def prepare(self, record: logging.LogRecord) -> str:
        """The line alone: a record would keep frames and what they know."""
        try:
            return self.format(record)
        except Exception:  # noqa: BLE001  # one line that cannot be shown costs no other
            return f"[{DATABASE_PREFIX}] a line of the log cannot be shown: {escape(record.msg)}"

    def enqueue(self, record: logging.LogRecord | str) -> None:
        lines = self.queue
        try:
            if self._left_out:
                count = self._left_out
                lines.put_nowait(f"[{DATABASE_PREFIX}] {count} lines of the log were left out")
                self._left_out -= count
            lines.put_nowait(record)
        except queue.Full:
            self._left_out += 1


class _Listener(QueueListener):
    """Writes the lines of a queue to a descriptor, on a thread of its own."""

    def __init__(self, lines: queue.Queue[str | threading.Event], descriptor: int) -> None:
        super().__init__(lines)
        self._descriptor = descriptor

    def handle(self, record: logging.LogRecord | str | threading.Event) -> None:
        if isinstance(record, threading.Event):
            record.set()
            return
        data = f"{record}\n".encode("utf-8", "backslashreplace")
        with suppress(OSError):  # a reader that went away ends the log, not the daemon
            while data:
                data = data[self._write(data) :]

    def _write(self, data: bytes) -> int:
        """Write some of it. A descriptor that does not block is waited for: others may share it,
        so it is left as it is.
        """
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(self._descriptor, select.POLLOUT)
            waiting.poll()
            return 0


class Log:
    """Writes what is logged to a descriptor as UTF-8, each line at once, without the secrets.

    Other libraries' loggers stay silent: their debug output shows passwords.
    """

    def __init__(self, level: str, descriptor: int, secrets: Iterable[str] = ()) -> None:
        lines: queue.Queue[str | threading.Event] = queue.Queue(MAX_QUEUED_LINES)
        self._lines = lines
        self._handler = _Queue(lines, Formatter(secrets))
        self._listener = _Listener(lines, descriptor)
        self._listener.start()
        log.addHandler(self._handler)
        log.setLevel(level.upper())
        logging.getLogger().addHandler(logging.NullHandler())
        logging.raiseExceptions = False
        atexit.register(self.drain)

    def drain(self, seconds: float = 1.0) -> None:
        """Wait until all that was logged so far is written, at most ``seconds``."""
        written = threading.Event()
        with suppress(queue.Full):
            self._lines.put(written, timeout=seconds)
            written.wait(seconds)

    def close(self) -> None:
        """Write what is left, and end the thread."""
        atexit.unregister(self.drain)
        log.removeHandler(self._handler)
        self._listener.stop()


def open_standard_descriptors() -> int:
    """Where the log goes. To be called before anything else opens a descriptor.

    A standard descriptor that is closed would become a socket's, and the log would be written to a
    server: it is opened to nowhere. Without stdout the log goes to stderr.
    """
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or _text_stream(1)
    sys.stderr = sys.stderr or _text_stream(2)
    if 1 not in closed or 2 in closed:
        return 1
    print(f"[{DATABASE_PREFIX}] stdout is closed: the log goes to stderr", file=sys.stderr)  # noqa: T201
    return 2


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


def _text_stream(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "w", closefd=False)


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


class Logger(logging.LoggerAdapter[logging.Logger]):
    """The log of one mailbox, or of the database."""

    def __init__(self, name: str) -> None:
        # A closing bracket in a name would end the prefix early.
        prefix = f"idle/{truncate(name)}".replace("]", "\\x5d")
        super().__init__(log, {"prefix": prefix})


database_logger = Logger("db")
