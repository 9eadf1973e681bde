"""When the rows are read."""

import queue

import pytest

from rebreak_idle.errors import DatabaseError
from rebreak_idle.reading import Reading

Ended = queue.SimpleQueue[str | int]


class Rows:
    """What a reading brings; an error is raised."""

    def __init__(self) -> None:
        self.result: int | DatabaseError = 1

    def read(self) -> int:
        if isinstance(self.result, DatabaseError):
            raise self.result
        return self.result


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def ended() -> Ended:
    return queue.SimpleQueue()


@pytest.fixture
def reading(rows: Rows, ended: Ended) -> Reading[int]:
    return Reading(rows.read, ended.put, 300.0)


def test_a_change_is_read_at_once(reading: Reading[int], ended: Ended) -> None:
    """The interval need not be over."""
    reading.start_if_due()
    assert ended.get(timeout=20) == 1
    reading.done()
    assert reading.wait_seconds
    reading.changed()
    assert reading.wait_seconds == 0


def test_a_change_does_not_shorten_the_wait_after_a_failure(
    reading: Reading[int], rows: Rows, ended: Ended
) -> None:
    """The log named that wait; who asks by a signal gets it at once all the same."""
    rows.result = DatabaseError("a column is missing")
    reading.start_if_due()
    assert ended.get(timeout=20) == "a column is missing"
    assert reading.failed() > 0
    reading.changed()
    assert reading.wait_seconds
    reading.ask()
    assert reading.wait_seconds == 0
