"""The fingerprint of the rows, by a real PostgreSQL, and what is made of it."""

import logging
from collections.abc import Iterator

import pytest

from rebreak_idle.changes import REST, Changes
from rebreak_idle.database_url import parse_database_url
from rebreak_idle.errors import DatabaseError, NoFingerprint
from rebreak_idle.fingerprint import Fingerprint, inner_query
from rebreak_idle.log import log
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.store import DEFAULT_QUERY, ConnectionStore
from tests.support.servers import Database, PgBouncer, free_port

# --- the fingerprint ------------------------------------------------------------------------------


def fingerprint(url: str, query: str = DEFAULT_QUERY) -> Fingerprint:
    return Fingerprint(parse_database_url(url), query)


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
def test_each_change_that_matters_is_seen(
    database: Database, pgbouncer: PgBouncer, pooled: bool
) -> None:
    """A row that comes, goes, changes or is switched off has another fingerprint; none has not."""
    found = fingerprint(pgbouncer.url_for(database.url) if pooled else database.url)
    seen = [found.take()]
    assert found.take() == seen[-1]
    anna = database.add("anna@example.org")
    for change in (
        "SELECT",
        f"UPDATE mail_connections SET imap_port = 143 WHERE id = '{anna}'",
        f"UPDATE mail_connections SET password_encrypted = 'x' WHERE id = '{anna}'",
        f"UPDATE mail_connections SET is_active = false WHERE id = '{anna}'",
    ):
        database.execute(change)
        seen.append(found.take())
        assert found.take() == seen[-1]
    assert seen[-1] == seen[0]
    assert len(set(seen)) == len(seen) - 1


def test_the_order_of_rows_does_not_matter(database: Database) -> None:
    """The same rows in another order have the same fingerprint."""
    for name in ("anna", "ben", "clara"):
        database.add(f"{name}@example.org")
    takes = {
        fingerprint(database.url, f"{DEFAULT_QUERY} ORDER BY email {order}").take()
        for order in ("ASC", "DESC")
    }
    assert len(takes) == 1


def test_what_means_nothing_here_does_not_matter(database: Database) -> None:
    """A column that the backend writes at each scan has no reading follow."""
    database.add("anna@example.org")
    database.execute("ALTER TABLE mail_connections ADD scanned_at timestamptz")
    found = fingerprint(database.url, "SELECT * FROM mail_connections")
    before = found.take()
    database.execute("UPDATE mail_connections SET scanned_at = now()")
    assert found.take() == before
    database.execute("UPDATE mail_connections SET email = 'other@example.org'")
    assert found.take() != before


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM mail_connections;",
        "SELECT * FROM mail_connections ; ;\n",
        "SELECT * FROM mail_connections -- all of them",
        "SELECT * FROM mail_connections; -- all; of them",
        "SELECT * FROM mail_connections; /* all\n of them */ -- really\n",
        "SELECT *, '--' AS note FROM mail_connections WHERE ';' <> '--'",
        "SELECT a.*, b.* FROM mail_connections a JOIN mail_connections b USING (id)",
        "SELECT *, NULL AS nothing, '{}'::json AS more, point(1, 2) AS where FROM mail_connections",
        "WITH those AS (SELECT * FROM mail_connections) SELECT * FROM those;",
        "TABLE mail_connections",
        'SELECT id AS "imapHost", \'%s\' AS "semi;colon" FROM mail_connections',
    ],
)
def test_any_query_that_returns_rows(database: Database, query: str) -> None:
    """However the operator writes it: with a semicolon, comments, its own WITH, names twice."""
    found = fingerprint(database.url, query)
    before = found.take()
    database.add("anna@example.org")
    assert found.take() != before
    assert found.seconds > 0


def test_the_search_path_of_prisma_s_schema(database: Database) -> None:
    """The table is looked for where the rows are read from."""
    database.execute("CREATE SCHEMA mail; ALTER TABLE mail_connections SET SCHEMA mail")
    assert fingerprint(f"{database.url}?schema=mail").take() == "0:"


def test_a_semicolon_within_stays() -> None:
    """Only what ends the query is taken away."""
    assert inner_query("SELECT ';' AS a; ") == "SELECT ';' AS a\n"
    assert inner_query("SELECT 1 -- ; one") == "SELECT 1 -- ; one\n"


def test_a_query_without_a_fingerprint(database: Database) -> None:
    """What cannot stand in a subquery is said to have none; a database that is away is another."""
    with pytest.raises(NoFingerprint, match="syntax error"):
        fingerprint(database.url, "SHOW server_version").take()
    away = fingerprint(f"postgresql://postgres@127.0.0.1:{free_port()}/none")
    with pytest.raises(DatabaseError) as caught:
        away.take()
    assert not isinstance(caught.value, NoFingerprint)


def test_columns_that_changed_are_learned_anew(database: Database) -> None:
    """A view with fewer columns than before is no trouble, and one that is added is watched."""
    database.execute("CREATE VIEW active AS SELECT *, 1 AS more FROM mail_connections")
    found = fingerprint(database.url, "SELECT * FROM active")
    found.take()
    database.execute("DROP VIEW active; CREATE VIEW active AS SELECT * FROM mail_connections")
    assert found.take() == "0:"
    database.execute("ALTER TABLE mail_connections DROP COLUMN imap_username CASCADE")
    everything = fingerprint(database.url, "SELECT * FROM mail_connections")
    database.add("anna@example.org")
    everything.take()
    database.execute("ALTER TABLE mail_connections ADD imap_username text")
    before = everything.take()
    database.execute("UPDATE mail_connections SET imap_username = 'other'")
    assert everything.take() != before


