"""Waking a mailbox's thread, whatever it waits on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rebreak_idle.errors import Interrupted
from rebreak_idle.wake import Stop

LONG_SECONDS = 10.0


def test_a_stop_is_not_set_at_first() -> None:
    """Nothing stops before it was asked to."""
    stop = Stop()
    assert not stop.is_set()
    assert not stop.wait(0)
    stop.check()


def test_a_stop_stays_set() -> None:
    """Once set it is set, and every look at it says so."""
    stop = Stop()
    stop.set()
    stop.set()
    assert stop.is_set()
    assert stop.wait(0)
    assert stop.wait(-1)
    assert stop.wait(LONG_SECONDS)
    with pytest.raises(Interrupted):
        stop.check()


@pytest.mark.parametrize("seconds", [1.5, LONG_SECONDS], ids=["short", "long"])
def test_a_stop_wakes_a_wait(seconds: float) -> None:
    """A thread in a wait of the stop is woken."""
    stop = Stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stop.wait, seconds)
        stop.set()
        assert waiting.result(LONG_SECONDS / 2)


def test_a_wait_without_a_stop_lasts() -> None:
    """Whatever else the signal is set for, the wait goes on until its time is up."""
    stop = Stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stop.wait, 0.3)
        stop.signal.set()
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        assert not waiting.result(LONG_SECONDS)


def test_no_stop_is_missed() -> None:
    """However the stop falls between the look and the wait, the thread ends."""
    for _ in range(50):
        stops = [Stop() for _ in range(8)]
        go = threading.Barrier(len(stops) + 1, timeout=LONG_SECONDS)

        def listen(stop: Stop, go: threading.Barrier = go) -> bool:
            go.wait()
            return stop.wait(LONG_SECONDS)

        with ThreadPoolExecutor(len(stops)) as pool:
            listening = [pool.submit(listen, stop) for stop in stops]
            go.wait()
            for stop in stops:
                stop.set()
            assert all(future.result(LONG_SECONDS / 2) for future in listening)
