"""Shared threads for what goes deep: passwords, TLS handshakes, logins, EXAMINE.

The memory of a stack that was touched once stays touched. Thousands of threads that wait keep
small ones if a few others do what needs a deep one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .turns import Signal, turn

T = TypeVar("T")

# A thread that had nothing to do for so long ends, and with it its stack.
IDLE_SECONDS = 20.0
# Beyond the connections that are made at once, so that mailboxes' own stacks stay small.
MOST_HANDS = 256


class Crew:
    """Does tasks on shared threads, of which there are as many as it takes. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[_Hand] = []
        self._hands = 0

    def do(self, task: Callable[[], T]) -> T:
        """Do the task and wait for its end; returns or raises what it does.

        Where all threads are at work and no further one is to be had the caller does it itself, so
        that no task waits for another.
        """
        hand = self._free_hand()
        if hand is None:
            return task()
        done = _Outcome(task)
        hand.take(done)
        return done.wait()  # type: ignore[no-any-return]

    def rest(self, hand: _Hand) -> None:
        """The hand is free. Called by the hand."""
        with self._lock:
            self._free.append(hand)

    def leave(self, hand: _Hand) -> bool:
        """The hand would like to go; False where it was just taken. Called by the hand."""
        with self._lock:
            if hand not in self._free:
                return False
            self._free.remove(hand)
            self._hands -= 1
            return True

    def _free_hand(self) -> _Hand | None:
        """The one that worked last, or a new one."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._hands == MOST_HANDS:
                return None
            self._hands += 1
        hand = _Hand(self)
        try:
            hand.start()
        except RuntimeError:  # the system gives no more threads
            with self._lock:
                self._hands -= 1
            return None
        return hand


class _Outcome:
    """A task under way, and what became of it."""

    def __init__(self, task: Callable[[], Any]) -> None:
        self._task = task
        self._done = Signal()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._task()
        except BaseException as error:  # noqa: BLE001  # it is raised where it was waited for
            self._error = error
        self._done.set()

    def wait(self) -> Any:
        self._done.wait(math.inf)
        try:
            if self._error is not None:
                raise self._error
            return self._result
        finally:
            self._error = None  # an error that knows the frame that knows the error is a cycle


class _Hand(threading.Thread):
    """One of the threads."""

    def __init__(self, crew: Crew) -> None:
        super().__init__(name="idle-crew", daemon=True)
        self._crew = crew
        self._next: _Outcome | None = None
        self._given = Signal()

    def take(self, task: _Outcome) -> None:
        """Called by whoever took this thread out of the free ones."""
        self._next = task
        self._given.set()

    def run(self) -> None:
        with turn:
            while self._is_given() and (task := self._next) is not None:
                self._next = None
                task.run()
                del task
                self._crew.rest(self)

    def _is_given(self) -> bool:
        """Wait for the next task; False when nobody had one for long."""
        if self._given.wait(IDLE_SECONDS):
            return True
        if self._crew.leave(self):
            return False
        self._given.wait(math.inf)  # taken in this very moment
        return True
