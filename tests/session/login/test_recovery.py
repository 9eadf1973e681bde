"""The waits after a login that failed, and what is said of them."""

import logging
from functools import partial

import pytest

from rebreak_idle import recovery
from rebreak_idle.log import Logger, log
from rebreak_idle.recovery import Ending, Recovery, Remedy
from rebreak_idle.status import State
from tests.session.conftest import Watch
from tests.session.login.conftest import DISABLED, answers, said
from tests.support.harness import Watched, assert_stays, quick_config
from tests.support.scripted_imap import ScriptedImap
from tests.support.waiting import wait_for

# Waits


@pytest.fixture
def recoveries() -> list[Recovery]:
    """Those of the mailboxes of one host."""
    log.setLevel(logging.CRITICAL)
    config = quick_config(
        reconnect_initial_seconds=5.0, reconnect_max_seconds=300.0, auth_retry_seconds=900.0
    )
    clock = partial(float, 0)
    return [Recovery(config, Logger(str(n)), clock, set()) for n in range(40)]


def waits(recoveries: list[Recovery], remedy: Remedy) -> list[float]:
    for each in recoveries:
        each.begin_attempt()
    return [each.next_try(Ending("trouble", remedy), -1.0)[1] for each in recoveries]


@pytest.mark.parametrize("good", [True, False])
def test_retries_of_refused_logins_spread(recoveries: list[Recovery], good: bool) -> None:
    """The first waits a minute, the second some five; parked ones spread from the second time on.

    Never is a parked one tried sooner than it says.
    """
    remedy = Remedy.CREDENTIALS if good else Remedy.UNCLEAR_REFUSAL
    for each in recoveries:
        each.begin_login("host", 993, "user", "secret")
        if good:
            each.logged_in()
    assert set(waits(recoveries, remedy)) == {60.0}
    second = waits(recoveries, remedy)
    assert len(set(second)) == len(second)
    assert 239 <= min(second) <= max(second) <= 300
    assert set(waits(recoveries, remedy)) == {900.0}
    for doubled in (1800, 3600, 7200, 14400):
        parked = waits(recoveries, remedy)
        assert len(set(parked)) == len(parked)
        assert doubled <= min(parked) <= max(parked) <= 1.2 * doubled
    for _ in range(80):
        longest = waits(recoveries, remedy)
        assert len(set(longest)) == len(longest)
        assert 5 * 3600 <= min(longest) <= max(longest) <= 6 * 3600


def test_retries_after_a_provider_s_trouble_spread(recoveries: list[Recovery]) -> None:
    """Six mailboxes that a limit refused must not try in step, and never do after the first."""
    assert set(waits(recoveries, Remedy.RECONNECT)) == {5.0}
    for doubled in (10, 20, 40, 80, 160, 300, 300):
        spread = sorted(waits(recoveries, Remedy.RECONNECT))
        assert 0.8 * doubled - 1 <= spread[0] <= spread[-1] <= doubled
        assert len(set(spread)) == len(spread)
        assert len({round(wait) for wait in spread}) > 1


def test_a_changed_password_has_yet_to_work(recoveries: list[Recovery]) -> None:
    """Only the login that worked is tried again; the same at another host is another."""
    for login, state in (
        (("host", 993, "user", "secret"), State.BACKING_OFF),
        (("host", 993, "user", "other"), State.PARKED),
        (("elsewhere", 993, "user", "secret"), State.PARKED),
        (("host", 993, "somebody", "secret"), State.PARKED),
    ):
        each = recoveries.pop()
        each.begin_login("host", 993, "user", "secret")
        each.logged_in()
        each.begin_login(*login)
        assert each.next_try(Ending("no", Remedy.CREDENTIALS), -1.0)[0] is state


# What is said


def at_least(watched: Watched, part: str, number: int) -> bool:
    return watched.count(part) >= number


MISSING = {
    "no-inbox": (answers(b"NO [NONEXISTENT] No such mailbox"), "[NONEXISTENT]"),
    "no-right": (answers(b"NO [NOPERM] Permission denied"), "[NOPERM]"),
    "maintenance": (said(b"* BYE Down for maintenance"), "Down for maintenance"),
}


@pytest.mark.parametrize("how", MISSING)
def test_trouble_after_the_login_is_said_once(server: ScriptedImap, watch: Watch, how: str) -> None:
    """Not at each of the attempts, although each logs in."""
    act, words = MISSING[how]
    server.on("examine", act, instead=True)
    with watch() as watched:
        server.wait_for_connections(6)
        assert watched.count(words) == 1
        server.off("examine")
        watched.wait_listening()
        assert watched.worker.status().trouble == ""


@pytest.mark.parametrize(("worked_seconds", "said_again"), [(0.0, True), (60.0, False)])
def test_trouble_is_news_again_after_a_session_that_worked(
    server: ScriptedImap,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    worked_seconds: float,
    said_again: bool,
) -> None:
    """A session that held for a minute is such a one, one that broke at once is not."""
    monkeypatch.setattr(recovery, "WORKED_SECONDS", worked_seconds)
    with watch() as watched:
        for number in range(1, 4):
            wait_for(partial(at_least, watched, "connected (", number), 8.0, "a session")
            server.wait_for_idling()
            server.idling[0].bye(b"See you")
            server.wait_for_connections(number + 1)
        assert watched.count("the server said BYE: See you") == (3 if said_again else 1)


def test_the_reason_is_said_with_each_long_wait(
    server: ScriptedImap, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the last lines learns why, within the hour too."""
    monkeypatch.setattr(recovery, "LONG_WAIT_SECONDS", 0.05)
    server.on("examine", answers(b"NO [NONEXISTENT] No such mailbox"))
    with watch() as watched:
        wait_for(lambda: watched.count("reconnecting") >= 4, 8.0, "four attempts")
        pairs = [line for line in watched.lines if "NONEXISTENT" in line or "reconnecting" in line]
        assert all("NONEXISTENT" in line for line in pairs[0:8:2])
        assert all("reconnecting" in line for line in pairs[1:8:2])


def test_a_parked_mailbox_is_said_with_each_long_wait(
    server: ScriptedImap, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is when the password is refused again."""
    monkeypatch.setattr(recovery, "LONG_WAIT_SECONDS", 0.05)
    server.users = {}
    with watch(auth_retry_seconds=0.1) as watched:
        server.wait_for_connections(3)
        wait_for(lambda: watched.count("parked:") >= 3, 8.0, "three lines")


def test_nothing_happens_while_parked(server: ScriptedImap, watch: Watch) -> None:
    """No storm: one connection, and no other for as long as one cares to watch."""
    server.on("login", said(b"* BYE " + DISABLED), instead=True)
    with watch() as watched:
        watched.wait_line("parked:")
        assert_stays(lambda: server.connects == 1, 1.0, "one connection")
