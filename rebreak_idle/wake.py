"""Asking a mailbox's thread to stop, in whatever wait it is."""

from __future__ import annotations

import time

from .errors import Interrupted
from .poller import poller
from .turns import Signal


class Stop:
    """Asks one mailbox's thread to stop; once set it stays set. Any thread may call.

    All that the mailbox's thread, or whoever works for it, waits for in sockets and intervals is
    announced by `signal`; who waits looks for itself what it was.
    """

    __slots__ = ("_is_set", "signal")

    def __init__(self) -> None:
        self.signal = Signal()
        self._is_set = False

    def set(self) -> None:
        """Wake the thread in whatever wait it is."""
        self._is_set = True
        self.signal.set()

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait for the stop; True when it came."""
        end = time.monotonic() + seconds
        while not self._is_set and (left := end - time.monotonic()) > 0:
            poller.sleep(self.signal, left)
        return self._is_set

    def check(self) -> None:
        """
        Raises:
            Interrupted: the stop is set.
        """
        if self._is_set:
            raise Interrupted("stopping")
