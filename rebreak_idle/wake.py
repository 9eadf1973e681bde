"""Asking a mailbox's thread to stop, in whatever wait it is."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from .errors import Interrupted
from .turns import Latch, away

# Out of descriptors a bell does not ring: whoever waits looks now and then.
LOOK_AGAIN_SECONDS = 60.0


class Bell:
    """Wakes all threads that poll its latch; each looks for itself whether it was meant.

    One descriptor serves many mailboxes. A thread takes `latch` first, then looks at its flag,
    then polls: whoever sets the flag and rings is seen either by the look or by the poll.
    """

    def __init__(self) -> None:
        self.latch = Latch()
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Any thread may call. Out of descriptors nobody is woken: all waits end by themselves."""
        with self._lock, suppress(OSError):
            old, self.latch = self.latch, Latch()
            old.set()

    def ring_for_good(self) -> None:
        """Wake all, now and whenever they wait again: for those that are all to stop."""
        self.latch.set()


class Stop:
    """Asks one mailbox's thread to stop; once set it stays set. Any thread may call."""

    __slots__ = ("_is_set", "bell")

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self._is_set = False

    def set(self) -> None:
        """Wake the thread in whatever wait it is."""
        self.announce()
        self.bell.ring()

    def announce(self) -> None:
        """Set the flag and leave the ringing of the shared bell to the caller."""
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait for the stop; True when it came."""
        end = time.monotonic() + seconds
        while True:
            latch, left = self.bell.latch, end - time.monotonic()
            if self._is_set or left <= 0:
                return self._is_set
            with away:
                latch.wait(min(left, LOOK_AGAIN_SECONDS))

    def check(self) -> None:
        """
        Raises:
            Interrupted: the stop is set.
        """
        if self._is_set:
            raise Interrupted("stopping")


class Bells:
    """Bells for many mailboxes, each shared by a few, so that descriptors are not doubled."""

    SHARED_BY = 64

    def __init__(self) -> None:
        self._given = 0
        self._bell = Bell()

    def next(self) -> Bell:
        """The bell for the next mailbox."""
        if self._given == self.SHARED_BY:
            self._given, self._bell = 0, Bell()
        self._given += 1
        return self._bell
