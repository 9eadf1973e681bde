"""One thread that waits for the sockets and the intervals of all the others.

Thousands of threads that wait in the kernel each for itself are all woken by it when mail comes to
all of them, and fight for the interpreter. Here a few are woken at a time, as it becomes their
turn.
"""

from __future__ import annotations

import heapq
import math
import os
import select
import threading
import time
from contextlib import suppress

from .log import database_logger as logger
from .turns import Signal, away, somebody_waits, turn

# Waits end up to this much early, together with others: that is less work than each for itself.
TICK_SECONDS = 0.2
# Shorter waits end by themselves, on time.
SHORT_SECONDS = 2.0
# Of those for whom something came at once, so many are woken before it is looked who was answered
# meanwhile: with more, places for scan requests are taken before others' are given back.
WOKEN_AT_ONCE = 8
# The longest that the poller waits itself, whatever comes.
LONGEST_SECONDS = 60.0
# The poller has trouble of its own: it tries again.
PAUSE_SECONDS = 1.0
# Without epoll: how soon a signal that is set is seen.
LOOK_UP_SECONDS = 1.0

# A peer that closed is ready to be read: Linux says so even while older data is unread.
READABLE = select.POLLIN | getattr(select, "POLLRDHUP", 0)
WRITABLE = select.POLLOUT


class EpollWatch:
    """A descriptor that one thread at a time waits for."""

    __slots__ = ("_descriptor", "_epoll", "_events", "_poller", "_ready", "_signal")

    def __init__(
        self, poller: Poller, epoll: select.epoll, descriptor: int, signal: Signal
    ) -> None:
        self._poller = poller
        self._epoll = epoll
        self._descriptor = descriptor
        self._signal = signal
        self._events = 0
        self._ready = False

    def wait(self, events: int, seconds: float) -> bool:
        """Wait until the descriptor is ready or the signal is set, at most ``seconds``.

        Returns whether it may be ready; the wait may end early. Gives up the turn.
        """
        if self._ready or events != self._events:  # else the last wait has not ended by this
            self._ready, self._events = False, 0
            self._epoll.modify(self._descriptor, events | select.EPOLLONESHOT)
            self._events = events
        self._poller.sleep(self._signal, seconds)
        return self._ready

    def fire(self) -> None:
        """It is ready. Called by the poller."""
        self._ready = True
        self._signal.set()

    def close(self) -> None:
        """To be called before the descriptor is closed."""
        with suppress(OSError):  # whatever became of it, it is watched no more
            self._epoll.unregister(self._descriptor)
        self._poller.forget(self._descriptor, self)


