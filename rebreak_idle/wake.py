"""Waking threads: a stop that reaches a thread in any wait, on a lock or on a socket."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from .errors import Interrupted

# No lock can be waited for longer than some centuries.
LONGEST_WAIT_SECONDS = 366 * 86400.0


class Latch:
    """A descriptor that is readable for ever once `set` was called."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # not Linux
            self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        os.write(self._write, (1).to_bytes(8, "little"))

    def __del__(self) -> None:
        for descriptor in {self._read, self._write}:
            os.close(descriptor)


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

    def __init__(self, bell: Bell) -> None:
        self.bell = bell
        self._event = threading.Event()

    def set(self) -> None:
        """Wake the thread in whatever wait it is."""
        self.announce()
        self.bell.ring()

    def announce(self) -> None:
        """Set the flag and leave the ringing of the shared bell to the caller."""
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the stop; True when it came."""
        return self._event.wait(min(max(0.0, seconds), LONGEST_WAIT_SECONDS))

    def check(self) -> None:
        """
        Raises:
            Interrupted: the stop is set.
        """
        if self._event.is_set():
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
