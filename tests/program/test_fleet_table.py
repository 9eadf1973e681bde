"""Where the table is not there, or cannot be used, and where two daemons have one name."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from tests.support.fleet_rig import (
    MAILBOXES,
    SILENCE_SECONDS,
    TABLE,
    Fleet,
    refusing_writes,
)
from tests.support.recording_backend import RecordingBackend
from tests.support.servers import Certificates, Database


@pytest.fixture
def fleet(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> Iterator[Fleet]:
    """No daemon and no table yet, and mailboxes at one server."""
    with Fleet(database, backend, certificates, tmp_path) as fleet:
        yield fleet


@pytest.fixture
def reader(database: Database) -> Iterator[str]:
    """A user who may read the mailboxes, and nothing else; the URL."""
    name = sql.Identifier(f"reader_{database.name}")
    database.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    database.execute(sql.SQL("GRANT SELECT ON mail_connections TO {}").format(name))
    yield database.url.replace("postgres@", f"reader_{database.name}@", 1)
    database.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(name))
    database.execute(sql.SQL("DROP ROLE {}").format(name))


def test_without_the_table_one_is_alone_and_joins_when_it_is_there(fleet: Fleet) -> None:
    """It says so once, watches everything, and shares from the first refresh on that finds it."""
    daemons = [fleet.start(name, REFRESH_INTERVAL_SECONDS=1) for name in ("a", "b")]
    fleet.wait(lambda: fleet.all_have(2), "each to watch everything")
    for daemon in daemons:
        daemon.wait_line("alone: there is no table idle_instances, so every mailbox is watched")
        mark = daemon.mark()
        for _ in range(3):
            daemon.wait_line("refreshed —", after=mark)
            mark = daemon.mark()
        assert daemon.text.count("alone:") == 1
    fleet.watch()
    fleet.database.execute(TABLE)
    fleet.wait_settled("a", "b")
    assert fleet.longest_gap == 0
    fleet.mail()
    fleet.wait_scanned()


def test_a_table_without_rights_leaves_one_alone_with_an_error(fleet: Fleet, reader: str) -> None:
    """One line that names the script; it joins at the next refresh after the rights are there."""
    fleet.database.execute(TABLE)
    daemon = fleet.start("a", reader, REFRESH_INTERVAL_SECONDS=1)
    daemon.wait_line("alone: the table idle_instances cannot be used (permission denied")
    fleet.wait(lambda: fleet.all_have(1), "it to watch everything")
    user = sql.Identifier(f"reader_{fleet.database.name}")
    fleet.database.execute(
        sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON idle_instances TO {}").format(user)
    )
    daemon.wait_line("new row violates row-level security policy")
    assert fleet.all_have(1)
    fleet.database.execute(
        sql.SQL("CREATE POLICY more ON idle_instances TO {} USING (true)").format(user)
    )
    daemon.wait_line(f"joined as a, with nobody else yet: {MAILBOXES} of {MAILBOXES} mailboxes")
    fleet.wait_settled("a")


def test_a_table_that_goes_leaves_each_alone(fleet: Fleet) -> None:
    """Each watches everything, until the table is back."""
    fleet.database.execute(TABLE)
    fleet.start("a", REFRESH_INTERVAL_SECONDS=1)
    fleet.start("b", REFRESH_INTERVAL_SECONDS=1)
    fleet.wait_settled("a", "b")
    fleet.watch()
    fleet.database.execute("ALTER TABLE idle_instances RENAME TO away")
    fleet.wait(lambda: fleet.all_have(2), "each to watch everything")
    fleet.database.execute("ALTER TABLE away RENAME TO idle_instances")
    fleet.wait_settled("a", "b")
    assert fleet.longest_gap == 0


def test_a_database_that_only_reads_for_a_while_is_an_outage(fleet: Fleet) -> None:
    """A standby, until the other server is back: what is watched goes on, and no more."""
    fleet.database.execute(TABLE)
    fleet.start_all("a", "b")
    fleet.watch()
    before = list(fleet.imap.connections)
    with refusing_writes(fleet.database, "25006"):
        for daemon in fleet.daemons.values():
            daemon.wait_line("cannot reach the table idle_instances: a standby")
        fleet.let_pass(2 * SILENCE_SECONDS)
        assert fleet.imap.connections == before
    fleet.wait_settled("a", "b")
    assert fleet.longest_gap == 0


def test_two_daemons_with_one_name_both_watch(fleet: Fleet) -> None:
    """Whose mistake it is, one error line says; nothing is missed, whichever of them ends."""
    fleet.database.execute(TABLE)
    first = fleet.start("a")
    fleet.wait_settled("a")
    fleet.watch()
    second = fleet.start("a")
    fleet.wait(lambda: fleet.all_have(2), "both to watch")
    line = "another daemon is called a as well, and both watch the same mailboxes"
    for daemon in (first, second):
        daemon.wait_line(line)
    fleet.let_pass(3)
    first.signal(signal.SIGKILL)
    fleet.wait(lambda: fleet.all_have(1), "the sessions of the first to end")
    fleet.mail()
    fleet.wait_scanned()
    assert fleet.longest_gap == 0
    for daemon in (first, second):
        assert daemon.text.count(line) == 1
