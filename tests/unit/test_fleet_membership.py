"""An instance's part in the fleet, step by step, and the statements behind it."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from typing import Protocol

import pytest
from psycopg import sql

from rebreak_idle.database_url import parse_database_url
from rebreak_idle.errors import DatabaseError
from rebreak_idle.fleet.census import Census
from rebreak_idle.fleet.instance import Instance
from rebreak_idle.fleet.membership import Membership
from rebreak_idle.fleet.table import (
    FleetTable,
    NoTable,
    TableReadOnly,
    TableUnreachable,
    TableUnusable,
)
from rebreak_idle.proof import Proof
from tests.support.fleet_rig import TABLE, refusing_writes
from tests.support.fleet_simulation import MemoryTable, World, simulated_time
from tests.support.servers import Database, PgBouncer

SILENCE = 30.0
IDS = [f"m{number}" for number in range(20)]
WELL = Census(10, True)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Table(MemoryTable):
    """Fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None

    def beat(self, row: Instance, condemned: Iterable[Instance] = ()) -> list[Instance]:
        if self.error:
            raise self.error
        return super().beat(row, condemned)


class Fleet:
    """Instance "a", and a table in which a test writes for the others."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.table = Table()
        self.proof = Proof()
        self.a = self.member("a", self.proof)
        self._numbers = count(1)

    def member(self, name: str, proof: Proof | None = None) -> Membership:
        return Membership(self.table, name, SILENCE, self.clock, lambda: 0.5, proof or Proof())  # type: ignore[arg-type]

    def join(self, ids: Iterable[str] = IDS) -> None:
        self.a.joined(self.a.join())
        self.a.rows_read(ids)

    def beat(self, census: Census = WELL, after_seconds: float = 10.0) -> bool:
        self.pass_time(after_seconds)
        assert self.a.is_beat_due()
        return self.a.begin_beat(census)()()

    def pass_time(self, seconds: float) -> None:
        """As the supervisor does, which asks each few seconds."""
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.a.is_beat_due()
        self.clock.now += seconds % 1

    def b_says(self, **changes: object) -> Instance:
        """What "b" would write in a view of both, with the same rows as "a"."""
        share = self.member("b")._share
        share.set_mailboxes(IDS)
        share.adopt(frozenset({"a", "b"}))
        row = Instance(
            "b", "i", next(self._numbers), False, share.view, True,
            share.fingerprints["b"], share.mine, share.mine,
        )  # fmt: skip
        self.table.rows["b"] = row = replace(row, **changes)  # type: ignore[arg-type]
        return row


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_one_that_joins_takes_its_share_and_then_settles(fleet: Fleet) -> None:
    """Its first row says that it has not; it has once its mailboxes are watched."""
    fleet.b_says()
    fleet.join()
    assert not fleet.table.rows["a"].settled
    assert 0 < sum(map(fleet.a.is_mine, IDS)) < len(IDS)
    fleet.b_says()
    assert not fleet.beat()
    assert fleet.table.rows["a"].settled


def test_a_change_of_the_view_unsettles_until_the_rows_are_read_again(fleet: Fleet) -> None:
    """What became its own may not be in the rows that it has."""
    fleet.join()
    fleet.b_says(settled=False)
    assert fleet.beat()
    fleet.b_says()
    fleet.beat()
    assert not fleet.table.rows["a"].settled
    fleet.a.joined(fleet.a.join())
    fleet.a.rows_read(IDS)
    fleet.b_says()
    fleet.beat()
    assert fleet.table.rows["a"].settled


def test_one_that_falls_silent_is_condemned_and_replaced(fleet: Fleet) -> None:
    """The beat comes when the silence is over, the next one at once."""
    row = fleet.b_says()
    fleet.join()
    for _ in range(3):
        fleet.beat()
    assert fleet.table.rows["b"] == row
    assert fleet.a.is_beat_due()
    assert fleet.beat(after_seconds=0)
    assert set(fleet.table.rows) == {"a"}
    assert all(map(fleet.a.is_mine, IDS))


def test_one_that_beat_in_the_last_moment_is_not_condemned(fleet: Fleet) -> None:
    """Only the row that stood still is deleted."""
    fleet.b_says()
    fleet.join()
    for _ in range(3):
        fleet.beat()
    fleet.b_says()
    assert not fleet.beat(after_seconds=0)
    assert set(fleet.table.rows) == {"a", "b"}


def test_one_that_was_condemned_begins_anew(fleet: Fleet) -> None:
    """It may not say at once that it has settled: what it knows may be from before it slept."""
    fleet.b_says()
    fleet.join()
    fleet.b_says()
    fleet.beat()
    del fleet.table.rows["a"]
    fleet.b_says()
    assert fleet.beat()
    assert not fleet.table.rows["a"].settled


@pytest.mark.parametrize("error", [TableUnreachable("away"), TableReadOnly("a standby")], ids=str)
def test_an_outage_counts_against_nobody(fleet: Fleet, error: Exception) -> None:
    """However long: all is as before, and the others have the whole silence again after it."""
    fleet.b_says()
    fleet.join()
    fleet.table.error = error
    assert not fleet.beat()
    for _ in range(40):
        assert not fleet.beat(after_seconds=3)
        assert not fleet.a.is_alone
    fleet.table.error = None
    assert not fleet.beat(after_seconds=3)
    for _ in range(3):
        assert "b" in fleet.table.rows
        fleet.beat()
    fleet.beat(after_seconds=0)
    assert "b" not in fleet.table.rows


def test_nothing_is_released_on_rows_from_before_an_outage(fleet: Fleet) -> None:
    """Rows of the query may be read while the table takes no writes: who owned them may be dead."""
    new = next(id_ for id_ in (f"n{n}" for n in count()) if not fleet_with_b(id_))
    fleet.b_says()
    fleet.join([*IDS, new])
    held = [id_ for id_ in [*IDS, new] if not fleet.a.is_mine(id_)]
    assert fleet.a.release(held) == set()
    fleet.table.error = TableUnreachable("away")
    fleet.pass_time(30)
    fleet.a.rows_read(IDS)
    assert fleet.a.release(held) == set()
    fleet.table.error = None
    fleet.b_says()
    fleet.beat(after_seconds=0)
    assert fleet.a.release(held) == set(held)


def fleet_with_b(id_: str) -> bool:
    """Whether a mailbox is a's where "a" and "b" share."""
    share = Fleet().a._share
    share.adopt(frozenset({"a", "b"}))
    return share.is_mine(id_)


