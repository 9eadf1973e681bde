"""The log as the program formats it, into a text."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from rebreak_idle.log import Formatter, log


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what `set_up` does to the process."""
    root = logging.getLogger()
    before = (log.handlers[:], log.level, root.handlers[:], logging.raiseExceptions)
    yield
    log.handlers[:], level, root.handlers[:], logging.raiseExceptions = before
    log.setLevel(level)


def set_up(level: str, stream: io.StringIO, secrets: tuple[str, ...] = ()) -> None:
    """Write the log to a text, as the program formats it."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(secrets))
    log.handlers[:] = [handler]
    log.setLevel(level.upper())


@pytest.fixture
def output() -> io.StringIO:
    """The log's output."""
    stream = io.StringIO()
    set_up("debug", stream)
    return stream
