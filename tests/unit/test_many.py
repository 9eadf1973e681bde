"""What is done for ten thousand mailboxes at once gives way to others."""

import time

import pytest

from rebreak_idle import portions
from rebreak_idle.counters import Counters
from rebreak_idle.health import Health
from rebreak_idle.mailbox import Difference, Mailbox, diff
from rebreak_idle.metrics import Metrics, pages
from rebreak_idle.reactions import Reactions
from rebreak_idle.roster import LOOK_PORTION, UNWATCHED_SECONDS, Roster
from rebreak_idle.status import State, Status

MANY = 10_000


class Worker:
    """A worker that has been without a session for a while."""

    def __init__(self, number: int, state: State) -> None:
        name = f"canary{number}@example.org"
        self.mailbox = Mailbox(str(number), "u", name, "h", 993, name, "p")
        self.state = state

    def is_stopping(self) -> bool:
        return self.state is State.STOPPED

    def status(self) -> Status:
        since = time.monotonic() - UNWATCHED_SECONDS - 1
        return Status(self.state, 0.0, False, None, 0.0, "", None, since)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each moment that others were given."""
    given: list[float] = []
    monkeypatch.setattr(time, "sleep", given.append)
    return given


def test_others_get_a_turn_after_each_portion(pauses: list[float]) -> None:
    """All items come, in order."""
    assert list(portions.in_portions(range(1_200), 500)) == list(range(1_200))
    assert pauses == [portions.PAUSE_SECONDS] * 2


def test_rows_are_compared_in_portions(pauses: list[float]) -> None:
    """Ten thousand that are as they were take twenty turns."""
    rows = [Worker(number, State.IDLING).mailbox for number in range(MANY)]
    difference = diff({row.id: row for row in rows}, rows)
    assert difference == Difference([], [], [])
    assert len(pauses) == MANY // portions.PORTION


def test_a_scrape_of_ten_thousand_has_the_series_of_none(pauses: list[float]) -> None:
    """The same lines but for their figures, in a few turns; nobody is named."""
    roster, reactions = Roster(), Reactions(time.monotonic)
    health = Health(lambda _event: None, 300.0, time.monotonic)
    metrics = Metrics(roster, reactions, Counters(), health, lambda: 0)
    show = pages(metrics, health)["/metrics"]

    def series() -> dict[str, float]:
        lines = show("").content.decode().splitlines()
        found = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in found}

    before = series()
    for number in range(MANY):
        roster.add(Worker(number, State.BACKING_OFF if number % 2 else State.PARKED))
        reactions.owes(number, time.monotonic)
    after = series()
    assert after.keys() == before.keys()
    assert not [name for name in after if "canary" in name]
    assert after['rebreak_idle_mailboxes{state="PARKED"}'] == MANY / 2
    assert after["rebreak_idle_mailboxes_unwatched"] == MANY / 2
    assert after["rebreak_idle_scans_owed"] == MANY
    assert len(pauses) == MANY // LOOK_PORTION