def test_a_process_that_stood_still_counts_nobody_dead_and_proves_its_sessions(
    fleet: Fleet,
) -> None:
    """By whatever it slept."""
    fleet.b_says()
    fleet.join()
    fleet.beat()
    fleet.clock.now += 3600
    assert fleet.a.is_beat_due()
    assert fleet.proof.epoch == 1
    assert not fleet.beat(after_seconds=0)
    fleet.beat()
    assert "b" in fleet.table.rows


def test_a_beat_during_which_the_process_stood_still(fleet: Fleet) -> None:
    """Its rows are of no use to release by, nor to condemn by."""
    fleet.b_says()
    fleet.join()
    fleet.b_says()
    fleet.pass_time(10)
    outcome = fleet.a.begin_beat(WELL)()
    fleet.clock.now += 60
    outcome()
    assert fleet.proof.epoch == 1
    assert fleet.a.release(IDS) == set()
    fleet.beat(after_seconds=10)
    assert "b" in fleet.table.rows


@pytest.mark.parametrize("error", [NoTable("none"), TableUnusable("no rights")], ids=str)
def test_where_the_table_cannot_be_used_one_is_alone(fleet: Fleet, error: Exception) -> None:
    """Everything is its own, it does not beat, and it joins at a later reading."""
    fleet.b_says()
    fleet.join()
    fleet.table.error = error
    assert fleet.beat()
    assert fleet.a.is_alone
    assert all(map(fleet.a.is_mine, IDS))
    fleet.clock.now += 3600
    assert not fleet.a.is_beat_due()
    fleet.join()
    assert fleet.a.is_alone
    fleet.table.error = None
    fleet.join()
    assert not fleet.a.is_alone
    assert fleet.proof.epoch == 0


def test_one_that_cannot_reach_the_table_does_not_read(fleet: Fleet) -> None:
    """It would take all mailboxes for its own."""
    fleet.table.error = TableUnreachable("away")
    with pytest.raises(DatabaseError, match="away: check DATABASE_URL"):
        fleet.a.join()


