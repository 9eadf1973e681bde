"""Simulated time: threads that run in turns, and what they wait for."""

import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from rebreak_idle.scan.line import ScanLine
from rebreak_idle.worker import IdleWorker

# A turn that does not come back in this time is a deadlock of the simulation.
TURN_SECONDS = 20.0


class Turns:
    """The clock, and whose turn it is."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._tasks: dict[threading.Thread, _Task] = {}
        self._current: _Task | None = None
        self._back = threading.Semaphore(0)
        self.given = 0
        """How often a thread was woken."""

    def clock(self) -> float:
        return self.now

    def add(self, thread: threading.Thread) -> None:
        self._tasks[thread] = _Task()

    def first_turn(self, thread: threading.Thread) -> None:
        """On the thread: wait to be let in."""
        assert self._tasks[thread].turn.acquire(timeout=TURN_SECONDS)

    def last_turn(self, thread: threading.Thread) -> None:
        """On the thread: it ends."""
        del self._tasks[thread]
        self._back.release()

    def wait(self, until: float, ready: Callable[[], bool] = lambda: False) -> bool:
        """On the thread whose turn it is: wait in simulated time; whether `ready` came true."""
        task = self._current
        assert task is not None
        task.until, task.ready = until, ready
        self._back.release()
        assert task.turn.acquire(timeout=TURN_SECONDS)
        return ready()

    def run_until(self, end: float, between: Callable[[], None]) -> None:
        """Let everybody do what is due up to `end`; `between` is called between the turns."""
        while True:
            between()
            task = self._due()
            if task is None:
                upcoming = min((t.until for t in self._tasks.values()), default=math.inf)
                if upcoming > end:
                    self.now = end
                    return
                self.now = max(self.now, upcoming)
                continue
            self._current = task
            self.given += 1
            task.turn.release()
            assert self._back.acquire(timeout=TURN_SECONDS), "a worker did not give its turn back"

    def _due(self) -> "_Task | None":
        tasks = self._tasks.values()
        return next((task for task in tasks if task.until <= self.now or task.ready()), None)


@dataclass
class _Task:
    until: float = 0.0
    ready: Callable[[], bool] = lambda: True
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class SimulatedEvent(threading.Event):
    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns

    def wait(self, timeout: float | None = None) -> bool:
        until = math.inf if timeout is None else self._turns.now + max(0.0, timeout)
        return self._turns.wait(until, self.is_set)


class SimulatedConnects(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """On the worker's own thread, whose turn it is."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class SimulatedPool(Executor):
    """So many threads that take tasks in order, each in its turn."""

    def __init__(self, turns: Turns, size: int) -> None:
        self._turns = turns
        self._tasks: deque[Callable[[], object]] = deque()
        self._ended = False
        self._threads = [threading.Thread(target=self._run, name="scan") for _ in range(size)]
        for thread in self._threads:
            turns.add(thread)
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._tasks.append(fn)
        return Future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended = True

    def _run(self) -> None:
        thread = threading.current_thread()
        self._turns.first_turn(thread)
        while self._turns.wait(math.inf, lambda: bool(self._tasks) or self._ended):
            if self._ended:
                break
            self._tasks.popleft()()
        self._turns.last_turn(thread)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TURN_SECONDS)
            assert not thread.is_alive()


class SimulatedLine(ScanLine):
    turns: Turns

    def pause(self, seconds: float | None) -> None:
        """The wait for a change, without the lock that others need."""
        until = math.inf if seconds is None else self.turns.now + seconds
        self._changed.release()
        try:
            self.turns.wait(until, self._may_go_on)
        finally:
            self._changed.acquire()

    def _may_go_on(self) -> bool:
        due = not self._is_probing and self._breaker.probe_in_seconds <= 0
        return self._is_stopping or not self._breaker.is_open or due


class SimulatedWorker(IdleWorker):
    turns: Turns

    def start(self) -> None:
        self.turns.add(self)
        super().start()

    def run(self) -> None:
        self.turns.first_turn(self)
        try:
            super().run()
        finally:
            self.turns.last_turn(self)
