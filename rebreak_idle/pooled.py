"""What one mailbox has done on a thread of the pool, and the wait for its end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
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
        self._wake = wake
        self._wait = wait
        self._token: object = None

    def run(self, task: Callable[[], T]) -> T:
        """Do the task and wait for its end; returns or raises what it does.

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
            raise SessionLost(f"no connection can be made: {error}") from error
        future.add_done_callback(lambda _: self._wake())
        try:
            while not future.done():
                self._wait(math.inf)
        except Interrupted:
            if not future.cancel():
                future.exception()  # the session is interrupted too, and still in use
            raise
        return future.result()