def test_an_unexpected_error_does_not_end_the_beats(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is logged, and the next beat comes."""
    fleet.join()
    fleet.table.error = ZeroDivisionError("nobody foresaw this")
    assert not fleet.beat()
    fleet.table.error = None
    fleet.beat(after_seconds=3)
    assert fleet.table.rows["a"].beat == 3


# The statements: what stands in memory and what PostgreSQL does are the same


class AnyTable(Protocol):
    def beat(self, row: Instance, condemned: Iterable[Instance] = ()) -> list[Instance]: ...
    def leave(self, row: Instance) -> None: ...


INCARNATIONS = [f"00000000-0000-0000-0000-00000000000{n}" for n in range(3)]


def row(name: str, beat: int, incarnation: int = 0, settled: bool = True) -> Instance:
    return Instance(name, INCARNATIONS[incarnation], beat, False, "[]", settled, "f", 2, 1)


@pytest.fixture(params=["memory", "postgres", "pgbouncer"])
def table(request: pytest.FixtureRequest) -> Iterator[AnyTable]:
    if request.param == "memory":
        yield MemoryTable()
        return
    database: Database = request.getfixturevalue("database")
    database.execute(TABLE)
    url = database.url
    if request.param == "pgbouncer":
        pooler: PgBouncer = request.getfixturevalue("pgbouncer")
        url = pooler.url_for(url)
    yield FleetTable(parse_database_url(url), "one")


def by_name(rows: list[Instance]) -> dict[str, Instance]:
    return {row.name: row for row in rows}


def test_a_beat_shows_the_rows_as_they_were_before_it(table: AnyTable) -> None:
    """So that one's own tells whether it was there, and whose it was."""
    assert table.beat(row("a", 1)) == []
    assert by_name(table.beat(row("b", 1))) == {"a": row("a", 1, settled=False)}
    assert by_name(table.beat(row("a", 2))) == {
        "a": row("a", 1, settled=False),
        "b": row("b", 1, settled=False),
    }
    assert by_name(table.beat(row("a", 3)))["a"] == row("a", 2)


def test_who_was_condemned_or_replaced_has_not_settled(table: AnyTable) -> None:
    """Whatever its beat says, which it wrote before it knew."""
    table.beat(row("a", 1))
    table.beat(row("a", 2))
    assert by_name(table.beat(row("a", 1, incarnation=1)))["a"].settled
    assert not by_name(table.beat(row("b", 1)))["a"].settled
    table.beat(row("a", 2, incarnation=1))
    table.beat(row("b", 2), [row("a", 2, incarnation=1)])
    table.beat(row("a", 3, incarnation=1))
    assert not by_name(table.beat(row("b", 3)))["a"].settled


@pytest.mark.parametrize("other", [row("a", 1), row("a", 2, incarnation=1), row("c", 2)])
def test_only_the_very_row_is_condemned(table: AnyTable, other: Instance) -> None:
    """One that beat meanwhile, or was started anew, stays."""
    table.beat(row("a", 2))
    table.beat(row("b", 1), [other])
    assert set(by_name(table.beat(row("b", 2), [row("a", 2)]))) == {"b"}


def test_one_leaves_its_own_row_only(table: AnyTable) -> None:
    """Not that of its successor of the same name."""
    table.beat(row("a", 1))
    table.beat(row("a", 1, incarnation=1))
    table.leave(row("b", 1))
    if isinstance(table, MemoryTable):
        table.leave(row("a", 1))
        assert set(table.rows) == {"a"}


def test_no_beat_writes_the_row_again_that_was_left(database: Database) -> None:
    """Not one that was under way, either."""
    database.execute(TABLE)
    table = FleetTable(parse_database_url(database.url), "one")
    table.beat(row("a", 1))
    threads = [threading.Thread(target=table.beat, args=(row("a", n),)) for n in range(2, 8)]
    for thread in threads:
        thread.start()
    table.leave(row("a", 1))
    for thread in threads:
        thread.join()
    assert database.execute("SELECT name FROM idle_instances") == []


def test_what_cannot_be_is_told_apart(database: Database) -> None:
    """No table, no rights, no writes now, no database."""
    table = FleetTable(parse_database_url(database.url), "one")
    with pytest.raises(NoTable):
        table.beat(row("a", 1))
    database.execute(TABLE)
    for code in ("25006", "0A000"):
        with refusing_writes(database, code), pytest.raises(TableReadOnly):
            table.beat(row("a", 1))
    database.execute("ALTER TABLE idle_instances DROP COLUMN view")
    with pytest.raises(TableUnusable, match="view"):
        table.beat(row("a", 1))
    away = database.url.replace(database.name, "nothing")
    with pytest.raises(TableUnreachable):
        FleetTable(parse_database_url(away), "one").beat(row("a", 1))


def test_fleets_do_not_see_each_other(database: Database) -> None:
    """Another query on the same table is another fleet."""
    database.execute(TABLE)
    for name in ("one", "other"):
        assert FleetTable(parse_database_url(database.url), name).beat(row("a", 1)) == []
    ((number,),) = database.execute(sql.SQL("SELECT count(*) FROM idle_instances"))
    assert number == 2


def test_a_system_that_gives_no_thread_costs_a_beat(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The daemon goes on, and beats again later; at its end it is found silent."""
    world = World(1)
    with simulated_time(world):
        process = world.start()
        world.run(60)
        process.stand_still()
        world.run(15)
        process.is_running = True

        def start(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as context:
            context.setattr(threading.Thread, "start", start)
            process.supervisor._beat_if_due()
            process.membership.leave()
        assert "can't start new thread" in caplog.text
        assert process.membership.wait_seconds <= 3
