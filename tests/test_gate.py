"""The gate: how many at once, in which order."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebreak_idle.gate import Gate, Ticket

LONG_SECONDS = 10.0


def test_free_places_are_granted_at_once() -> None:
    """While places are free nobody waits."""
    gate = Gate(2)
    assert [gate.queue().granted, gate.queue().granted, gate.queue().granted] == [True, True, False]


def test_the_line_is_served_in_order() -> None:
    """Places go to those who wait in the order in which they came."""
    gate = Gate(1)
    tickets = [gate.queue() for _ in range(5)]
    for position, ticket in enumerate(tickets):
        assert [other.granted for other in tickets] == [n <= position for n in range(5)]
        ticket.leave()


def test_leaving_the_line() -> None:
    """Whoever leaves the line is passed over, and takes no place with him."""
    gate = Gate(1)
    first, second, third = gate.queue(), gate.queue(), gate.queue()
    second.leave()
    assert not third.granted
    first.leave()
    assert (second.granted, third.granted) == (False, True)
    third.leave()
    assert gate.queue().granted


def test_a_wait_that_ends_without_a_place_keeps_its_place_in_the_line() -> None:
    """A ticket whose wait timed out is still good."""
    gate = Gate(1)
    first, second, third = gate.queue(), gate.queue(), gate.queue()
    assert not second.wait(0.01)
    first.leave()
    assert second.wait(0)
    assert not third.granted


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_a_wait_of_no_time(seconds: float) -> None:
    """A wait whose time is over already looks once and returns."""
    gate = Gate(1)
    first, second = gate.queue(), gate.queue()
    assert first.wait(seconds)
    assert not second.wait(seconds)


def test_a_place_wakes_its_holder() -> None:
    """A thread that waits goes on as soon as its place is free."""
    gate = Gate(1)
    first, second = gate.queue(), gate.queue()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.wait, LONG_SECONDS)
        first.leave()
        assert waiting.result(LONG_SECONDS / 2)


def test_wake_ends_a_wait_without_a_place() -> None:
    """A holder can be made to look around; the place stays somebody else's."""
    gate = Gate(1)
    first, second = gate.queue(), gate.queue()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.wait, LONG_SECONDS)
        second.wake()
        assert waiting.result(LONG_SECONDS / 2) is False
    assert first.granted
    second.leave()
    first.leave()
    assert gate.queue().granted


def test_wake_before_the_wait_ends_it() -> None:
    """Whoever is woken before it waits looks around all the same."""
    gate = Gate(1)
    first, second = gate.queue(), gate.queue()
    second.wake()
    assert second.wait(LONG_SECONDS) is False
    first.leave()
    assert second.wait(0)


@pytest.mark.parametrize("places", [1, 3])
def test_never_more_than_there_are_places(places: int) -> None:
    """Under many threads that come, wait, give up and go, the bound holds and no place is lost."""
    gate, counter = Gate(places), threading.Lock()
    inside, most, served = 0, 0, 0

    def visit(number: int) -> None:
        nonlocal inside, most, served
        ticket = gate.queue()
        try:
            # Every fifth gives up at once, unless it is its turn.
            if not ticket.wait(0 if number % 5 == 0 else LONG_SECONDS):
                return
            with counter:
                inside += 1
                served += 1
                most = max(most, inside)
            with counter:
                inside -= 1
        finally:
            ticket.leave()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(visit, range(1000)))
    assert 1 <= most <= places
    assert served >= 800
    free = [gate.queue().granted for _ in range(places + 1)]
    assert free == [True] * places + [False]


@given(st.integers(1, 4), st.lists(st.integers(0, 9), max_size=60))
@settings(deadline=None)
def test_the_gate_is_a_queue(places: int, steps: list[int]) -> None:
    """In any order of coming and leaving, exactly the oldest of those who are there have places."""
    gate = Gate(places)
    here: deque[Ticket] = deque()
    for step in steps:
        if step < len(here):
            here[step].leave()
            del here[step]
        else:
            here.append(gate.queue())
        assert [ticket.granted for ticket in here] == [n < places for n in range(len(here))]
