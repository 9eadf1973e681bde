"""Who is alive, by what was seen of the counters; no wall clock is read; the census."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from rebreak_idle.fleet import table
from rebreak_idle.fleet.beats import Beats
from rebreak_idle.fleet.census import TRIED_SECONDS, Census, take_census
from rebreak_idle.fleet.instance import Instance
from rebreak_idle.fleet.observation import Observation
from rebreak_idle.status import State, Status, Trouble, Who

FLEET = Path(table.__file__).parent
SILENCE = 30.0
ROW = Instance("b", "first", 1, False, "[]", False, "", 0, 0)


def observed(*sightings: tuple[float, Instance | None]) -> Observation:
    """An observation by "a" that saw these rows at these times, each reading in no time."""
    observation = Observation("a", SILENCE)
    for at, row in sightings:
        observation.saw([row] if row else [], at, at)
    return observation


def beat(number: int) -> Instance:
    return replace(ROW, beat=number)


def test_one_whose_counter_stood_still_for_the_silence_is_silent() -> None:
    """Not a moment earlier."""
    assert observed((0, ROW), (29.9, ROW)).silent() == []
    assert observed((0, ROW), (30, ROW)).silent() == [ROW]


def test_a_counter_that_moves_is_alive_from_then_on() -> None:
    """By whichever number, and also where another program of that name writes."""
    for moved in (beat(2), beat(0), replace(ROW, incarnation="second")):
        assert observed((0, ROW), (29, moved), (58, moved)).silent() == []
        assert observed((0, ROW), (29, moved), (59, moved)).silent() == [moved]


def test_what_else_changes_is_no_life() -> None:
    """Somebody who edits the row does not keep it alive."""
    edited = replace(ROW, watched=5, view="x")
    assert observed((0, ROW), (20, edited), (30, edited)).silent() == [edited]


def test_the_time_of_a_reading_does_not_count_against_it() -> None:
    """A row was seen at the end of the one and at the beginning of the other reading."""
    observation = Observation("a", SILENCE)
    observation.saw([ROW], 0, 5)
    observation.saw([ROW], 34, 60)
    assert observation.silent() == []
    observation.saw([ROW], 35, 60)
    assert observation.silent() == [ROW]


def test_after_a_break_everybody_is_alive_from_the_next_reading_on() -> None:
    """The others may have beaten meanwhile."""
    observation = observed((0, ROW), (29, ROW))
    observation.begin_anew()
    assert observation.others() == {}
    observation.saw([ROW], 31, 31)
    assert observation.silent() == []
    assert observation.silences_at() == [61]
    observation.saw([ROW], 61, 61)
    assert observation.silent() == [ROW]


def test_a_row_that_was_away_begins_anew() -> None:
    """It was deleted, and its instance wrote it again."""
    assert observed((0, ROW), (10, None), (20, ROW), (31, ROW)).silent() == []


def test_who_leaves_is_gone_and_oneself_is_not_observed() -> None:
    """Neither is among the others."""
    assert observed((0, replace(ROW, leaving=True))).others() == {}
    assert observed((0, replace(ROW, name="a"))).others() == {}


def test_the_silent_are_deleted_in_one_order() -> None:
    """Two instances that delete the same rows in different orders would wait for each other."""
    rows = [replace(ROW, name=name) for name in "dbc"]
    observation = Observation("a", SILENCE)
    observation.saw(rows, 0, 0)
    observation.saw(rows, 30, 30)
    assert [row.name for row in observation.silent()] == ["b", "c", "d"]


# No wall clock


@pytest.mark.parametrize("path", sorted(FLEET.glob("*.py")), ids=lambda path: path.name)
def test_no_clock_is_read_in_the_fleet(path: Path) -> None:
    """Times are handed in, by a clock that runs on: a clock that is set kills nobody."""
    tree = ast.parse(path.read_text("utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert not imported & {"time", "datetime", "process"}


def test_the_clock_of_the_database_is_only_shown() -> None:
    """now() is written into what people read, and read only for them."""
    assert table.BEAT.replace("now(), now()", "", 1).count("now()") == 2
    for line in table.BEAT.splitlines():
        if "now()" in line:
            assert any(text in line for text in ("ELSE now() END", "beat_at = now()", "version"))
    assert "_at" not in table.BEAT.partition("\nSELECT")[2]
    assert "now()" not in table.CONDEMN + table.LEAVE + table.EXISTS
    assert "_at" not in table.CONDEMN + table.LEAVE


# Beats


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_beats_come_three_to_a_silence_and_sooner_where_somebody_falls_silent() -> None:
    """With a tenth of jitter either way."""
    clock = Clock()
    for random, wait in ((0.0, 9.0), (0.5, 10.0)):
        beats = Beats(SILENCE, clock, lambda random=random: random)  # type: ignore[misc]
        beats.plan()
        assert beats.wait_seconds == pytest.approx(wait)
    beats.plan([clock.now + 4, clock.now + 40])
    assert beats.wait_seconds == pytest.approx(4)
    beats.plan([clock.now - 4])
    assert beats.wait_seconds == 0
    assert beats.is_due()


def test_a_beat_that_failed_is_tried_again_soon() -> None:
    """After a quarter, so that it is heard before an outage that was short makes it silent."""
    beats = Beats(SILENCE, Clock(), lambda: 0.5)
    beats.is_under_way = True
    assert not beats.is_due()
    beats.failed()
    assert beats.wait_seconds == pytest.approx(2.5)


def test_two_beats_that_were_missed_are_a_gap() -> None:
    """Whether the process stood still, or its beats failed; rows from before it are old."""
    clock = Clock()
    beats = Beats(SILENCE, clock, lambda: 0.5)
    clock.now += 20
    assert beats.stood_still() is None
    assert not beats.succeeded(clock.now)
    clock.now += 20
    assert beats.are_rows_fresh
    clock.now += 0.1
    assert not beats.are_rows_fresh
    assert beats.succeeded(clock.now)
    assert beats.stood_still() == pytest.approx(20.1)
    assert beats.stood_still() is None


# The census


NOW = 1000.0


def status(state: State, since: float | None = None, refused: bool = False) -> Status:
    ended_by = Trouble("said so", Who.USER, refused)
    return Status(state, 0, False, None, -1, "", ended_by, since, epoch=2)


WATCHED = status(State.IDLING)
NEW = status(State.CONNECTING, NOW - 1)
FAILED = status(State.BACKING_OFF, NOW - TRIED_SECONDS)
REFUSED = status(State.PARKED, NOW - 1, refused=True)
NO_KEY = status(State.PARKED, NOW - 1)


@pytest.mark.parametrize(
    ("share", "census"),
    [
        ([], Census(0, True)),
        ([WATCHED, WATCHED], Census(2, True)),
        ([WATCHED, None], Census(1, False)),
        ([WATCHED, NEW], Census(1, False)),
        ([WATCHED, FAILED], Census(1, True)),
        ([WATCHED, REFUSED], Census(1, True)),
        ([WATCHED, NO_KEY], Census(1, False)),
        ([FAILED], Census(0, False)),
        ([REFUSED], Census(0, False)),
        ([replace(WATCHED, epoch=1)], Census(0, False)),
        ([replace(WATCHED, epoch=-1), WATCHED], Census(1, False)),
        ([status(State.BACKING_OFF, NOW - 1, refused=True), WATCHED], Census(1, False)),
    ],
)
def test_the_census(share: list[Status | None], census: Census) -> None:
    """Each is watched, and answered since the process last stood still; or refused by its server;
    or was tried for five minutes. Where nothing works it may be the instance's own fault.
    """
    assert take_census(share, 2, NOW, able_seconds=9999) == census


def test_what_failed_while_nothing_worked_was_not_tried() -> None:
    """Once the network is back all are tried again within the longest back-off."""
    for able, settled in ((0, False), (TRIED_SECONDS - 1, False), (TRIED_SECONDS, True)):
        assert take_census([WATCHED, FAILED], 2, NOW, able).is_settled == settled


def test_able_is_who_stands_not_still_and_watches_something() -> None:
    """The time counts from the last moment at which it was neither."""
    clock = Clock()
    beats = Beats(SILENCE, clock, lambda: 0.5)
    clock.now += 10
    beats.watches(3)
    assert beats.able_seconds == 10
    beats.watches(0)
    clock.now += 19
    assert beats.able_seconds == 19
    beats.stood_still()
    assert beats.able_seconds == 0
