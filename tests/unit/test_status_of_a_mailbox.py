"""Since when a mailbox is not watched, and why: what other threads are told."""

from functools import partial

import pytest

from rebreak_idle.errors import (
    HostUnreachable,
    LoginRefused,
    MailboxUnusable,
    PasswordUnreadable,
    RebreakError,
    SessionLost,
)
from rebreak_idle.log import Logger
from rebreak_idle.recovery import Ending, Recovery
from rebreak_idle.status import WATCHED, Progress, State, Who
from tests.support.harness import quick_config


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_unwatched_counts_from_the_end_of_the_watch() -> None:
    """Attempts and waits do not begin the time anew; each way of watching ends it."""
    clock = Clock()
    progress = Progress(Logger("anna"), clock)
    assert progress.unwatched_since == 100
    for watched in sorted(WATCHED):
        clock.now += 10
        progress.change_state(watched)
        assert progress.unwatched_since is None
        clock.now += 10
        since = clock.now
        for state in (State.BACKING_OFF, State.CONNECTING, State.PARKED, State.STOPPED):
            progress.change_state(state)
            assert progress.unwatched_since == since
            clock.now += 10


@pytest.mark.parametrize(
    ("error", "who", "refused"),
    [
        (PasswordUnreadable("no"), Who.OPERATOR, False),
        (MailboxUnusable("no"), Who.OPERATOR, False),
        (LoginRefused("no"), Who.USER, True),
        (LoginRefused("no", is_clear=False), Who.NOBODY, True),
        (HostUnreachable("no"), Who.NOBODY, False),
        (SessionLost("no"), Who.NOBODY, False),
    ],
)
def test_what_ended_a_session_says_who_acts(error: RebreakError, who: Who, refused: bool) -> None:
    """The user after a refusal, the operator where it is the row's, else nobody."""
    recovery = Recovery(quick_config(), Logger("anna"), partial(float, 0), set())
    recovery.next_try(Ending.of(error), 0.0)
    assert recovery.ended_by == ("no", who, refused)
    recovery.opened_inbox()
    assert recovery.ended_by is None


def test_a_wait_for_the_host_says_why_too() -> None:
    """Its own line says it once for all mailboxes; each of them knows it all the same."""
    recovery = Recovery(quick_config(), Logger("anna"), partial(float, 0), set())
    recovery.next_try(Ending.of(HostUnreachable("no")), 0.0, is_held_back=True)
    assert recovery.ended_by == ("no", Who.NOBODY, False)
