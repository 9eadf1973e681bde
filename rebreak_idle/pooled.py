"""What one mailbox has done on a thread of the pool, and the wait for its end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from .errors import Interrupted, SessionLost
from .services import Services
from .status import Progress

T = TypeVar("T")

# From connect to EXAMINE no server is asked for more answers than this, each with its time-out.
COMMANDS_IN_A_ROW = 12


class PooledTask:
    """Does one mailbox's tasks, one at a time. Used by its thread.

    ``wait`` waits so many seconds, or until ``wake`` is called; what it raises goes through.
    """

    def __init__(
        self,
        services: Services,
        progress: Progress,
        wake: Callable[[], None],
        wait: Callable[[float], None],
    ) -> None:
        self.thread: int | None = None
        """The thread that does the task now, if any."""
        self._executor = services.connects
        self._seconds = COMMANDS_IN_A_ROW * services.config.imap_timeout_seconds
        self._progress = progress
        self.wake = wake
        self._wait = wait
        self._token: object = None

    def let_go(self, last_reference: list[object]) -> None:
        """Have a thread of the pool free what only this list holds, soon.

        What a thread frees stays with it for its next allocations (glibc's tcache): a TLS
        connection leaves 11 KiB behind, which a mailbox's own thread would never use again.
        """
        with suppress(RuntimeError):  # no thread can be started: it is freed here
            self._executor.submit(last_reference.clear)

    def wait_in_line(self, seconds: float) -> None:
        """Wait for what may take any time before a task: a host that is down."""
        self._progress.expect(math.inf)
        self._wait(seconds)

    def run(
        self,
        task: Callable[[], T],
        release: Callable[[], None] = lambda: None,
        must_end: Callable[[], bool] = lambda: False,
    ) -> T:
        """Do the task and wait for its end; returns or raises what it does.

        A wait that is interrupted leaves the task to itself, unless ``must_end`` says that it has
        what this thread uses next. ``release`` is called once, when it is over or will not begin.

        Raises:
            SessionLost: the system gives no thread for it.
        """
        self._token = token = object()

        def begin() -> T:
            if self._token is not token:
                raise Interrupted("given up")
            self.thread = threading.get_ident()
            self._progress.expect(self._seconds)
            try:
                return task()
            finally:
                self.thread = None

        self._progress.expect(math.inf)
        try:
            future = self._executor.submit(begin)
        except RuntimeError as error:  # it is queued all the same
            self._token = None
            release()
            raise SessionLost(f"no connection can be made: {error}") from error
        future.add_done_callback(lambda _: release())
        future.add_done_callback(lambda _: self.wake())
        try:
            while not future.done():
                self._wait(math.inf)
        except Interrupted:
            if not future.cancel() and must_end():
                future.exception()
            raise
        return future.result()
