"""Any order of deaths, standstills, partitions, outages, newcomers and changes of the rows, in
simulated time: no mailbox is left before another instance watches it, and in the end each has
exactly one session. And the rules each hold something: without one of them the machine tells.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest

from rebreak_idle.fleet.beats import Beats
from rebreak_idle.fleet.membership import Membership
from rebreak_idle.fleet.sharing import Sharing
from tests.support.fleet_simulation import MemoryTable, Process, World, simulated_time

STEPS = 40
SEEDS = 60
# So many runs may a mutant survive.
MUTANT_SEEDS = 400
# After which nothing is left to be done: some refreshes, and many beats.
LONG_SECONDS = 1500.0


def begin(world: World) -> None:
    """Up to three instances that have shared the mailboxes."""
    for _ in range(world.random.randint(1, 3)):
        world.start()
    world.run(120)


def one_of(world: World, is_running: bool = True) -> Process | None:
    found = [p for p in world.processes if p.is_running == is_running]
    return world.random.choice(found) if found else None


def newcomer(world: World) -> None:
    if len(world.processes) < 5:
        world.start(can_log_in=world.random.random() < 0.8)


def death(world: World) -> None:
    if len(world.processes) > 1 and (process := one_of(world)):
        process.end()


def orderly_stop(world: World) -> None:
    if len(world.processes) > 1 and (process := one_of(world)):
        process.stop()


def standstill(world: World) -> None:
    if process := one_of(world):
        process.stand_still()
        world.at(world.now + world.draw(1, 100), lambda: _go_on(world, process))


def _go_on(world: World, process: Process) -> None:
    if process in world.processes and not process.is_running:
        process.go_on()


def partition(world: World) -> None:
    if process := one_of(world):
        world.cut_off(process, True)
        world.at(world.now + world.draw(1, 120), lambda: world.cut_off(process, False))


def outage(world: World) -> None:
    if world.is_database_up:
        world.database_goes(up=False)
        world.at(world.now + world.draw(1, 120), lambda: world.database_goes(up=True))


def rows_change(world: World) -> None:
    id_ = world.random.choice(list(world.rows))
    match world.random.choice(["added", "removed", "exchanged", "changed"]):
        case "added":
            world.add_row()
        case "removed" if len(world.rows) > 5:
            del world.rows[id_]
        case "exchanged":
            del world.rows[id_]
            world.add_row()
        case "changed":
            world.change_row(id_)
    match world.random.choice(["all", "one", "none"]):
        case "all":
            world.hear_of_rows()
        case "one" if process := one_of(world):
            process.supervisor.refresh()


def newcomer_meets_a_new_row(world: World) -> None:
    """One reads the row that the newcomer has not read, before it knows of the newcomer."""
    newcomer(world)
    world.run(world.draw(0.5, 9))
    world.add_row()
    if process := one_of(world):
        process.supervisor.refresh()


def nothing(world: World) -> None:
    pass


Event = Callable[[World], None]
EVENTS: list[Event] = [
    newcomer, newcomer, newcomer_meets_a_new_row, death, orderly_stop, standstill, partition,
    outage, rows_change, rows_change, nothing,
]  # fmt: skip
OUTAGES: list[Event] = [outage, outage, rows_change, nothing]
STANDSTILLS: list[Event] = [newcomer, standstill, standstill, standstill, nothing]
CHANGES: list[Event] = [newcomer_meets_a_new_row, newcomer_meets_a_new_row, death, nothing]


def heal(world: World) -> None:
    """All is well again, for long."""
    world.is_database_up = True
    for process in list(world.processes):
        process.can_log_in = True
        world.cut_off(process, False)
        _go_on(world, process)
    world.run(LONG_SECONDS)


def play(
    seed: int,
    events: list[Event] = EVENTS,
    change: Callable[[World], None] = nothing,
    wrong: Callable[[], AbstractContextManager[object]] = ExitStack,
) -> list[str]:
    """What went wrong in one run."""
    world = World(seed)
    change(world)
    world.may_condemn = events is not OUTAGES
    with simulated_time(world), wrong():
        begin(world)
        for _ in range(STEPS):
            world.random.choice(events)(world)
            world.run(world.draw(0.1, 45))
            if world.faults:
                return world.faults
        heal(world)
    strange = {id_: number for id_, number in world.sessions().items() if number != 1}
    return [*world.faults, *([f"in the end: {strange}"] if strange else [])]


@pytest.mark.parametrize("tens", range(SEEDS // 10))
def test_no_mailbox_is_without_a_session_while_nobody_dies(tens: int) -> None:
    """Whatever happens in whatever order."""
    for seed in range(10 * tens, 10 * tens + 10):
        assert play(seed) == [], f"seed {seed}"


def test_an_outage_of_the_database_condemns_nobody() -> None:
    """However often it is away for all, and however long."""
    for seed in range(20):
        assert play(seed, OUTAGES) == [], f"seed {seed}"


def test_what_is_held_for_another_is_held_while_its_row_changes() -> None:
    """The session is replaced, and beats come while the old one ends."""
    world = World(1)
    with simulated_time(world):
        first = world.start()
        world.run(60)
        world.start(can_log_in=False)
        world.run(60)
        for id_ in world.rows:
            world.change_row(id_)
        first.supervisor.refresh()
        world.run(100)
        assert set(world.sessions().values()) == {1}
        assert {worker.mailbox for worker in first.workers} == set(world.rows.values())


# Mutants: each leaves out one rule


def patched(owner: Any, name: str, value: Any) -> Callable[[], AbstractContextManager[object]]:
    return lambda: mock.patch.object(owner, name, value)


def without_settled(self: Sharing, row: Any) -> bool:
    return row.view == self.view and not row.leaving


def ready_whatever_the_share(self: Sharing, others: Any, shares: Any) -> frozenset[str]:
    return frozenset(n for n, row in others.items() if n in self.names and self._has_settled(row))


def ready_whatever_the_view(self: Sharing, others: Any, shares: Any) -> frozenset[str]:
    return frozenset(n for n, row in others.items() if n in self.names and row.settled)


@contextmanager
def outages_forgotten() -> Iterator[None]:
    """An observation goes on over an outage of the observer's own."""
    real = Beats.succeeded

    def succeeded(self: Beats, asked_at: float) -> bool:
        real(self, asked_at)
        return False

    with mock.patch.object(Beats, "succeeded", succeeded):
        yield


