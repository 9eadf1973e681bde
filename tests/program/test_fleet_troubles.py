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

from tests.conftest import require
from tests.support.daemon import Daemon
from tests.support.fleet_rig import (
    BEAT_SECONDS,
    MAILBOXES,
    ROOM_SECONDS,
    SILENCE_SECONDS,
    TABLE,
    Fleet,
)
from tests.support.recording_backend import RecordingBackend
from tests.support.servers import Certificates, Database, PgBouncer, Postgres, find_program

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
    assert fleet.most_sessions == 2
    stopped.wait_line("this process stood still for")
    stopped.wait_line("the others took this instance for dead")
    assert "fell silent" not in stopped.text
    fleet.wait_scanned()


@pytest.fixture
def own_pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    """The way of one instance to the database."""
    require("pgbouncer")
    with PgBouncer(postgres) as pooler:
        yield pooler


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "hangs"])
def test_one_that_is_cut_off_from_the_database_goes_on(
    fleet: Fleet, own_pooler: PgBouncer, answers: bool
) -> None:
    """Nothing is closed; a mailbox has two sessions at most, and a mail two scans; afterwards
    there is one session again.
    """
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
        fleet.let_pass(2 * BEAT_SECONDS)
        assert set(fleet.open_connections()) >= before, "a session was closed"
        fleet.daemons["b"].wait_line("cannot reach the table idle_instances")
    finally:
        if answers:
            os.kill(own_pooler.pid, signal.SIGCONT)
        else:
            own_pooler.start()
    began_at = time.monotonic()
    fleet.wait_settled("a", "b", "c", seconds=3 * BEAT_SECONDS + ROOM_SECONDS)
    print(f"cut off: one session each after {time.monotonic() - began_at:.1f} s")
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
        assert len(fleet.imap.connections) == len(before) + fleet.rows()["c"][0]
        for daemon in fleet.daemons.values():
            assert "fell silent" not in daemon.text
            assert "took this instance for dead" not in daemon.text
        fleet.wait_scanned()


def with_clock(fleet: Fleet, name: str, ahead: str) -> Daemon:
    """A daemon on a machine whose wall clock is wrong by this."""
    library = Path(find_program("faketime"))
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert libraries, f"{library} has no library"
    return fleet.start(
        name,
        LD_PRELOAD=libraries[0],
        FAKETIME=ahead,
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        FAKETIME_DONT_RESET="1",
    )


def test_wall_clocks_an_hour_apart_change_nothing(fleet: Fleet) -> None:
    """Who is alive is known by counters that grow, whatever anybody's clock says."""
    require("faketime")
    with_clock(fleet, "a", "+0")
    with_clock(fleet, "b", HOUR_AHEAD)
    with_clock(fleet, "c", HOUR_BEHIND)
    fleet.wait_settled("a", "b", "c")
    share = fleet.rows()["b"][0]
    fleet.watch()
    fleet.let_pass(2 * SILENCE_SECONDS)
    assert (fleet.longest_gap, fleet.most_sessions) == (0, 1)
    fleet.daemons["b"].signal(signal.SIGKILL)
    fleet.wait(lambda: not fleet.is_covered(), "its sessions to end")
    fleet.wait(fleet.is_covered, "the others to take over")
    print(f"clocks an hour apart: unwatched for {fleet.longest_gap:.1f} s")
    fleet.wait_settled("a", "c")
    fleet.daemons["c"].wait_line(f"b fell silent: its {share} mailboxes are taken over")
    for name in ("a", "c"):
        assert "stood still" not in fleet.daemons[name].text


def test_the_clock_of_the_database_is_read_by_nobody(fleet: Fleet) -> None:
    """Times in the table that lie far in the future and in the past change nothing."""
    fleet.start_all("a", "b")
    fleet.watch()
    for times in ("now() + interval '1 hour'", "now() - interval '1 day'"):
        beat = fleet.beat_of("a")
        fleet.database.execute(f"UPDATE idle_instances SET beat_at = {times}, started_at = {times}")
        fleet.wait(lambda b=beat: fleet.beat_of("a") >= b + 4, "four beats")  # type: ignore[misc]
    fleet.let_pass(SILENCE_SECONDS)
    assert (fleet.longest_gap, fleet.most_sessions) == (0, 1)
    assert set(fleet.rows()) == {"a", "b"}
