"""One thread that waits for the sockets and the intervals of all the others."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from waiting import wait_for

from rebreak_idle.poller import (
    READABLE,
    SHORT_SECONDS,
    TICK_SECONDS,
    WOKEN_AT_ONCE,
    WRITABLE,
    OwnWatch,
    Poller,
    Watch,
    poller,
)
from rebreak_idle.turns import Signal, turn

LONG_SECONDS = 10.0
SHORT = 0.05


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        yield mine, theirs


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as pool:
        yield pool


def watch_of(sock: socket.socket, signal: Signal, kind: str) -> Watch:
    if kind == "own":
        return OwnWatch(sock.fileno())
    return poller.watch(sock.fileno(), signal, urgent=kind == "urgent")


KINDS = pytest.mark.parametrize("kind", ["ordinary", "urgent", "own"])
Pair = tuple[socket.socket, socket.socket]


@KINDS
def test_what_is_there_ends_the_wait(pair: Pair, kind: str) -> None:
    """Data that came before the wait, and again as long as it is not read."""
    watch = watch_of(pair[0], Signal(), kind)
    pair[1].send(b"x")
    assert watch.wait(READABLE, LONG_SECONDS)
    assert watch.wait(READABLE, LONG_SECONDS)
    watch.close()


@KINDS
def test_what_comes_ends_the_wait(pair: Pair, kind: str, pool: ThreadPoolExecutor) -> None:
    """Data, and the end of the connection."""
    watch = watch_of(pair[0], Signal(), kind)

    def wait() -> bool:
        with turn:
            return wait_long(watch)

    waiting = pool.submit(wait)
    pair[1].send(b"x")
    assert waiting.result(LONG_SECONDS)
    pair[0].recv(1)
    waiting = pool.submit(wait)
    pair[1].close()
    assert waiting.result(LONG_SECONDS)
    watch.close()


def wait_long(watch: Watch) -> bool:
    """Wait until it is ready; a wait may end early."""
    end = time.monotonic() + LONG_SECONDS
    while time.monotonic() < end:
        if watch.wait(READABLE, LONG_SECONDS):
            return True
    return False


@KINDS
@pytest.mark.parametrize("seconds", [-1.0, 0.0, SHORT])
def test_nothing_comes(pair: Pair, kind: str, seconds: float) -> None:
    """The time is up."""
    watch = watch_of(pair[0], Signal(), kind)
    assert not watch.wait(READABLE, seconds)
    watch.close()


def test_it_waits_for_what_it_is_asked_for(pair: Pair) -> None:
    """Room to write is there while nothing is to be read."""
    watch = watch_of(pair[0], Signal(), "ordinary")
    assert watch.wait(WRITABLE, LONG_SECONDS)
    assert not watch.wait(READABLE, SHORT)
    watch.close()


@pytest.mark.parametrize("seconds", [SHORT_SECONDS / 2, LONG_SECONDS], ids=["short", "long"])
def test_a_signal_ends_the_wait(pair: Pair, seconds: float, pool: ThreadPoolExecutor) -> None:
    """Whoever sets it; the descriptor is not ready for all that."""
    signal = Signal()
    watch = poller.watch(pair[0].fileno(), signal)
    waiting = pool.submit(watch.wait, READABLE, seconds)
    signal.set()
    assert not waiting.result(LONG_SECONDS / 2)
    watch.close()


def test_a_descriptor_that_is_used_again(pair: Pair) -> None:
    """A number that the system gives anew is told to its new owner."""
    number = pair[0].fileno()
    poller.watch(number, Signal()).close()
    watch = poller.watch(number, Signal())
    pair[1].send(b"x")
    assert watch.wait(READABLE, LONG_SECONDS)
    watch.close()


def test_a_long_sleep_ends_in_time() -> None:
    """Not late, and at most a tick early."""
    seconds = SHORT_SECONDS + 0.05
    began = time.monotonic()
    poller.sleep(Signal(), seconds)
    assert time.monotonic() - began >= seconds - TICK_SECONDS


def test_a_sleep_that_ends_before_all_others(pool: ThreadPoolExecutor) -> None:
    """The poller is told when it has to be back sooner."""
    others = [Signal() for _ in range(20)]
    sleeping = [pool.submit(poller.sleep, signal, 3600.0) for signal in others]
    poller.sleep(Signal(), SHORT_SECONDS)
    for signal in others:
        signal.set()
    for each in sleeping:
        each.result(LONG_SECONDS)


def test_who_was_woken_is_no_longer_waited_for() -> None:
    """A sleep that ended leaves nothing behind that would keep the sleeper in memory."""
    signal = Signal()
    signal.set()
    poller.sleep(signal, 3600.0)
    assert not any(signal in sleepers for sleepers in poller._sleepers.values())


def test_many_are_woken_in_turn(pool: ThreadPoolExecutor) -> None:
    """More than are woken at once, urgent and not: all of them are."""
    pairs = [socket.socketpair() for _ in range(3 * WOKEN_AT_ONCE)]
    watches = [
        poller.watch(mine.fileno(), Signal(), urgent=number % 3 == 0)
        for number, (mine, _) in enumerate(pairs)
    ]

    def wait(watch: Watch) -> bool:
        with turn:
            return wait_long(watch)

    waiting = [pool.submit(wait, watch) for watch in watches]
    for _, theirs in pairs:
        theirs.send(b"x")
    assert all(each.result(LONG_SECONDS) for each in waiting)
    for watch, both in zip(watches, pairs, strict=True):
        watch.close()
        for sock in both:
            sock.close()


class Failing(Signal):
    """Fails the first time it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = False

    def set(self) -> None:
        if not self.failed:
            self.failed = True
            raise MemoryError
        super().set()


