"""Threads that run in turn, and wake each other.

Only one thread can have the interpreter. A thousand that want it at once spend more time on the
fight for it than on their work, so whoever is woken sleeps on until it is its turn.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress

# A second would only wait for the interpreter, and take it in the midst of each system call.
AT_ONCE = 1
# So many of those who begin are let in when nobody else has anything to do, and in any case after
# so many turns of others.
BEGIN_AT_ONCE = 8
BEGIN_AFTER_TURNS = 256
# A power of two; 64 bytes each.
SLEEPER_CHAINS = 4096


class _Turns:
    """Who may run, and who is next: locks, each held by its owner until the turn comes."""

    def __init__(self, at_once: int) -> None:
        self.lock = threading.Lock()
        self._free = self._at_once = at_once
        self._lent = 0
        self._line: deque[threading.Lock] = deque()
        self._beginners: deque[threading.Lock] = deque()
        self._given = self._given_before = 0

    def somebody_waits(self) -> bool:
        """Whether anybody stands in line for a turn."""
        return bool(self._line or self._beginners)

    def take(self, sleep: threading.Lock, begins: bool = False) -> bool:
        """Take a turn if one is free, else stand in line; who begins comes after all the others.
        Called with the lock held.
        """
        if self._free > 0:
            self._free -= 1
            return True
        (self._beginners if begins else self._line).append(sleep)
        return False

    def next(self) -> threading.Lock | None:
        """Give up a turn; who is to be released has it. Called with the lock held."""
        self._given += 1
        if sleep := self._first():
            return sleep
        if self._lent and self._free >= self._at_once:
            self._lent -= 1  # whoever hung is back
        else:
            self._free += 1
        return None

    def _first(self) -> threading.Lock | None:
        if not self._line or self._given % BEGIN_AFTER_TURNS == 0:
            few = min(BEGIN_AT_ONCE, len(self._beginners))
            self._line.extend(self._beginners.popleft() for _ in range(few))
        return self._line.popleft() if self._line else None

    def give(self) -> None:
        """Give up a turn; the next in line wakes up with it."""
        with self.lock:
            sleep = self.next()
        if sleep is not None:
            sleep.release()

    def relieve(self) -> None:
        """Let one more run if none has given up its turn since the last call though others wait.

        Whoever has it hangs in what should not block. To be called every few seconds, from outside
        of the turns.
        """
        with self.lock:
            sleep = self._first() if self._given == self._given_before else None
            self._given_before = self._given
            self._lent += sleep is not None
        if sleep is not None:
            sleep.release()

    def wait_for_one(self, begins: bool = False) -> None:
        """Return when it is this thread's turn."""
        sleep = threading.Lock()
        sleep.acquire()
        with self.lock:
            if self.take(sleep, begins):
                return
        sleep.acquire()


_turns = _Turns(AT_ONCE)
somebody_waits, relieve = _turns.somebody_waits, _turns.relieve


class _Turn:
    """``with turn:`` – run in turn with others; for a thread, from its first step to its last.

    ``with last_turn:`` – the same, but the first step comes when the others have nothing to do, or
    have had many turns: of thousands that begin a few are in the midst of it at a time.
    """

    def __init__(self, begins: bool) -> None:
        self._begins = begins

    def __enter__(self) -> None:
        _turns.wait_for_one(self._begins)

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


turn, last_turn = _Turn(begins=False), _Turn(begins=True)
away = _Away()


class Signal:
    """Wakes the one thread that waits for it, and is unset with that; it may be set before.

    The wait gives up the turn, as `away` does.
    """

    __slots__ = ("_asleep", "_is_set", "_sleep")

    def __init__(self) -> None:
        self._is_set = self._asleep = False
        self._sleep = threading.Lock()
        self._sleep.acquire()

    def set(self) -> None:
        """Any thread may call."""
        with _turns.lock:
            self._is_set = True
            due = self._asleep and _turns.take(self._sleep)
            self._asleep = False
        if due:
            self._sleep.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most ``seconds``, and then for the turn; whether it was set."""
        with _turns.lock:
            if self._is_set:
                self._is_set = False
                return True
            self._asleep = True
            next_one = _turns.next()
        if next_one is not None:
            next_one.release()
        # No timer for those who wait for ever, or for the poller.
        timeout = max(0.0, seconds) if seconds < threading.TIMEOUT_MAX else -1
        if not self._sleep.acquire(timeout=timeout):
            self._get_up()
        with _turns.lock:
            was_set, self._is_set = self._is_set, False
        return was_set

    def _get_up(self) -> None:
        """The time is up, unless it is set in this very moment."""
        with _turns.lock:
            asleep, self._asleep = self._asleep, False
            if asleep and _turns.take(self._sleep):
                return
        self._sleep.acquire()


def prepare_kernel() -> None:
    """Suit Linux to threads that run in turn; for all that are started afterwards.

    Whoever is woken shall not push aside who wakes it, who still has the interpreter
    (SCHED_BATCH, sched(7)). And a sleeper is to be found at once among thousands: since 6.16 a
    process has a table of its own for threads that sleep on locks, with 16 chains on two
    processors; with ten thousand sleepers the search would be most of what the daemon does
    (PR_FUTEX_HASH(2const)). Where the system refuses it is slower, no more.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with suppress(ImportError, OSError, AttributeError):
        import ctypes  # not in every Python

        pr_futex_hash, set_slots = 78, 1
        ctypes.CDLL(None).prctl(pr_futex_hash, set_slots, ctypes.c_ulong(SLEEPER_CHAINS), 0, 0)
