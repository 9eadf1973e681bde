"""Waking threads, whatever they wait on."""

from __future__ import annotations

import gc
import os
import select
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rebreak_idle.errors import Interrupted
from rebreak_idle.turns import Latch
from rebreak_idle.wake import Bell, Bells, Stop

LONG_SECONDS = 10.0


def is_readable(latch: Latch, seconds: float = 0.0) -> bool:
    """Whether the latch is set, waited for."""
    poller = select.poll()
    poller.register(latch, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def open_descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_latch_stays_set() -> None:
    """A latch is silent until it is set, and readable ever after."""
    latch = Latch()
    assert not is_readable(latch)
    latch.set()
    latch.set()
    assert is_readable(latch)
    assert is_readable(latch)


def test_a_latch_is_not_inherited() -> None:
    """Programs that are started do not get the descriptor."""
    assert not os.get_inheritable(Latch().fileno())


def test_a_stop_is_not_set_at_first() -> None:
    """Nothing stops before it was asked to."""
    stop = Stop(Bell())
    assert not stop.is_set()
    assert not stop.wait(0)
    stop.check()


def test_a_stop_stays_set() -> None:
    """Once set it is set, and every look at it says so."""
    stop = Stop(Bell())
    stop.set()
    stop.set()
    assert stop.is_set()
    assert stop.wait(0)
    assert stop.wait(-1)
    with pytest.raises(Interrupted):
        stop.check()


def test_a_stop_wakes_a_poll() -> None:
    """A thread in a poll on the bell's latch is woken."""
    stop = Stop(Bell())
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(is_readable, stop.bell.latch, LONG_SECONDS)
        stop.set()
        assert polling.result(LONG_SECONDS / 2)


def test_a_stop_wakes_a_wait() -> None:
    """A thread in a wait of the stop is woken."""
    stop = Stop(Bell())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stop.wait, LONG_SECONDS)
        stop.set()
        assert waiting.result(LONG_SECONDS / 2)


def test_a_ring_before_the_poll_is_seen() -> None:
    """Whoever took the latch before the ring sees it in the poll after it."""
    stop = Stop(Bell())
    latch = stop.bell.latch
    stop.set()
    assert is_readable(latch)


def test_a_ring_is_for_those_who_listen() -> None:
    """After a ring the bell has a new latch, so that nobody is woken again and again."""
    bell = Bell()
    before = bell.latch
    bell.ring()
    assert bell.latch is not before
    assert not is_readable(bell.latch)


def test_announcing_comes_before_ringing() -> None:
    """An announced stop is set without a ring; one ring then wakes all who share the bell."""
    bell = Bell()
    stops = [Stop(bell) for _ in range(3)]
    latch = bell.latch
    for stop in stops:
        stop.announce()
    assert all(stop.is_set() for stop in stops)
    assert not is_readable(latch)
    bell.ring()
    assert is_readable(latch)


def test_a_ring_for_others_ends_no_wait() -> None:
    """A wait of the stop itself goes on until it is set, whoever the bell rings for."""
    stop = Stop(Bell())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stop.wait, LONG_SECONDS)
        stop.bell.ring()
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        stop.announce()
        stop.bell.ring()
        assert waiting.result(LONG_SECONDS / 2)


def test_stops_that_share_a_bell_are_told_apart() -> None:
    """A ring for one wakes the others too, who see that it was not meant for them."""
    bell = Bell()
    mine, yours = Stop(bell), Stop(bell)
    latch = bell.latch
    mine.set()
    assert is_readable(latch)
    assert (mine.is_set(), yours.is_set()) == (True, False)
    yours.check()


def test_no_stop_is_missed() -> None:
    """Latch, flag, poll: however the stop falls between these steps, the thread ends."""

    def listen(stop: Stop) -> bool:
        while True:
            latch = stop.bell.latch
            if stop.is_set():
                return True
            if not is_readable(latch, LONG_SECONDS):
                return False

    for _ in range(20):
        bell = Bell()
        stops = [Stop(bell) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            listening = [pool.submit(listen, stop) for stop in stops]
            for stop in stops:
                stop.set()
            assert all(future.result(LONG_SECONDS / 2) for future in listening)


def test_ringing_leaks_no_descriptor() -> None:
    """However often a bell rings, it keeps one latch."""
    bell = Bell()
    before = open_descriptors()
    for _ in range(500):
        bell.ring()
    assert open_descriptors() == before


def test_ringing_from_many_threads_leaks_no_descriptor() -> None:
    """Threads that ring and poll at once leave no descriptor behind and get no error."""
    bell = Bell()
    before = open_descriptors()
    go = threading.Barrier(8, timeout=LONG_SECONDS)

    def ring_and_poll() -> None:
        go.wait()
        for _ in range(200):
            latch = bell.latch
            bell.ring()
            assert is_readable(latch, LONG_SECONDS)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(ring_and_poll) for _ in range(8)]:
            future.result(LONG_SECONDS)
    assert open_descriptors() == before


def test_bells_are_closed_with_their_owners() -> None:
    """Mailboxes that are gone leave no descriptor behind."""
    before = open_descriptors()
    stops = [Stop(Bell()) for _ in range(50)]
    assert open_descriptors() == before + 50
    del stops
    assert open_descriptors() == before


def test_a_bell_is_shared_by_a_few() -> None:
    """Bells are handed out so that each serves a bounded number of mailboxes."""
    bells = Bells()
    given = [bells.next() for _ in range(3 * Bells.SHARED_BY)]
    assert len(set(given)) == 3
    assert {given.count(bell) for bell in set(given)} == {Bells.SHARED_BY}
