"""Bounded waits: the only place in the tests where time is let pass."""

import threading
import time
from collections.abc import Callable, Collection
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.01

# Threads of the test tools themselves, by the start of their names.
LASTING_THREADS = ("hypothesis", "pytest")


def wait_for(condition: Callable[[], T], timeout_seconds: float, what: str) -> T:
    """Return the first truthy value of `condition`.

    Raises:
        AssertionError: naming `what`, when `timeout_seconds` pass without one.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout_seconds:g} s in vain for {what}")
        time.sleep(POLL_SECONDS)
    return value


def threads_left_behind(
    before: Collection[threading.Thread], timeout_seconds: float
) -> list[threading.Thread]:
    """The threads that were not there `before` and did not end within `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    new = [
        thread for thread in threading.enumerate() if thread not in before and _is_to_end(thread)
    ]
    for thread in new:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread for thread in new if thread.is_alive()]


def _is_to_end(thread: threading.Thread) -> bool:
    foreign = isinstance(thread, threading._DummyThread)  # cannot be joined
    return not foreign and not thread.name.lower().startswith(LASTING_THREADS)
