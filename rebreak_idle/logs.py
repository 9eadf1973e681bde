"""The log: plain text on stdout, one event a line, every line with its prefix."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from typing import TextIO

# How much of one text that comes from outside a line shows.
SHOWN_CHARACTERS = 300

log = logging.getLogger("rebreak_idle")
log.propagate = False
log.addHandler(logging.NullHandler())  # silent until `set_up`
DATABASE_PREFIX = "idle/db"


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Write the log to ``stream`` (stdout) as UTF-8, each line at once.

    Other libraries' loggers stay silent: their debug output shows passwords.
    """
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter())
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    logging.getLogger().addHandler(logging.NullHandler())
    logging.raiseExceptions = False  # a reader that went away must not hurt the daemon


def printable(text: str) -> str:
    """A text from outside on one line: control characters escaped, at most 300 characters."""
    if len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "…"
    return escaped(text)


def escaped(text: str) -> str:
    """Everything that could leave the line, or lead a terminal astray, as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Formatter(logging.Formatter):
    """``[prefix] message``; a traceback follows on lines with the same prefix."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"[{getattr(record, 'prefix', DATABASE_PREFIX)}]"
        lines = [record.getMessage()]
        if record.exc_info and record.exc_info[0] is not None:
            lines += "".join(traceback.format_exception(*record.exc_info)).splitlines()
        return "\n".join(f"{prefix} {escaped(line)}" for line in lines)


class Journal(logging.LoggerAdapter[logging.Logger]):
    """The log of one mailbox, or of the database."""

    def __init__(self, name: str) -> None:
        # A closing bracket in a name would end the prefix early.
        super().__init__(log, {"prefix": f"idle/{printable(name)}".replace("]", "\\x5d")})


database_journal = Journal("db")
