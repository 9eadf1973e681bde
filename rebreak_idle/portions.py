"""Long work of one thread, with time for the others."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

PORTION = 500
PAUSE_SECONDS = 0.001


def in_portions(items: Iterable[T], portion: int = PORTION) -> Iterator[T]:
    """All items, with a moment for other threads after each portion: what takes microseconds for
    one row would hold up all mailboxes for a tenth of a second with ten thousand.
    """
    for number, item in enumerate(items):
        if number % portion == portion - 1:
            time.sleep(PAUSE_SECONDS)
        yield item
