"""The waits between attempts, and how the log shows them."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rebreak_idle.limits import JITTER, Backoff, interval_text, seconds_text

SECONDS = st.floats(0.001, 1e6)
SHARE = st.floats(0, 1, exclude_max=True)


def no_jitter() -> float:
    return 0.0


def most_jitter() -> float:
    return 1 - 2**-53


def test_waits_double_up_to_the_maximum() -> None:
    """From attempt to attempt the wait doubles from the initial one to the maximum, and stays."""
    backoff = Backoff(5, 300, no_jitter)
    waits = [backoff.wait_seconds(failures) for failures in range(1, 10)]
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_the_first_wait_is_exact() -> None:
    """The wait before attempt 2 is the initial one; jitter begins with attempt 3."""
    backoff = Backoff(5, 300, most_jitter)
    assert backoff.wait_seconds(1) == 5
    assert backoff.wait_seconds(2) == 8


def test_as_many_waits_are_exact_as_asked_for() -> None:
    """``exact`` waits have no jitter, the next one has."""
    backoff = Backoff(10, 1000, most_jitter, exact=3)
    assert [backoff.wait_seconds(failures) for failures in (1, 2, 3, 4)] == [10, 20, 40, 64]


def test_the_maximum_bounds_the_first_wait_too() -> None:
    """An initial wait above the maximum is the maximum."""
    assert Backoff(600, 300, no_jitter).wait_seconds(1) == 300


@pytest.mark.parametrize("failures", [64, 65, 1000, 10**9])
def test_many_failures(failures: int) -> None:
    """However many failures there were, the wait is the maximum."""
    assert Backoff(0.001, 300, no_jitter).wait_seconds(failures) == 300


@pytest.mark.parametrize("initial", [0.25, 0.5, 1, 1.5, 2, 2.5, 7.5])
def test_the_first_wait_is_the_one_that_was_asked_for(initial: float) -> None:
    """The contract: the first reconnect waits RECONNECT_INITIAL_SECONDS, whatever that is."""
    assert Backoff(initial, 300, no_jitter).wait_seconds(1) == initial


@given(initial=SECONDS, maximum=SECONDS, failures=st.integers(1, 100), share=SHARE)
@example(initial=1.5, maximum=1.5, failures=1, share=0.0)
@settings(deadline=None)
def test_a_wait_is_never_above_the_maximum(
    initial: float, maximum: float, failures: int, share: float
) -> None:
    """The maximum holds for every wait."""
    wait = Backoff(initial, maximum, lambda: share).wait_seconds(failures)
    assert 0 < wait <= maximum


@given(
    initial=st.integers(1, 1000),
    maximum=st.integers(1, 10_000),
    failures=st.integers(1, 100),
    share=SHARE,
)
@settings(deadline=None)
def test_jitter_only_takes_away_and_at_most_its_share(
    initial: int, maximum: int, failures: int, share: float
) -> None:
    """A wait lies between the full one and the full one less the jitter, in whole seconds."""
    full = Backoff(initial, maximum, no_jitter).wait_seconds(failures)
    wait = Backoff(initial, maximum, lambda: share).wait_seconds(failures)
    assert full * (1 - JITTER) - 0.5 <= wait <= full
    assert wait == int(wait) or wait < 1


def test_jitter_spreads() -> None:
    """Mailboxes that failed together do not come back together."""
    backoff = Backoff(5, 300, random.Random(1).random)
    assert len({backoff.wait_seconds(8) for _ in range(200)}) > 20


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5s"), (5.0, "5s"), (300.0, "300s"), (0.5, "0.5s"), (1, "1s")],
)
def test_seconds_text(seconds: float, text: str) -> None:
    """Waits are shown in seconds, with decimals only below one."""
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1500.0, "25min"),
        (60.0, "1min"),
        (7200, "120min"),
        (90.0, "90s"),
        (5.0, "5s"),
        (0.5, "0.5s"),
        (61.5, "61.5s"),
        (1500.5, "1500.5s"),
        (12345.6, "12345.6s"),
        (2_000_001.0, "2000001s"),
    ],
)
def test_interval_text(seconds: float, text: str) -> None:
    """Intervals are shown in minutes where they are whole minutes, else in seconds."""
    assert interval_text(seconds) == text


@given(seconds=st.floats(0.001, 366 * 86400.0))
@settings(deadline=None)
def test_texts_are_plain_decimals(seconds: float) -> None:
    """No text has an exponent, and each is near what it stands for."""
    for text in (seconds_text(seconds), interval_text(seconds)):
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|min)", text)
        assert found, text
        shown = float(found[1]) * (60 if found[2] == "min" else 1)
        assert shown == pytest.approx(seconds, rel=0.01, abs=0.5)
