"""Schemas, and reading through a real PgBouncer in transaction mode."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import sql

from rebreak_idle.database_url import parse_database_url
from rebreak_idle.store import DEFAULT_QUERY, ConnectionStore
from tests.support.servers import Database, PgBouncer
from tests.support.waiting import wait_for
from tests.unit.store.conftest import failure, read

# Schemas


@pytest.fixture
def two_schemas(database: Database) -> Database:
    """The table in ``public`` and again in a schema whose name needs quoting."""
    database.add("public@example.org", password_encrypted="x")
    database.execute('CREATE SCHEMA "Mail box"')
    database.execute(
        'CREATE TABLE "Mail box".mail_connections (LIKE mail_connections INCLUDING ALL)'
    )
    database.execute(
        """INSERT INTO "Mail box".mail_connections (user_id, email, imap_host, password_encrypted)
        VALUES (gen_random_uuid(), 'second@example.org', 'h', 'x')"""
    )
    return database


def emails(url: str) -> list[str]:
    return [mailbox.email for mailbox in read(url)]


def test_the_schema_is_looked_in(two_schemas: Database) -> None:
    """With ``schema=`` the query's table is the one of that schema."""
    assert emails(f"{two_schemas.url}?schema=Mail%20box") == ["second@example.org"]
    assert emails(f"{two_schemas.url}?schema=public") == ["public@example.org"]
    assert emails(two_schemas.url) == ["public@example.org"]


@pytest.mark.parametrize("schema", ["no_such", "x%22%3B%20DROP%20TABLE%20mail_connections%3B--"])
def test_a_schema_without_the_table(two_schemas: Database, schema: str) -> None:
    """A schema without the table, and one whose name is an attack, find no table."""
    assert "does not exist" in failure(f"{two_schemas.url}?schema={schema}")
    assert emails(two_schemas.url) == ["public@example.org"]


# Through PgBouncer in transaction mode


def test_through_the_pooler(database: Database, pgbouncer: PgBouncer) -> None:
    """Many readings, one after the other and from several threads at once, through one pool."""
    for number in range(5):
        database.add(f"m{number}@example.org", password_encrypted="x")
    parameters = "?pgbouncer=true&connection_limit=1"
    store = ConnectionStore(
        parse_database_url(pgbouncer.url_for(database.url) + parameters), DEFAULT_QUERY
    )
    with ThreadPoolExecutor(8) as pool:
        readings = [pool.submit(store.read) for _ in range(80)]
        assert all(len(reading.result(60)) == 5 for reading in readings)


def test_nothing_stays_behind_in_the_pool(two_schemas: Database, pgbouncer: PgBouncer) -> None:
    """Schemas and settings of one reading never reach the next on the same server connection."""
    url = pgbouncer.url_for(two_schemas.url)

    def read_in_turn(number: int) -> bool:
        if number % 2:
            return emails(f"{url}?schema=Mail%20box&pgbouncer=true") == ["second@example.org"]
        return emails(url) == ["public@example.org"]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read_in_turn, range(60)))
    settings_query = """
        SELECT current_setting('transaction_read_only') AS id,
            current_setting('default_transaction_read_only') AS user_id,
            current_setting('search_path') AS email, 'h' AS imap_host,
            (SELECT count(*) FROM pg_prepared_statements)::text AS password_encrypted
    """
    (left,) = read(url, settings_query)
    assert (left.id, left.user_id, left.stored_password) == ("on", "off", "0")
    assert left.email == '"$user", public'


def test_errors_through_the_pooler(database: Database, pgbouncer: PgBouncer) -> None:
    """A failed reading leaves the pooled connection fit for the next one."""
    url = pgbouncer.url_for(database.url)
    database.add("anna@example.org", password_encrypted="x")
    for _ in range(3):
        assert "syntax error" in failure(url, "SELEC")
        assert "read" in failure(url, "DELETE FROM mail_connections RETURNING *")
        assert emails(url) == ["anna@example.org"]


def test_the_pooler_knows_no_such_database(pgbouncer: PgBouncer) -> None:
    """An unknown database behind a pooler is a DatabaseError."""
    text = failure(pgbouncer.url_for("/no_such_database") + "?connect_timeout=5")
    assert "no_such_database" in text


def test_the_pooler_without_its_database(pgbouncer: PgBouncer, database: Database) -> None:
    """A pooler that went away is a DatabaseError, and the next reading after it works again."""
    url = pgbouncer.url_for(database.url)
    assert read(url) == []
    with pgbouncer.down():
        assert "check DATABASE_URL" in failure(url)
    assert read(url) == []


def test_no_connection_is_left_open(database: Database) -> None:
    """A reading, and a failed one, end their connection."""
    read(database.url)
    failure(database.url, "SELEC")
    count = sql.SQL(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = {} AND pid <> pg_backend_pid()"
    ).format(database.name)
    wait_for(lambda: database.execute(count) == [(0,)], 10, "the connections to end")