def test_trouble_keeps_nobody_asleep(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in the poller's own thread: all that were to be woken are, later."""
    monkeypatch.setattr("rebreak_idle.poller.PAUSE_SECONDS", 0.01)
    pairs = [socket.socketpair() for _ in range(4)]
    signals = [Failing(), Signal(), Signal(), Signal()]
    with turn:  # the poller comes after all of this, and finds it in one piece
        watches = [
            poller.watch(pair[0].fileno(), signal)
            for pair, signal in zip(pairs, signals, strict=True)
        ]
        for pair in pairs:
            pair[1].send(b"x")
        waiting = [pool.submit(wait_long, watch) for watch in watches]
    assert all(each.result(LONG_SECONDS) for each in waiting)
    for watch, both in zip(watches, pairs, strict=True):
        watch.close()
        for sock in both:
            sock.close()


def test_trouble_with_sleepers_keeps_nobody_asleep(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for those whose time is up."""
    monkeypatch.setattr("rebreak_idle.poller.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("rebreak_idle.poller.TICK_SECONDS", 1.0)
    signals = [Failing(), Signal(), Signal(), Signal()]
    sleeping = [pool.submit(poller.sleep, signal, SHORT_SECONDS) for signal in signals]
    for each in sleeping:
        each.result(LONG_SECONDS)


def test_trouble_while_trouble_is_told(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that fails too does not end the waiting."""
    monkeypatch.setattr("rebreak_idle.poller.PAUSE_SECONDS", 0.01)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("rebreak_idle.poller.logger", SimpleNamespace(exception=fail))
    watch = poller.watch(pair[0].fileno(), Failing())
    pair[1].send(b"x")
    assert wait_long(watch)
    watch.close()


def test_who_does_not_wait_yet_costs_nothing(pair: Pair) -> None:
    """A connection that is gone before anybody waits for it does not keep the poller busy."""
    watch = poller.watch(pair[0].fileno(), Signal())
    pair[1].close()
    ordinary = poller._ordinary
    assert ordinary is not None
    wait_for(lambda: ordinary.poll(0) == [], LONG_SECONDS, "nothing more to be told")
    watch.close()


class Unstarted(Poller):
    """Has no thread of its own: a second one beside the process's would not let it rest."""

    def start(self) -> None: ...


def test_without_epoll(pair: Pair, pool: ThreadPoolExecutor) -> None:
    """Outside of Linux each thread waits for itself, and sleeps are ended all the same."""
    mine = Unstarted(has_epoll=False)
    watch = mine.watch(pair[0].fileno(), Signal())
    assert isinstance(watch, OwnWatch)
    began = time.monotonic()
    sleeping = pool.submit(mine.sleep, Signal(), SHORT_SECONDS)
    wait_for(mine._wake_some, LONG_SECONDS, "the end of the sleep")
    sleeping.result(LONG_SECONDS)
    assert time.monotonic() - began >= SHORT_SECONDS - TICK_SECONDS
    assert not watch.wait(READABLE, 0)
    os.write(pair[1].fileno(), b"x")
    assert watch.wait(READABLE, LONG_SECONDS)
    watch.close()
