"""Instances that stand still, are cut off, or whose clocks differ; and the database away.

See `test_fleet` for what comes and goes in order.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import programs_required, require
from tests.support.daemon import Daemon
from tests.support.fleet_rig import (
    BEAT_SECONDS,
    CALM_SILENCE_SECONDS,
    MAILBOXES,
    ROOM_SECONDS,
    SILENCE_SECONDS,
    TABLE,
    Fleet,
)
from tests.support.recording_backend import RecordingBackend
from tests.support.servers import Certificates, Database, PgBouncer, Postgres

OUTAGE_SECONDS = 12.0
HOUR_AHEAD, HOUR_BEHIND = "+1h", "-1h"


@pytest.fixture
def fleet(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> Iterator[Fleet]:
    """No daemon yet, a table, and mailboxes at one server."""
    database.execute(TABLE)
    with Fleet(database, backend, certificates, tmp_path) as fleet:
        yield fleet


def test_one_that_stood_still_is_replaced_and_comes_back(fleet: Fleet) -> None:
    """SIGSTOP for two silences, as by a suspended machine: the others take over; afterwards it
    gives nothing up, counts nobody dead, and each mailbox has one session again within 3 beats.
    """
    fleet.start_all("a", "b", "c")
    share = fleet.rows()["b"][0]
    stopped = fleet.daemons["b"]
    stopped.signal(signal.SIGSTOP)
    try:
        fleet.mail()
        began_at = time.monotonic()
        fleet.wait(lambda: fleet.sessions().total() == MAILBOXES + share, "the others to take over")
        print(f"stopped: taken over after {time.monotonic() - began_at:.1f} s")
        fleet.wait_scanned()
        fleet.wait(lambda: time.monotonic() - began_at > 2 * SILENCE_SECONDS, "two silences")
        fleet.mail()
    finally:
        stopped.signal(signal.SIGCONT)
    began_at = time.monotonic()
    fleet.watch()
    fleet.wait_settled("a", "b", "c", seconds=3 * BEAT_SECONDS + ROOM_SECONDS)
    print(f"went on: one session each after {time.monotonic() - began_at:.1f} s")
    assert fleet.longest_gap == 0
    stopped.wait_line("this process stood still for")
    stopped.wait_line("the others took this instance for dead")
    assert "fell silent" not in stopped.text.partition("took this instance for dead")[0]
    fleet.wait_scanned()


@pytest.fixture
def calm_fleet(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> Iterator[Fleet]:
    """The same, where nobody falls silent unless a test wants it."""
    database.execute(TABLE)
    with Fleet(database, backend, certificates, tmp_path, CALM_SILENCE_SECONDS) as fleet:
        yield fleet


@pytest.fixture
def own_pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    """The way of one instance to the database."""
    require("pgbouncer")
    with PgBouncer(postgres) as pooler:
        yield pooler


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "hangs"])
def test_one_that_is_cut_off_from_the_database_goes_on(
    calm_fleet: Fleet, own_pooler: PgBouncer, answers: bool
) -> None:
    """Nothing is closed; a mailbox has two sessions at most, and a mail two scans; afterwards
    there is one session again.
    """
    fleet = calm_fleet
    fleet.start("b", own_pooler.url_for(fleet.database.url))
    for name in ("a", "c"):
        fleet.start(name)
    fleet.wait_settled("a", "b", "c")
    share, before = fleet.rows()["b"][0], set(fleet.open_connections())
    fleet.wait_scanned()
    scans_before = len(fleet.backend.scans)
    fleet.watch()
    if answers:
        os.kill(own_pooler.pid, signal.SIGSTOP)
    else:
        own_pooler.stop()
    try:
        fleet.wait(lambda: fleet.sessions().total() == MAILBOXES + share, "the others to take over")
        fleet.wait(lambda: len(fleet.backend.scans) == scans_before + share, "the first scans")
        fleet.mail(MAILBOXES)
        fleet.wait_scanned()
        assert set(fleet.open_connections()) >= before, "a session was closed"
        fleet.daemons["b"].wait_line("cannot reach the table idle_instances")
    finally:
        if answers:
            os.kill(own_pooler.pid, signal.SIGCONT)
        else:
            own_pooler.start()
    began_at = time.monotonic()
    beat_seconds = fleet.silence_seconds / 3
    fleet.wait_settled("a", "b", "c", seconds=3 * beat_seconds + ROOM_SECONDS)
    beats = (time.monotonic() - began_at) / beat_seconds
    print(f"cut off: one session each after {beats:.1f} beats")
    assert fleet.longest_gap == 0
    assert fleet.most_sessions == 2
    since = Counter(scan.connection_id for scan in fleet.backend.scans[scans_before + share :])
    assert max(since.values()) <= 2
    fleet.daemons["b"].wait_line("the table idle_instances answers again")


def test_while_the_database_is_away_nothing_is_taken_over(
    database: Database,
    pgbouncer: PgBouncer,
    backend: RecordingBackend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """For all, through PgBouncer in transaction mode, for four silences: nothing is opened and
    nothing closed. One that starts meanwhile takes its share afterwards, not all.
    """
    database.execute(TABLE)
    url = pgbouncer.url_for(database.url)
    with Fleet(database, backend, certificates, tmp_path) as fleet:
        for name in ("a", "b"):
            fleet.start(name, url)
        fleet.wait_settled("a", "b")
        before = list(fleet.imap.connections)
        fleet.watch()
        with pgbouncer.down():
            newcomer = fleet.start("c", url)
            newcomer.wait_line("cannot read the mail connections")
            fleet.mail()
            fleet.let_pass(OUTAGE_SECONDS)
            assert fleet.all_have(1)
            assert fleet.imap.connections == before
        fleet.wait_settled("a", "b", "c")
        assert fleet.longest_gap == 0
        newcomer.wait_line("joined as c, with a, b:")
        fleet.wait_scanned()


def faketime() -> dict[str, str]:
    """The environment of a program whose wall clock is not the machine's."""
    require("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def with_clock(fleet: Fleet, name: str, ahead: str) -> Daemon:
    """A daemon on a machine whose wall clock is wrong by this."""
    return fleet.start(name, **faketime(), FAKETIME=ahead)


def test_wall_clocks_an_hour_apart_change_nothing(calm_fleet: Fleet) -> None:
    """Who is alive is known by counters that grow, whatever anybody's clock says."""
    fleet = calm_fleet
    with_clock(fleet, "a", "+0")
    with_clock(fleet, "b", HOUR_AHEAD)
    with_clock(fleet, "c", HOUR_BEHIND)
    fleet.wait_settled("a", "b", "c")
    share = fleet.rows()["b"][0]
    fleet.watch()
    fleet.let_pass(1.5 * fleet.silence_seconds)
    assert (fleet.longest_gap, fleet.most_sessions) == (0, 1)
    fleet.daemons["b"].signal(signal.SIGKILL)
    fleet.wait(lambda: not fleet.is_covered(), "its sessions to end")
    fleet.wait(fleet.is_covered, "the others to take over")
    print(f"clocks an hour apart: unwatched for {fleet.longest_gap:.1f} s")
    fleet.wait_settled("a", "c")
    fleet.daemons["c"].wait_line(f"b fell silent: its {share} mailboxes are taken over")


class PostgresWithClock(Postgres):
    """Its wall clock can be set while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = self.folder / "clock"
        self.set_clock("+0")
        environment = {
            **os.environ,
            **faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
        }
        self.run_options = {**self.run_options, "env": environment}

    def set_clock(self, ahead: str) -> None:
        new = self._clock.with_suffix(".new")
        new.write_text(ahead)
        new.replace(self._clock)


@pytest.fixture
def postgres_with_clock() -> Iterator[PostgresWithClock]:
    require("faketime")
    with programs_required(), PostgresWithClock() as server:
        yield server


def test_the_clock_of_the_database_is_set(
    postgres_with_clock: PostgresWithClock,
    backend: RecordingBackend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """An hour back and two ahead: nothing happens, and a death is noticed as ever."""
    server = postgres_with_clock
    with Database(server) as database:
        database.execute(TABLE)
        with Fleet(database, backend, certificates, tmp_path, CALM_SILENCE_SECONDS) as fleet:
            fleet.start_all("a", "b")
            fleet.watch()
            ((before,),) = database.execute("SELECT now()")
            for ahead in (HOUR_BEHIND, HOUR_AHEAD):
                server.set_clock(ahead)
                fleet.let_pass(1.2 * fleet.silence_seconds)
            ((after,),) = database.execute("SELECT now()")
            assert (after - before).total_seconds() > 3000, "the clock was not set"
            assert (fleet.longest_gap, fleet.most_sessions) == (0, 1)
            assert set(fleet.rows()) == {"a", "b"}
            server.set_clock(HOUR_BEHIND)
            fleet.daemons["b"].signal(signal.SIGKILL)
            fleet.wait(lambda: not fleet.is_covered(), "its sessions to end")
            fleet.wait(fleet.is_covered, "the other to take over")
            print(f"the database's clock set: unwatched for {fleet.longest_gap:.1f} s")
            fleet.wait_settled("a")
