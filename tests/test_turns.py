"""Threads that run in turn, and wake each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from waiting import wait_for

from rebreak_idle.turns import AT_ONCE, Signal, _Turns, away, turn

LONG_SECONDS = 10.0
SHORT_SECONDS = 0.05


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for those who wait."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def signal() -> Signal:
    return Signal()


def test_a_signal_wakes(signal: Signal, pool: ThreadPoolExecutor) -> None:
    """Who waits for it is woken."""
    woken = pool.submit(signal.wait, LONG_SECONDS)
    signal.set()
    assert woken.result(LONG_SECONDS)


def test_a_signal_before_the_wait_is_not_lost(signal: Signal) -> None:
    """The next wait ends at once, and only the next."""
    signal.set()
    signal.set()
    assert signal.wait(LONG_SECONDS)
    assert not signal.wait(SHORT_SECONDS)


@pytest.mark.parametrize("seconds", [0.0, -1.0, SHORT_SECONDS])
def test_a_wait_without_a_signal_ends(signal: Signal, seconds: float) -> None:
    """The time is up."""
    assert not signal.wait(seconds)


def test_no_signal_is_missed(signal: Signal, pool: ThreadPoolExecutor) -> None:
    """Each of many in a row is seen, however it falls between look and sleep."""
    back, number = Signal(), 2000

    def answer() -> int:
        seen = 0
        while seen < number and signal.wait(LONG_SECONDS):
            seen += 1
            back.set()
        return seen

    seen = pool.submit(answer)
    for _ in range(number):
        signal.set()
        assert back.wait(LONG_SECONDS)
    assert seen.result(LONG_SECONDS) == number


def test_signals_when_the_time_is_up(pool: ThreadPoolExecutor) -> None:
    """A signal in the moment in which the time is up leaves no turn taken twice, and none lost."""
    signals = [Signal() for _ in range(4)]
    rounds = 2000

    def wait(signal: Signal) -> None:
        with turn:
            for _ in range(rounds):
                signal.wait(1e-5)

    waiting = [pool.submit(wait, signal) for signal in signals]
    while not all(each.done() for each in waiting):
        with turn:
            for signal in signals:
                signal.set()
    for each in waiting:
        each.result()
    assert turns_at_once(pool) == AT_ONCE


def turns_at_once(pool: ThreadPoolExecutor) -> int:
    """How many threads have a turn at the same time."""
    inside, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        with turn:
            inside.release()
            assert go_on.wait(LONG_SECONDS)

    holding = [pool.submit(hold) for _ in range(AT_ONCE + 2)]
    for _ in range(AT_ONCE):
        assert inside.acquire(timeout=LONG_SECONDS)
    more = inside.acquire(timeout=SHORT_SECONDS)
    go_on.set()
    for each in holding:
        each.result(LONG_SECONDS)
    return AT_ONCE + more


def test_few_run_at_once(pool: ThreadPoolExecutor) -> None:
    """Those who have no turn sleep until one is given up."""
    assert turns_at_once(pool) == AT_ONCE


@pytest.mark.parametrize("absent", ["signal", "away"])
def test_who_waits_lets_others_run(pool: ThreadPoolExecutor, absent: str) -> None:
    """A wait for a signal, or for what is marked as such, gives up the turn."""
    event = threading.Event()
    signals = [Signal() for _ in range(AT_ONCE)]

    def wait(signal: Signal) -> bool:
        with turn:
            if absent == "signal":
                return signal.wait(LONG_SECONDS)
            with away:
                return event.wait(LONG_SECONDS)

    def run() -> str:
        with turn:
            return "ran"

    waiting = [pool.submit(wait, signal) for signal in signals]
    running = [pool.submit(run) for _ in range(3)]
    assert [each.result(LONG_SECONDS) for each in running] == ["ran"] * 3
    event.set()
    for signal in signals:
        signal.set()
    assert all(each.result(LONG_SECONDS) for each in waiting)


def test_an_error_gives_the_turn_back(pool: ThreadPoolExecutor) -> None:
    """Whatever ends what a thread does, there or while it was away."""

    def fail() -> None:
        with turn, away:
            raise KeyError

    for _ in range(3 * AT_ONCE):
        with pytest.raises(KeyError):
            pool.submit(fail).result(LONG_SECONDS)
    assert turns_at_once(pool) == AT_ONCE


def waiting_behind_one(turns: _Turns, pool: ThreadPoolExecutor) -> Future[None]:
    """One has the turn; whoever waits behind it."""
    turns.wait_for_one()
    waiting = pool.submit(turns.wait_for_one)
    wait_for(turns.somebody_waits, LONG_SECONDS, "the line")
    return waiting


def test_who_hangs_keeps_nobody_from_running(pool: ThreadPoolExecutor) -> None:
    """Where nobody gives up a turn for long, one more may run."""
    turns = _Turns(1)
    waiting = waiting_behind_one(turns, pool)
    turns.relieve()
    assert waiting.result(LONG_SECONDS) is None


def test_nobody_is_relieved_while_turns_change(pool: ThreadPoolExecutor) -> None:
    """A line alone does not mean that anybody hangs."""
    turns = _Turns(1)
    turns.wait_for_one()
    first, second = (pool.submit(turns.wait_for_one) for _ in range(2))
    wait_for(lambda: len(turns._line) == 2, LONG_SECONDS, "the line")
    turns.give()
    turns.relieve()
    wait_for(lambda: first.done() or second.done(), LONG_SECONDS, "the one turn")
    assert turns.somebody_waits()
    turns.give()
    assert (first.result(LONG_SECONDS), second.result(LONG_SECONDS)) == (None, None)


def test_a_turn_that_was_lent_is_taken_back(pool: ThreadPoolExecutor) -> None:
    """Once whoever hung is back, no more run at once than before."""
    turns = _Turns(1)
    waiting = waiting_behind_one(turns, pool)
    turns.relieve()
    waiting.result(LONG_SECONDS)
    turns.give()
    turns.give()
    behind = waiting_behind_one(turns, pool)
    turns.give()
    behind.result(LONG_SECONDS)


def test_who_begins_is_let_in_though_others_are_busy(pool: ThreadPoolExecutor) -> None:
    """Some that hand the turn to each other without end keep nobody out for ever."""
    turns, begun = _Turns(1), threading.Event()

    def stay() -> None:
        turns.wait_for_one()
        while not begun.is_set():
            turns.give()
            turns.wait_for_one()
        turns.give()

    def begin() -> None:
        turns.wait_for_one(begins=True)
        begun.set()
        turns.give()

    turns.wait_for_one()
    running = [pool.submit(stay) for _ in range(3)]
    wait_for(lambda: len(turns._line) == len(running), LONG_SECONDS, "the line")
    running.append(pool.submit(begin))
    wait_for(lambda: turns._beginners, LONG_SECONDS, "who begins")
    turns.give()
    for each in running:
        each.result(LONG_SECONDS)


def test_who_begins_comes_last(pool: ThreadPoolExecutor) -> None:
    """Those in the midst of something are let run before those who begin."""
    turns, order = _Turns(1), []

    def run(name: str, begins: bool) -> None:
        turns.wait_for_one(begins)
        order.append(name)
        turns.give()

    turns.wait_for_one()
    running = []
    for count, (name, begins) in enumerate([("new", True), ("old", False)], 1):
        running.append(pool.submit(run, name, begins))
        wait_for(
            lambda count=count: len(turns._line) + len(turns._beginners) == count,
            LONG_SECONDS, "the lines",
        )  # fmt: skip
    turns.give()
    for each in running:
        each.result(LONG_SECONDS)
    assert order == ["old", "new"]
