"""The query that reads the rows: the default, one's own, and those that cannot be used."""

from __future__ import annotations

import re
import uuid

import pytest

from rebreak_idle.mailbox import Mailbox
from tests.support.servers import Database
from tests.unit.store.conftest import failure, read

PRISMA_TABLE = """
CREATE TABLE "MailConnection" (
    "id" {id_type} PRIMARY KEY,
    "userId" {id_type} NOT NULL,
    "email" text NOT NULL,
    "imapHost" text NOT NULL,
    "imapPort" integer NOT NULL DEFAULT 993,
    "passwordEncrypted" text NOT NULL,
    "imapUsername" text,
    "imapSecurity" text,
    "isActive" boolean NOT NULL DEFAULT true,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP
)
"""
PRISMA_QUERY = 'SELECT * FROM "MailConnection" WHERE "isActive"'


def test_no_rows(database: Database) -> None:
    """An empty table is an empty list."""
    assert read(database.url) == []


def test_the_default_query(database: Database) -> None:
    """The default query reads the active rows, with what the contract takes for what is not there.

    It asks for no user name and no security: these need a query of one's own.
    """
    user = uuid.uuid4()
    id_ = database.add(
        "anna@example.org",
        user_id=user,
        imap_host="imap.example.org",
        imap_port=994,
        password_encrypted="aa:bb:cc",
    )
    database.add("gone@example.org", is_active=False)
    assert read(database.url) == [
        Mailbox(
            id=id_,
            user_id=str(user),
            email="anna@example.org",
            host="imap.example.org",
            port=994,
            username="anna@example.org",
            stored_password="aa:bb:cc",
        )
    ]


@pytest.mark.parametrize(
    ("id_type", "given_id"), [("text", "'clx1a'"), ("integer", "7"), ("bigint", "8")]
)
def test_prisma_naming(database: Database, id_type: str, given_id: str) -> None:
    """Prisma's own naming is read with nothing but the query, ids of any type included."""
    database.execute(PRISMA_TABLE.format(id_type=id_type))
    database.execute(
        f"""INSERT INTO "MailConnection" VALUES
        ({given_id}, {given_id}, 'anna@example.org', 'imap.example.org', DEFAULT, 'aa:bb:cc',
         'anna', 'starttls')"""
    )
    text = given_id.strip("'")
    assert read(database.url, PRISMA_QUERY) == [
        Mailbox(
            id=text,
            user_id=text,
            email="anna@example.org",
            host="imap.example.org",
            port=993,
            username="anna",
            stored_password="aa:bb:cc",
            starttls=True,
        )
    ]


def test_a_query_with_a_semicolon_percent_signs_and_remarks(database: Database) -> None:
    """A query is sent as it is: percent signs, casts, remarks and a semicolon at its end."""
    database.add("anna@example.org", password_encrypted="x")
    database.add("boris@elsewhere.example", password_encrypted="x")
    query = """
        -- only ours, 100 %
        SELECT id::text, user_id, email, imap_host, password_encrypted /* %s */
        FROM mail_connections WHERE email LIKE '%@example.org' AND '%(x)s' = '%(x)s';
    """
    assert [mailbox.email for mailbox in read(database.url, query)] == ["anna@example.org"]


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "12000-01-01", "0044-03-15 BC"])
def test_columns_that_mean_nothing_here_are_ignored(database: Database, moment: str) -> None:
    """A column that nobody asked for does no harm, even with values that Python cannot hold."""
    database.add("anna@example.org", password_encrypted="x", created_at=moment)
    assert [mailbox.email for mailbox in read(database.url, "SELECT * FROM mail_connections")] == [
        "anna@example.org"
    ]


def test_missing_columns_are_named(database: Database) -> None:
    """A query without a required column names what is missing and what is there."""
    text = failure(database.url, "SELECT id, email AS mail, imap_port FROM mail_connections")
    assert "no column user_id, email, imap_host, password_encrypted" in text
    assert "returns id, mail, imap_port" in text
    assert "MAIL_CONNECTIONS_QUERY" in text


def test_columns_that_are_there_twice_are_named(database: Database) -> None:
    """A join that returns a column twice is refused: nobody knows which is meant."""
    text = failure(
        database.url,
        'SELECT *, id AS "userId" FROM mail_connections',
    )
    assert "user_id more than once" in text


def test_the_table_is_not_there(database: Database) -> None:
    """A missing table is named, with what to do."""
    database.execute("DROP TABLE mail_connections")
    text = failure(database.url)
    assert '"mail_connections" does not exist' in text
    assert "create the table" in text


def test_a_column_that_is_not_there(database: Database) -> None:
    """A query for an unknown column is PostgreSQL's message and what to set."""
    text = failure(database.url, "SELECT no_such FROM mail_connections")
    assert '"no_such" does not exist' in text
    assert "set MAIL_CONNECTIONS_QUERY" in text


def test_a_syntax_error(database: Database) -> None:
    """A query that is no SQL is one line, although PostgreSQL answers several."""
    text = failure(database.url, "SELEC id\nFROM mail_connections")
    assert "syntax error" in text
    assert "set MAIL_CONNECTIONS_QUERY" in text


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM mail_connections RETURNING *",
        "UPDATE mail_connections SET imap_host = 'evil' RETURNING *",
        "INSERT INTO mail_connections (user_id, email, imap_host, password_encrypted) "
        "VALUES (gen_random_uuid(), 'x', 'x', 'x') RETURNING *",
        "WITH gone AS (DELETE FROM mail_connections RETURNING *) SELECT * FROM gone",
        "SELECT * FROM mail_connections; DELETE FROM mail_connections",
        "DROP TABLE mail_connections",
        "SET TRANSACTION READ WRITE; DELETE FROM mail_connections",
        "COMMIT; DELETE FROM mail_connections RETURNING *",
    ],
)
def test_a_query_that_writes_is_refused(database: Database, query: str) -> None:
    """Whatever the query is, nothing is written, and the line says why."""
    database.add("anna@example.org", imap_host="imap.example.org")
    text = failure(database.url, query)
    rows = database.execute("SELECT email, imap_host FROM mail_connections")
    assert rows == [("anna@example.org", "imap.example.org")]
    assert re.search("must (only read|be a SELECT)", text)


@pytest.mark.parametrize(
    "query", ["SET search_path TO public", "-- nothing", ";", "DO 'BEGIN END'"]
)
def test_a_query_that_returns_nothing(database: Database, query: str) -> None:
    """What returns no rows at all must be a SELECT."""
    assert "must be a SELECT" in failure(database.url, query)