def on_wall_clocks(world: World) -> None:
    """Each instance goes by its machine's wall clock, which is set now and then."""
    world.clock_of = lambda process: (  # type: ignore[method-assign]
        world.now + 3600 * ((int(world.now) // 400 + sum(map(ord, process.name))) % 3)
    )


MUTANTS: dict[str, dict[str, Any]] = {
    "released before it is settled": {
        "wrong": patched(Sharing, "_has_settled", without_settled),
    },
    "released whatever the owner's view and share": {
        "wrong": patched(Sharing, "ready", ready_whatever_the_view),
    },
    "released whatever the owner's share": {
        "wrong": patched(Sharing, "ready", ready_whatever_the_share),
        "events": CHANGES,
    },
    "wall clocks": {"change": on_wall_clocks},
    "observed over an outage": {"wrong": outages_forgotten, "events": OUTAGES},
    "counted by the time that it slept": {
        "wrong": patched(Beats, "stood_still", lambda self: None),
    },
    "a condemned row says that it has settled": {
        "wrong": patched(MemoryTable, "may_settle", lambda self, row: row.settled),
        "events": STANDSTILLS,
    },
    "never released": {
        "wrong": patched(Membership, "release", lambda self, watched: set()),
    },
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_left_out_is_missed(name: str) -> None:
    """Each rule holds something that nothing else holds."""
    assert any(play(seed, **MUTANTS[name]) for seed in range(MUTANT_SEEDS)), f"{name}: survives"
