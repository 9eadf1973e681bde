"""Several daemons, for people: `check` and SIGUSR1 show them."""

from __future__ import annotations

import re
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rebreak_idle import __version__
from rebreak_idle.database_url import parse_database_url
from rebreak_idle.fleet.instance import Instance
from rebreak_idle.fleet.sharing import fleet_fingerprint
from rebreak_idle.fleet.table import FleetTable
from rebreak_idle.store import DEFAULT_QUERY
from tests.conftest import Run
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, Postgres

TABLE = Path(__file__).parents[2] / "scripts" / "idle_instances.sql"
ALONE = (
    "[idle/fleet] there is no table idle_instances: a daemon is alone, and watches every mailbox"
)
AGO = r"last beat \d+(\.\d)?s ago"
Beat = Callable[..., None]


@pytest.fixture
def beat(database: Database) -> Beat:
    """Makes the table; the function writes the row of an instance that is not there."""
    database.execute(TABLE.read_text("utf-8"))

    def write(name: str, mailboxes: int, watched: int, query: str = DEFAULT_QUERY) -> None:
        table = FleetTable(parse_database_url(database.url), fleet_fingerprint(query, ""))
        settled = mailboxes == watched
        row = Instance(name, str(uuid.uuid4()), 1, False, "[]", settled, "", mailboxes, watched)
        table.beat(row)
        table.beat(replace(row, beat=2))  # in its first nobody counts as settled

    return write


@pytest.fixture
def mailbox(database: Database, certificates: Certificates) -> Iterator[None]:
    """A mailbox that works, and its server."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        yield


@pytest.fixture
def reader(postgres: Postgres, database: Database) -> Iterator[str]:
    """The database for a user who may read all mailboxes, and nothing else."""
    postgres.execute("CREATE ROLE reads_only LOGIN PASSWORD 'change-me'")
    database.execute("GRANT SELECT ON mail_connections TO reads_only")
    parameters = {**conninfo_to_dict(database.url), "user": "reads_only", "password": "change-me"}
    yield make_conninfo(**parameters)
    database.execute("DROP OWNED BY reads_only")
    postgres.execute("DROP ROLE reads_only")


def rows_of(database: Database) -> list[tuple[object, ...]]:
    """All rows, with what tells when each was written last."""
    return database.execute("SELECT xmin::text, * FROM idle_instances ORDER BY fleet, name")


@pytest.mark.usefixtures("mailbox")
def test_check_shows_the_instances_and_writes_nothing(
    run: Run, database: Database, beat: Beat
) -> None:
    """A line for each of this fleet, by name; the preflight itself is none of them."""
    beat("mail-2", 20, 20)
    beat("mail-1", 30, 10)
    beat("another's", 5, 5, query="SELECT * FROM others")
    before = rows_of(database)
    with run("check", INSTANCE_NAME="mail-3") as daemon:
        assert daemon.wait(30) == 0
    first, second = [line for line in daemon.lines if line.startswith("[idle/fleet]")]
    version = rf"version {re.escape(__version__)}, {AGO}"
    one = r"\[idle/fleet\] instance mail-1: 30 mailboxes, 10 watched, not settled yet"
    assert re.fullmatch(rf"{one}; {version}", first)
    two = r"\[idle/fleet\] instance mail-2: 20 mailboxes, 20 watched, settled"
    assert re.fullmatch(rf"{two}; {version}", second)
    assert rows_of(database) == before


@pytest.mark.usefixtures("mailbox", "beat")
def test_check_says_that_there_are_no_instances(run: Run, database: Database) -> None:
    """And it does not become the first."""
    with run("check") as daemon:
        assert daemon.wait(30) == 0
    assert "[idle/fleet] no instances: a daemon would be the first" in daemon.lines
    assert rows_of(database) == []


@pytest.mark.usefixtures("mailbox")
def test_check_says_that_there_is_no_table(run: Run) -> None:
    """That is no fault: most are alone."""
    with run("check") as daemon:
        assert daemon.wait(30) == 0
    assert ALONE in daemon.lines


@pytest.mark.usefixtures("mailbox", "beat")
def test_check_says_that_the_table_cannot_be_read(run: Run, reader: str) -> None:
    """The mailboxes are tried all the same."""
    with run("check", DATABASE_URL=reader) as daemon:
        assert daemon.wait(30) == 0
    (line,) = [line for line in daemon.lines if line.startswith("[idle/fleet]")]
    assert line.startswith(
        "[idle/fleet] the table idle_instances cannot be used: permission denied"
    )


@pytest.mark.usefixtures("mailbox")
def test_a_daemon_that_may_only_read_is_alone(
    run: Run, reader: str, beat: Beat, database: Database
) -> None:
    """It watches every mailbox, and one line says what to do."""
    beat("mail-1", 1, 1)
    with run(DATABASE_URL=reader, INSTANCE_NAME="mail-2") as daemon:
        daemon.wait_line("[idle/user@example.org] connected")
        (line,) = [line for line in daemon.lines if line.startswith("[idle/fleet]")]
        assert "alone: the table idle_instances cannot be used (permission denied" in line
        assert line.endswith("see scripts/idle_instances.sql")
        assert daemon.stop() == 0
    assert [row[2] for row in rows_of(database)] == ["mail-1"]


@pytest.mark.usefixtures("mailbox")
def test_sigusr1_shows_the_instances(run: Run, beat: Beat) -> None:
    """By name, each as it said of itself, and which of them this one is."""
    beat("mail-2", 7, 5)
    with run(INSTANCE_NAME="mail-1") as daemon:
        daemon.wait_line("joined as mail-1, with mail-2: ")
        mark = daemon.mark()
        daemon.signal(signal.SIGUSR1)
        other = daemon.wait_line("instance mail-2: ", after=mark)
        assert other == "[idle/fleet] instance mail-2: 7 mailboxes, 5 watched, not settled yet"
        own = daemon.lines[daemon.lines.index(other) - 1]
        described = r"instance mail-1: [01] mailboxes, [01] watched, (settled|not settled yet)"
        assert re.fullmatch(rf"\[idle/fleet\] {described} \(this one\)", own)


@pytest.mark.usefixtures("mailbox")
def test_sigusr1_says_nothing_of_instances_where_a_daemon_is_alone(run: Run) -> None:
    """There is one line when it starts, and no other."""
    with run() as daemon:
        daemon.wait_line("scan-triggered")
        mark = daemon.mark()
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("states — ", after=mark)
        assert daemon.stop() == 0
    (line,) = [line for line in daemon.lines if line.startswith("[idle/fleet]")]
    assert line.startswith("[idle/fleet] alone: there is no table idle_instances, so every")
