"""Slots: how many at once, in which order; and the circuit breaker."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebreak_idle.limits import Backoff, CircuitBreaker, Slot, Slots

LONG_SECONDS = 10.0


def nobody() -> None:
    """Whom nobody waits for."""


def test_free_slots_are_granted_at_once() -> None:
    """While slots are free nobody waits."""
    slots = Slots(2)
    assert [slots.request(nobody).granted for _ in range(3)] == [True, True, False]


def test_the_line_is_served_in_order() -> None:
    """Slots go to those who wait in the order in which they came."""
    slots = Slots(1)
    line = [slots.request(nobody) for _ in range(5)]
    for position, slot in enumerate(line):
        assert [other.granted for other in line] == [n <= position for n in range(5)]
        slot.release()


def test_giving_up() -> None:
    """Whoever gives up waiting is passed over, and takes no slot with him."""
    slots = Slots(1)
    first, second, third = (slots.request(nobody) for _ in range(3))
    second.release()
    assert not third.granted
    first.release()
    assert (second.granted, third.granted) == (False, True)
    third.release()
    assert slots.request(nobody).granted


def test_who_is_granted_is_woken() -> None:
    """A thread that waits goes on as soon as its slot is free, and no other is woken."""
    slots = Slots(1)
    woken, other = threading.Event(), threading.Event()
    first, second = slots.request(nobody), slots.request(woken.set)
    slots.request(other.set)
    assert not woken.is_set()
    first.release()
    assert woken.is_set()
    assert second.granted
    assert not other.is_set()


@pytest.mark.parametrize("size", [1, 3])
def test_never_more_than_there_are_slots(size: int) -> None:
    """Under many threads that come, wait, give up and go, the bound holds and no slot is lost."""
    slots, counter = Slots(size), threading.Lock()
    inside, most, served = 0, 0, 0

    def visit(number: int) -> None:
        nonlocal inside, most, served
        woken = threading.Event()
        slot = slots.request(woken.set)
        try:
            # Every fifth gives up at once, unless it is its turn.
            if not slot.granted and (number % 5 == 0 or not woken.wait(LONG_SECONDS)):
                return
            with counter:
                inside += 1
                served += 1
                most = max(most, inside)
            with counter:
                inside -= 1
        finally:
            slot.release()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(visit, range(1000)))
    assert 1 <= most <= size
    assert served >= 800
    free = [slots.request(nobody).granted for _ in range(size + 1)]
    assert free == [True] * size + [False]


@given(st.integers(1, 4), st.lists(st.integers(0, 9), max_size=60))
@settings(deadline=None)
def test_slots_are_a_queue(size: int, steps: list[int]) -> None:
    """In any order of coming and going, exactly the oldest of those who are there have slots."""
    slots = Slots(size)
    here: deque[Slot] = deque()
    for step in steps:
        if step < len(here):
            here[step].release()
            del here[step]
        else:
            here.append(slots.request(nobody))
        assert [slot.granted for slot in here] == [n < size for n in range(len(here))]


# The circuit breaker


def breaker(threshold: int, now: list[float]) -> CircuitBreaker:
    return CircuitBreaker(threshold, Backoff(5, 300, lambda: 0.0), lambda: now[0])


def test_a_breaker_opens_at_failures_of_different_callers() -> None:
    """The same caller may fail as often as it will; a success in between counts from anew."""
    subject = breaker(3, [0.0])
    for _ in range(9):
        assert not subject.record_failure("a")
    subject.record_failure("b")
    assert not subject.record_success()
    assert not subject.record_failure("b")
    assert not subject.record_failure("c")
    assert subject.record_failure("d")
    assert subject.is_open


def test_only_probes_count_while_it_is_open() -> None:
    """The wait for the next probe grows with probes that fail, and with nobody else."""
    now = [0.0]
    subject = breaker(1, now)
    assert subject.record_failure("a")
    assert subject.probe_in_seconds == 5
    subject.record_failure("b")
    assert subject.probe_in_seconds == 5
    now[0] = 5
    subject.record_failure("b", probe=True)
    assert subject.probe_in_seconds == 10
    subject.record_failure("c", probe=True, wait_seconds=60)
    assert subject.probe_in_seconds == 60
    assert subject.record_success()
    assert not subject.is_open
    assert not subject.record_success()


def test_slots_that_become_one_keep_holders_and_line() -> None:
    """Those of both count, and whoever waited at either is served."""
    slots, other = Slots(2), Slots(2)
    held = [each.request(nobody) for each in (slots, slots, other, other)]
    waiting = [slots.request(nobody), other.request(nobody)]
    slots.absorb(other)
    late = slots.request(nobody)
    for slot in held[2:]:
        slot.release()
    assert not any(slot.granted for slot in waiting)  # two are held, as many as may be
    for slot, following in zip(held[:2], waiting, strict=True):
        slot.release()
        assert following.granted
    assert not late.granted
    for slot in waiting:
        slot.release()
    late.release()
    assert [slots.request(nobody).granted for _ in range(3)] == [True, True, False]


def test_who_gives_up_where_slots_became_one() -> None:
    """A place in the line of either is left as ever."""
    slots, other = Slots(1), Slots(1)
    first, second, third = slots.request(nobody), other.request(nobody), other.request(nobody)
    slots.absorb(other)
    third.release()
    second.release()
    first.release()
    assert slots.request(nobody).granted
