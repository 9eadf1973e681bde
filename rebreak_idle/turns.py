"""Threads that run in turn, and wake each other.

Only one thread can have the interpreter. A thousand that want it at once spend more time on the
fight for it than on their work, so whoever is woken sleeps on until it is its turn.
"""

from __future__ import annotations

import math
import os
import resource
import select
import threading
from collections import deque
from contextlib import suppress

# One has the interpreter while the other is in a system call.
AT_ONCE = 2
# For the database, the backend, modules that are being read and the like.
SPARE_DESCRIPTORS = 128
# `poll` takes its time-out as milliseconds in 32 bits; whoever waits for longer waits again.
LONGEST_POLL_SECONDS = 86400.0


class Latch:
    """A descriptor that is readable for ever once `set` was called."""

    def __init__(self) -> None:
        self._read = self._write = -1  # should there be no descriptor left
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # not Linux
            self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        os.write(self._write, (1).to_bytes(8, "little"))

    def wait(self, seconds: float) -> bool:
        """Whether it was set within so many seconds, or a day."""
        poller = select.poll()
        poller.register(self, select.POLLIN)
        return bool(poller.poll(min(max(0.0, seconds), LONGEST_POLL_SECONDS) * 1000))

    def __del__(self) -> None:
        for descriptor in {self._read, self._write} - {-1}:
            os.close(descriptor)


class _LockSleep:
    """A sleep on a lock: quicker to begin and to end than one on a latch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Once, by another thread."""
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Whether it was set within so many seconds."""
        return self._lock.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX))


_Sleep = _LockSleep | Latch


class _Turns:
    """Who may run, and who is next."""

    def __init__(self, at_once: int) -> None:
        self.lock = threading.Lock()
        self._free = at_once
        self._line: deque[_Sleep] = deque()

    def take(self, sleep: _Sleep | None = None) -> bool:
        """Take a turn if one is free, else stand in line. Called with the lock held."""
        if self._free > 0:
            self._free -= 1
            return True
        if sleep is not None:
            self._line.append(sleep)
        return False

    def give(self) -> None:
        """Give up a turn; the next in line wakes up with it."""
        with self.lock:
            if not self._line:
                self._free += 1
                return
            sleep = self._line.popleft()
        sleep.set()

    def wait_for_one(self) -> None:
        """Return when it is this thread's turn."""
        with self.lock:
            if self.take():
                return
            sleep = _LockSleep()
            self.take(sleep)
        sleep.wait(math.inf)


_turns = _Turns(AT_ONCE)


class _Turn:
    """``with turn:`` – run in turn with others; for a thread, from its first step to its last."""

    def __enter__(self) -> None:
        _turns.wait_for_one()

    def __exit__(self, *_: object) -> None:
        _turns.give()


class _Away:
    """``with away:`` – give up the turn for what may block.

    Nothing may block for long without this, or in the wait for a `Signal`: others would wait too.
    """

    def __enter__(self) -> None:
        _turns.give()

    def __exit__(self, *_: object) -> None:
        _turns.wait_for_one()


turn = _Turn()
away = _Away()


class Signal:
    """Wakes the one thread that waits for it, and is unset with that; it may be set before.

    The wait gives up the turn, as `away` does.
    """

    __slots__ = ("_is_set", "_make_sleep", "_sleep")

    def __init__(self, thousands_wait: bool = False) -> None:
        self._make_sleep = _long_sleep if thousands_wait else _LockSleep
        self._is_set = False
        self._sleep: _Sleep | None = None

    def set(self) -> None:
        """Any thread may call."""
        with _turns.lock:
            self._is_set = True
            sleep = self._sleep
            due = sleep is not None and _turns.take(sleep)
            self._sleep = None
        if due and sleep is not None:
            sleep.set()

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most ``seconds``, and then for the turn; whether it was set."""
        sleep = self._make_sleep()
        with _turns.lock:
            if self._is_set:
                self._is_set = False
                return True
            self._sleep = sleep
        _turns.give()
        if not sleep.wait(seconds):
            self._get_up(sleep)
        with _turns.lock:
            was_set, self._is_set = self._is_set, False
        return was_set

    def _get_up(self, sleep: _Sleep) -> None:
        """The time is up, unless it is set in this very moment."""
        with _turns.lock:
            asleep, self._sleep = self._sleep is not None, None
            if asleep and _turns.take(sleep):
                return
        while not sleep.wait(math.inf):
            pass


def _long_sleep() -> _Sleep:
    """A sleep for thousands of sleepers.

    Linux keeps all that sleep on locks in a few chains, and each wake-up searches one of them
    (futex(7)): with ten thousand sleepers that would be most of what the whole daemon does. But
    descriptors are for sessions first, so the last few are not slept on.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError):  # none is left
        latch = Latch()
        if latch.fileno() < most - SPARE_DESCRIPTORS:  # the lowest that is free is given
            return latch
    return _LockSleep()
