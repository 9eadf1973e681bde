"""Shared threads for what goes deep."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from waiting import wait_for

from rebreak_idle import crew as module
from rebreak_idle.crew import Crew
from rebreak_idle.errors import SessionLost
from rebreak_idle.turns import away

LONG_SECONDS = 10.0


def hands() -> int:
    return sum(thread.name == "idle-crew" for thread in threading.enumerate())


def fail() -> None:
    raise SessionLost("gone")


def test_a_result_comes_back() -> None:
    """From another thread."""
    mine = threading.get_ident()
    assert Crew().do(lambda: (threading.get_ident() != mine, "result")) == (True, "result")


def test_an_error_comes_back() -> None:
    """As it was raised, with where it was raised."""
    with pytest.raises(SessionLost, match="gone") as raised:
        Crew().do(fail)
    assert raised.traceback[-1].name == "fail"


def test_one_thread_after_the_other() -> None:
    """Tasks that follow each other are done by the same thread, whatever became of the last."""
    crew = Crew()
    threads = {crew.do(threading.get_ident) for _ in range(50)}
    with pytest.raises(SessionLost):
        crew.do(fail)
    assert {crew.do(threading.get_ident)} == threads
    assert len(threads) == 1


def test_as_many_threads_as_tasks_at_once() -> None:
    """No task waits for another."""
    crew, number = Crew(), 12
    together = threading.Barrier(number, timeout=LONG_SECONDS)

    def task() -> int:
        with away:
            together.wait()
        return threading.get_ident()

    with ThreadPoolExecutor(number) as pool:
        done = [pool.submit(crew.do, task) for _ in range(number)]
        assert len({each.result(LONG_SECONDS) for each in done}) == number


def test_no_more_threads_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are at work the caller does it itself, and does not wait."""
    monkeypatch.setattr(module, "MOST_HANDS", 2)
    crew, callers = Crew(), 6
    together = threading.Barrier(callers, timeout=LONG_SECONDS)

    def task() -> int:
        with away:
            together.wait()
        return threading.get_ident()

    def do() -> bool:
        return crew.do(task) == threading.get_ident()

    with ThreadPoolExecutor(callers) as pool:
        done = [pool.submit(do) for _ in range(callers)]
        assert sorted(each.result(LONG_SECONDS) for each in done) == [False] * 2 + [True] * 4


def test_threads_that_have_nothing_to_do_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a task after that has a new one."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    before, mine = hands(), Crew()
    first = mine.do(threading.current_thread)
    first.join(LONG_SECONDS)
    assert not first.is_alive()
    assert mine.do(lambda: 5) == 5
    wait_for(lambda: hands() <= before, LONG_SECONDS, "the threads to end")


def test_tasks_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is given in the moment in which a thread ends is done all the same."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    mine = Crew()
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda n: mine.do(lambda: n), range(2000))) == sum(range(2000))


def test_without_a_further_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of threads the caller does it itself."""

    def cannot(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", cannot)
    assert Crew().do(threading.get_ident) == threading.get_ident()
