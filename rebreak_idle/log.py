"""The log: plain text, one event a line, every line with its prefix.

Records are formatted where they are logged and written by one thread, so that a reader that stalls
holds up nobody.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import select
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener
from typing import Any
from urllib.parse import quote

# How much of one text that comes from outside a line shows.
SHOWN_CHARACTERS = 300
# A shorter secret could be part of any ordinary word; it is replaced in texts from outside only.
MIN_SECRET_CHARACTERS = 8
MAX_QUEUED_LINES = 10_000
DATABASE_PREFIX = "idle/db"
LEFT_OUT = f"[{DATABASE_PREFIX}] %d lines of the log were left out"

log = logging.getLogger("rebreak_idle")
log.propagate = False
log.addHandler(logging.NullHandler())  # silent until there is a `Log`


# Takes a mailbox's own secrets out of a text.
Hide = Callable[[str], str]


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
        # As they are, as repr and ascii write them, and as they stand in a URL.
        spellings = {
            text
            for secret in secrets
            for text in (secret, repr(secret)[1:-1], ascii(secret)[1:-1], quote(secret, safe=""))
        }
        self._secrets = sorted(spellings - {""}, key=len, reverse=True)
        self._long_secrets = [text for text in self._secrets if len(text) >= MIN_SECRET_CHARACTERS]

    def format(self, record: logging.LogRecord) -> str:
        prefix = getattr(record, "prefix", DATABASE_PREFIX)
        hide = getattr(record, "hide", str)
        try:
            lines = [self._message(record, hide), *self._traceback(record, hide)]
        except Exception:  # noqa: BLE001  # one line that cannot be shown costs no other
            prefix, message = DATABASE_PREFIX, self._shown(record.msg, hide)
            what = message if isinstance(message, str) else type(message).__name__
            lines = [f"a line of the log cannot be shown: {what}"]
        long_ones = self._long_secrets
        return "\n".join([escape(_without(f"[{prefix}] {line}", long_ones)) for line in lines])

    def shown(self, text: str) -> str:
        """A text from outside as a line shows it: short, in one line, without secrets."""
        return truncate(_without(text, self._secrets))

    def _message(self, record: logging.LogRecord, hide: Hide) -> str:
        text, args = str(self._shown(record.msg, hide)), record.args
        if isinstance(args, Mapping):
            return text % {name: self._shown(arg, hide) for name, arg in args.items()}
        return text % tuple(self._shown(arg, hide) for arg in args) if args else text

    def _traceback(self, record: logging.LogRecord, hide: Hide) -> list[str]:
        if not record.exc_info or record.exc_info[0] is None:
            return []
        # A secret may have several lines itself.
        text = hide(self.formatException(record.exc_info))
        return _without(text, self._long_secrets).splitlines()

    def _shown(self, value: object, hide: Hide) -> object:
        """A text from outside loses its secrets before it is shortened, lest a part be left."""
        if not isinstance(value, External):
            return value
        return truncate(_without(hide(value.raw), self._secrets))


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


class _Handler(QueueHandler):
    """Formats records where they are logged, and never blocks; counts what found no room."""

    _left_out = 0  # guarded by the handler's lock, which `enqueue` is called with

    def prepare(self, record: logging.LogRecord) -> str:
        """The line alone: a record would keep frames and what they know."""
        return self.format(record)

    def enqueue(self, record: logging.LogRecord | str) -> None:
        notice = f"{LEFT_OUT % self._left_out}\n" if self._left_out else ""
        try:
            self.queue.put_nowait(f"{notice}{record}")
            self._left_out = 0
        except queue.Full:
            self._left_out += 1

    def take_left_out(self) -> int:
        """How many lines were left out and are not told yet."""
        self.acquire()
        try:
            count, self._left_out = self._left_out, 0
            return count
        finally:
            self.release()


class Log(QueueListener):
    """Writes what is logged to a descriptor as UTF-8, each line at once, without the secrets.

    Other libraries' loggers stay silent: their debug output shows passwords.
    """

    queue: queue.Queue[str]

    def __init__(self, level: str, descriptor: int, secrets: Iterable[str] = ()) -> None:
        super().__init__(queue.Queue(MAX_QUEUED_LINES))
        self._descriptor = descriptor
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self._handler = _Handler(self.queue)
        formatter = Formatter(secrets)
        self._handler.setFormatter(formatter)
        self.shown = formatter.shown
        self.start()
        log.addHandler(self._handler)
        log.setLevel(level.upper())
        logging.getLogger().addHandler(logging.NullHandler())
        logging.raiseExceptions = False
        _collect_only_what_is_shown()
        atexit.register(self.drain)

    def drain(self, seconds: float = 1.0) -> None:
        """Wait until all that was logged is written, at most ``seconds``."""
        lines = self.queue
        with lines.all_tasks_done:  # `Queue.join` with a limit
            lines.all_tasks_done.wait_for(lambda: not lines.unfinished_tasks, seconds)

    def close(self) -> None:
        """Write what is left, however long the reader takes, and end the thread."""
        atexit.unregister(self.drain)
        log.removeHandler(self._handler)
        self.queue.join()  # a full queue has no room for what ends the thread
        self.stop()

    def handle(self, record: logging.LogRecord | str) -> None:
        """On the log's own thread."""
        self._write(str(record))
        if self.queue.empty() and (count := self._handler.take_left_out()):
            self._write(LEFT_OUT % count)

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        with suppress(OSError):  # a reader that went away ends the log, not the daemon
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # others may share the descriptor: it is left as it is
                    self._writable.poll()


