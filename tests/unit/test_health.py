"""Whether the daemon calls itself well."""

from collections.abc import Callable

import pytest

from rebreak_idle.health import TURN_SECONDS, Health


class Loop:
    """The refresh loop, which turns when a test lets it; and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.posted: list[Callable[[], None]] = []
        self.health = Health(self.posted.append, 300.0, lambda: self.now)

    def turn(self) -> None:
        while self.posted:
            self.posted.pop()()


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_it_is_well_while_the_loop_turns_and_rows_are_read(loop: Loop) -> None:
    """A loop that takes a while, as at a start with many rows, is no problem."""
    loop.health.refreshed()
    for _ in range(10):
        assert loop.health.problem() == ""
        loop.now += TURN_SECONDS
        assert loop.health.problem() == ""
        loop.turn()
    assert len(loop.posted) <= 1


def test_a_loop_that_does_not_turn(loop: Loop) -> None:
    """It owes a sign of life; it is asked for one, and not again and again."""
    loop.health.refreshed()
    for _ in range(5):
        assert loop.health.problem() == ""
    assert len(loop.posted) == 1
    loop.now += 45
    assert loop.health.problem() == "the refresh loop has not turned for 45s"
    loop.turn()
    assert loop.health.problem() == ""


def test_rows_that_were_never_read_or_long_ago(loop: Loop) -> None:
    """Three intervals are borne; the age counts from the start where there was no reading."""
    assert loop.health.problem() == "the rows have not been read yet"
    loop.now += 50
    assert loop.health.refresh_age_seconds == 50
    loop.health.refreshed()
    loop.turn()
    loop.now += 900
    assert loop.health.problem() == ""
    loop.turn()
    loop.now += 1
    assert loop.health.problem() == "the rows were last read 901s ago"
    assert loop.health.refresh_age_seconds == 901