# --- what is made of it ---------------------------------------------------------------------------


class Fingerprints:
    """Fingerprints that a test sets; an error is raised."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.now: str | DatabaseError = "a"
        self.taken = 0

    def take(self) -> str:
        self.taken += 1
        if isinstance(self.now, DatabaseError):
            raise self.now
        return self.now


class Rows:
    """Rows that a test lets change while they are read."""

    def __init__(self, fingerprints: Fingerprints) -> None:
        self.fingerprints = fingerprints
        self.meanwhile: str | None = None
        self.error: DatabaseError | None = None

    def read(self) -> list[Mailbox]:
        if self.meanwhile is not None:
            self.fingerprints.now = self.meanwhile
        if self.error is not None:
            raise self.error
        return []


@pytest.fixture
def fingerprints() -> Fingerprints:
    return Fingerprints()


@pytest.fixture
def rows(fingerprints: Fingerprints) -> Rows:
    return Rows(fingerprints)


@pytest.fixture
def changes(fingerprints: Fingerprints, rows: Rows) -> Changes:
    return Changes(rows.read, fingerprints, 10.0, 300.0, lambda: 1000.0)


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)


def test_a_change_is_seen_until_it_is_read(changes: Changes, fingerprints: Fingerprints) -> None:
    """Rows that differ are said to, at each check, until they are read."""
    changes.read()
    assert not changes.have_changed()
    fingerprints.now = "b"
    assert changes.have_changed()
    assert changes.have_changed()
    changes.read()
    assert not changes.have_changed()


def test_a_change_that_is_taken_back_after_a_reading_is_not_missed(
    changes: Changes, fingerprints: Fingerprints
) -> None:
    """Off, read, and on again between two checks."""
    changes.read()
    fingerprints.now = "off"
    changes.read()
    fingerprints.now = "a"
    assert changes.have_changed()


def test_a_change_while_the_rows_are_read_is_not_missed(
    changes: Changes, fingerprints: Fingerprints, rows: Rows
) -> None:
    """Nobody knows whether the reading saw it, so the rows are read once more."""
    rows.meanwhile = "b"
    changes.read()
    assert changes.have_changed()
    changes.read()
    assert not changes.have_changed()


def test_a_reading_that_failed_changes_nothing(
    changes: Changes, fingerprints: Fingerprints, rows: Rows
) -> None:
    """What was not read is still to be read."""
    changes.read()
    fingerprints.now, rows.error = "b", DatabaseError("away")
    assert changes.have_changed()
    with pytest.raises(DatabaseError):
        changes.read()
    assert changes.have_changed()


def test_a_database_without_fingerprints_is_said_once(
    changes: Changes, fingerprints: Fingerprints, said: list[str]
) -> None:
    """One line, then it is left in peace between the readings; it may learn it later."""
    fingerprints.now = NoFingerprint("function hashtextextended does not exist")
    changes.read()
    changes.read()
    assert said == [
        "the database cannot be asked whether the rows changed (function hashtextextended does not "
        "exist): a new row is seen at the next refresh only, every 5min"
    ]
    taken = fingerprints.taken
    assert not changes.have_changed()
    assert fingerprints.taken == taken
    fingerprints.now = "a"
    changes.read()
    assert not changes.have_changed()
    fingerprints.now = "b"
    assert changes.have_changed()


def test_a_table_that_is_away_is_not_the_fingerprint_s_fault(
    changes: Changes, fingerprints: Fingerprints, rows: Rows, said: list[str]
) -> None:
    """Where the rows cannot be read either, their reading says so, and checks go on."""
    changes.read()
    fingerprints.now = NoFingerprint("no such table")
    assert not changes.have_changed()
    rows.error = DatabaseError("no such table")
    with pytest.raises(DatabaseError):
        changes.read()
    fingerprints.now, rows.error = "b", None
    assert changes.have_changed()
    assert not said


def test_a_slow_check_comes_seldomer(changes: Changes, fingerprints: Fingerprints) -> None:
    """After one of a second the next waits for fifty: 2 % of a core."""
    assert changes.wait_seconds() == 10
    fingerprints.seconds = 0.1
    changes.have_changed()
    assert changes.wait_seconds() == 10
    fingerprints.seconds = 1.0
    changes.have_changed()
    assert changes.wait_seconds() == REST == 50


def test_off_is_off(fingerprints: Fingerprints, rows: Rows) -> None:
    """With 0 there is no thread and no fingerprint."""
    changes = Changes(rows.read, fingerprints, 0.0, 300.0)
    changes.read()
    changes.start(lambda: None)
    assert not fingerprints.taken


def test_what_is_read_and_what_is_asked_for_agree(database: Database) -> None:
    """With the real ones: rows that stay as they are do not look changed."""
    database.add("anna@example.org")
    url = parse_database_url(database.url)
    changes = Changes(
        ConnectionStore(url, DEFAULT_QUERY).read, Fingerprint(url, DEFAULT_QUERY), 10.0, 300.0
    )
    assert len(changes.read()) == 1
    assert not changes.have_changed()
    database.add("ben@example.org")
    assert changes.have_changed()
    assert len(changes.read()) == 2
    assert not changes.have_changed()