def _collect_only_what_is_shown() -> None:
    """No caller, thread or process in a record: of the time that a line takes a third, and frames
    that are kept for each thread. https://docs.python.org/3/howto/logging.html#optimization
    """
    logging._srcfile = None  # as that page has it
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def open_standard_descriptors() -> int:
    """Where the log goes. To be called before anything else opens a descriptor.

    A standard descriptor that is closed would become a socket's, and the log would be written to a
    server: it is opened to nowhere. Without stdout the log goes to stderr.
    """
    closed = set()
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # it takes the lowest that is free
        closed.add(number)
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if 1 not in closed or 2 in closed:
        return 1
    with suppress(OSError):  # nobody may read it
        os.write(2, f"[{DATABASE_PREFIX}] stdout is closed: the log goes to stderr\n".encode())
    return 2


class RepeatFilter:
    """Says what is said again and again only when it changed, or once an hour."""

    HOUR_SECONDS = 3600.0
    __slots__ = ("_clock", "_said")

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


class Logger:
    """The log of one mailbox, or of the database.

    ``hide`` takes the secrets that this mailbox alone has out of texts from outside. It is no
    `logging.LoggerAdapter`: a thread keeps what its stack once took, and one line by way of that
    took 4 KiB of each mailbox's.
    """

    def __init__(self, name: str, hide: Hide = str) -> None:
        # A closing bracket in a name would end the prefix early.
        prefix = f"idle/{truncate(name)}".replace("]", "\\x5d")
        self.hide = hide
        self._extra = {"prefix": prefix, "hide": hide}

    def debug(self, text: str, *args: object) -> None:
        self._log(logging.DEBUG, text, args)

    def info(self, text: str, *args: object) -> None:
        self._log(logging.INFO, text, args)

    def warning(self, text: str, *args: object) -> None:
        self._log(logging.WARNING, text, args)

    def error(self, text: str, *args: object) -> None:
        self._log(logging.ERROR, text, args)

    def exception(self, text: str, *args: object) -> None:
        """At level error, with the traceback of the error that is being handled, if one is."""
        self._log(logging.ERROR, text, args, sys.exc_info())

    def _log(self, level: int, text: str, args: tuple[object, ...], error: Any = None) -> None:
        if log.isEnabledFor(level):
            log.handle(log.makeRecord(log.name, level, "", 0, text, args, error, extra=self._extra))


backend_logger = Logger("backend")
database_logger = Logger("db")
fleet_logger = Logger("fleet")
host_logger = Logger("host")
