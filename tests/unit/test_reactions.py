"""The figures: how soon mail is dealt with, and what is owed."""

import logging
import re
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebreak_idle.figures import Figures
from rebreak_idle.log import log
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.reactions import COARSE_SECONDS, Histogram, Reactions
from rebreak_idle.roster import Roster
from rebreak_idle.scan.pending import CATCH_UP, EXISTS, POLL, PendingScan
from rebreak_idle.status import State, Status


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- the histogram --------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 80_000), min_size=1, max_size=60))
@settings(deadline=None)
def test_median_and_slowest_are_within_5_percent(durations: list[float]) -> None:
    """Whatever the durations are, from a millisecond to a day."""
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    assert histogram.median == pytest.approx(statistics.median(durations), rel=0.05)
    assert histogram.slowest == pytest.approx(max(durations), rel=0.05)
    assert histogram.count == len(durations)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e6])
def test_what_is_beyond_the_buckets_is_counted_too(seconds: float) -> None:
    """A clock that stood still, and a scan that was owed for weeks."""
    histogram = Histogram()
    histogram.add(seconds)
    assert histogram.count == 1
    assert histogram.slowest == seconds
    assert histogram.median <= max(seconds, 0.001)


def test_a_histogram_takes_the_same_memory_however_much_it_holds() -> None:
    """Its buckets are as many as before."""
    histogram = Histogram()
    before = len(histogram._counts)
    for number in range(10_000):
        histogram.add(number / 100)
    assert len(histogram._counts) == before < 500


# --- from hearing of mail -------------------------------------------------------------------------


def test_a_reaction_begins_when_mail_is_heard_of(clock: Clock) -> None:
    """At the first announcement that a request covers; what may have come does not count."""
    pending = PendingScan(clock)
    pending.owe(CATCH_UP)
    clock.now += 1
    pending.owe(EXISTS)
    clock.now += 1
    pending.owe(EXISTS)
    pending.begin()
    clock.now += 1
    pending.owe(POLL)
    assert pending.since == 1000
    assert pending.settle() == (EXISTS, 1000, 1001)
    assert pending.since == 1003
    pending.begin()
    assert pending.settle() == (POLL, 1003, 1003)
    assert pending.since is None
    assert pending.settle() is None


def test_mail_that_only_may_have_come_has_no_reaction(clock: Clock) -> None:
    """A catch-up covers no mail that was heard of."""
    pending = PendingScan(clock)
    pending.owe(CATCH_UP)
    pending.begin()
    assert pending.settle() == (CATCH_UP, 1000, None)


def test_a_request_that_failed_leaves_the_beginning_as_it_was(clock: Clock) -> None:
    """The reaction ends with the 2xx of a later request."""
    pending = PendingScan(clock)
    pending.owe(EXISTS)
    pending.begin()
    clock.now += 60
    pending.begin()
    assert pending.settle() == (EXISTS, 1000, 1000)


# --- what is counted ------------------------------------------------------------------------------


def test_what_is_owed_and_for_how_long_the_oldest(clock: Clock) -> None:
    """By mailbox; one that owes nothing any more is not counted, however often it is told."""
    reactions = Reactions(clock)
    assert (reactions.scans_owed, reactions.oldest_seconds) == (0, 0)
    reactions.owes("anna", lambda: 1000.0)
    clock.now += 5
    reactions.owes("ben", lambda: 1005.0)
    reactions.owes("anna", lambda: 1000.0)
    clock.now += 5
    assert (reactions.scans_owed, reactions.oldest_seconds) == (2, 10)
    reactions.owes("anna", lambda: None)
    reactions.owes("anna", lambda: None)
    assert (reactions.scans_owed, reactions.oldest_seconds) == (1, 5)


def test_a_period_begins_anew_and_the_totals_go_on(clock: Clock) -> None:
    """What was taken is not told again; counters only grow."""
    reactions = Reactions(clock)
    reactions.succeeded(999.5)
    reactions.succeeded(None)
    reactions.ended("refused")
    clock.now += 300
    period = reactions.take_period()
    assert (period.seconds, period.scans) == (300, 2)
    assert (period.median, period.slowest) == pytest.approx((0.5, 0.5), rel=0.05)
    clock.now += 300
    assert reactions.take_period() == (300, 0, 0, 0)
    totals = reactions.totals
    assert totals.results == {"done": 2, "refused": 1}
    assert totals.reaction_seconds == 0.5
    assert len(totals.reactions) == len(COARSE_SECONDS) + 1
    assert totals.reactions[COARSE_SECONDS.index(0.5)] == sum(totals.reactions) == 1


# --- the line -------------------------------------------------------------------------------------


class Parked:
    """A worker whose mailbox is parked."""

    def __init__(self, id_: str) -> None:
        self.mailbox = Mailbox(id_, "u", f"{id_}@example.org", "h", 993, id_, "p")
        self.state = State.PARKED

    def is_stopping(self) -> bool:
        return self.state is State.STOPPED

    def status(self) -> Status:
        raise AssertionError("nobody asks")


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)


def test_the_line_is_the_contract_s(clock: Clock, said: list[str]) -> None:
    """To the letter, with the refresh of the interval and with no other."""
    reactions, roster = Reactions(clock), Roster()
    figures = Figures(reactions, roster, 300.0)
    for id_ in ("anna", "ben", "clara"):
        roster.add(Parked(id_))
    for _ in range(311):
        reactions.succeeded(clock.now - 0.2)
    reactions.succeeded(clock.now - 1.4)
    figures.refreshed()
    clock.now += 120
    figures.refreshed()
    assert not said
    clock.now += 182
    for id_ in ("anna", "ben"):
        reactions.owes(id_, lambda: clock.now)
    figures.refreshed()
    (line,) = said
    found = re.fullmatch(
        r"last 5min — 312 scans, reaction median ([\d.]+)s, slowest ([\d.]+)s; "
        r"2 scans owed; 3 parked",
        line,
    )
    assert found
    assert [float(number) for number in found.groups()] == pytest.approx([0.2, 1.4], rel=0.05)


def test_a_longer_time_is_called_by_its_length(clock: Clock, said: list[str]) -> None:
    """SIGHUP put the refresh off, or the database was away; and a scan that waits is said."""
    reactions, roster = Reactions(clock), Roster()
    figures = Figures(reactions, roster, 300.0)
    reactions.owes("anna", lambda: 1000.0)
    clock.now += 601
    figures.refreshed()
    assert said == [
        "last 10min — 0 scans, reaction median 0s, slowest 0s; 1 scans owed; 0 parked",
        "the oldest scan owed has waited for 10min",
    ]


def test_the_roster_has_the_newest_worker_of_each_row() -> None:
    """A worker that replaces another counts once; rows that are gone do not count."""
    roster = Roster()
    anna, ben = Parked("anna"), Parked("ben")
    roster.add(Parked("anna"))
    roster.add(anna)
    roster.add(ben)
    assert roster.workers() == [anna, ben]
    roster.keep_only([ben.mailbox])
    assert roster.workers() == [ben]
    assert roster.states() == {State.PARKED: 1}
    roster.ended(ben)  # it died
    assert roster.workers() == [ben]
    ben.state = State.STOPPED
    roster.ended(ben)  # it was asked to: another process watches the row now
    assert roster.workers() == []