class OwnWatch:
    """The same without epoll, outside of Linux: each thread waits for itself.

    Nothing wakes it but the descriptor; it looks up once a second.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def wait(self, events: int, seconds: float) -> bool:
        waiting = select.poll()
        waiting.register(self._descriptor, events)
        with away:
            return bool(waiting.poll(min(max(0.0, seconds), LOOK_UP_SECONDS) * 1000))

    def close(self) -> None: ...


Watch = EpollWatch | OwnWatch


class Poller:
    """Waits for many. Any thread may call; its own thread is started when it is needed."""

    def __init__(self, has_epoll: bool = hasattr(select, "epoll")) -> None:
        self._lock = threading.Lock()
        self._started = False
        self._urgent = select.epoll() if has_epoll else None
        self._ordinary = select.epoll() if has_epoll else None
        self._watches: dict[int, EpollWatch] = {}
        self._ticks: list[int] = []
        self._sleepers: dict[int, set[Signal]] = {}
        self._due_now: tuple[Signal, ...] = ()
        self._in_trouble = False
        self._bell, self._ring = os.pipe()
        for descriptor in (self._bell, self._ring):
            os.set_blocking(descriptor, False)

    def start(self) -> None:
        """Start the thread, unless that was done."""
        if self._started:
            return
        with self._lock:
            if not self._started:
                threading.Thread(target=self._run, name="idle-poll", daemon=True).start()
                self._started = True

    def watch(self, descriptor: int, signal: Signal, urgent: bool = False) -> Watch:
        """Have ``signal`` set when the descriptor is ready while somebody waits for it.

        What is ``urgent`` comes first: who waits for it holds what others wait for.
        """
        self.start()
        epoll = self._urgent if urgent else self._ordinary
        if epoll is None:
            return OwnWatch(descriptor)
        self._watches[descriptor] = watch = EpollWatch(self, epoll, descriptor, signal)
        epoll.register(descriptor, select.EPOLLONESHOT)
        return watch

    def forget(self, descriptor: int, watch: EpollWatch) -> None:
        """The watch of that descriptor is closed."""
        if self._watches.get(descriptor) is watch:
            del self._watches[descriptor]

    def sleep(self, signal: Signal, seconds: float) -> None:
        """Wait until the signal is set, at most ``seconds``; may end early. Gives up the turn."""
        if seconds < SHORT_SECONDS:
            signal.wait(seconds)
            return
        self.start()
        tick = int((time.monotonic() + seconds) / TICK_SECONDS)
        with self._lock:
            if tick not in self._sleepers:
                self._add_tick(tick)
            sleepers = self._sleepers[tick]
            sleepers.add(signal)
        signal.wait(math.inf)
        sleepers.discard(signal)

    def _add_tick(self, tick: int) -> None:
        """Have the poller look up at the tick. Called with the lock held."""
        self._sleepers[tick] = set()
        heapq.heappush(self._ticks, tick)
        if self._ticks[0] == tick:
            with suppress(BlockingIOError):  # it has been told often enough
                os.write(self._ring, b"!")

    # On its own thread

    def _run(self) -> None:
        while True:
            try:
                self._serve()
            except Exception:  # noqa: BLE001  # all others wait for this thread
                self._in_trouble = True
                with suppress(Exception):
                    logger.exception("unexpected error while waiting for servers:")
                time.sleep(PAUSE_SECONDS)

    def _wake_all(self) -> None:
        """Let everybody look: some may not have been told of what came."""
        for watch in tuple(self._watches.values()):
            watch.fire()
        for sleepers in tuple(self._sleepers.values()):
            for signal in tuple(sleepers):
                signal.set()
        for signal in self._due_now:
            signal.set()
        self._in_trouble = False

    def _serve(self) -> None:
        if self._in_trouble:
            self._wake_all()
        asleep = select.poll()
        for descriptor in (self._urgent, self._ordinary, self._bell):
            if descriptor is not None:
                asleep.register(descriptor, select.POLLIN)
        with turn:
            while True:
                while self._wake_some() or somebody_waits():
                    with away:  # to the end of the line
                        pass
                with away:
                    asleep.poll(self._longest_seconds() * 1000)
                with suppress(BlockingIOError):
                    os.read(self._bell, 4096)

    def _wake_some(self) -> bool:
        """Wake those for whom something came or whose time is up; whether there were any."""
        ready = self._urgent.poll(0) if self._urgent else []
        ready += self._ordinary.poll(0, WOKEN_AT_ONCE) if self._ordinary else []
        for descriptor, _ in ready:
            if (watch := self._watches.get(descriptor)) is not None:
                watch.fire()
        self._due_now = self._due(time.monotonic() / TICK_SECONDS)
        for signal in self._due_now:
            signal.set()
        return bool(ready or self._due_now)

    def _due(self, now: float) -> tuple[Signal, ...]:
        """Those who sleep until the first of the ticks that have passed."""
        with self._lock:
            if not self._ticks or self._ticks[0] > now:
                return ()
            return tuple(self._sleepers.pop(heapq.heappop(self._ticks)))

    def _longest_seconds(self) -> float:
        with self._lock:
            if not self._ticks:
                return LONGEST_SECONDS
            left = self._ticks[0] * TICK_SECONDS - time.monotonic()
            return min(max(0.0, left), LONGEST_SECONDS)


poller = Poller()
