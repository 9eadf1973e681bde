"""Reading the mail connections from a real PostgreSQL, directly and through a real PgBouncer."""

from __future__ import annotations

import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from rebreak_idle.cipher import PasswordCipher
from rebreak_idle.database_url import SSL_MODES, parse_database_url
from rebreak_idle.errors import DatabaseError
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.store import DEFAULT_QUERY, ConnectionStore
from tests.support.rig import ENCRYPTION_KEY, stored
from tests.support.servers import SCHEMA, Database, PgBouncer, Postgres, free_port
from tests.support.waiting import wait_for

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
# A table that lets everything in: what another schema may hold.
LOOSE_TABLE = """
CREATE TABLE loose (
    id text, user_id text, email text, imap_host text, imap_port text, password_encrypted text,
    imap_username text, imap_security text, imap_auth text
)
"""
LOOSE_QUERY = "SELECT * FROM loose ORDER BY email"


def read(url: str, query: str = DEFAULT_QUERY) -> list[Mailbox]:
    return ConnectionStore(parse_database_url(url), query).read()


def failure(url: str, query: str = DEFAULT_QUERY) -> str:
    """The text of the error that reading ends in: always one printable line."""
    with pytest.raises(DatabaseError) as caught:
        read(url, query)
    text = str(caught.value)
    assert text.isprintable()
    return text


def parsed(url: str) -> dict[str, object]:
    return dict(conninfo_to_dict(parse_database_url(url).conninfo))


# DATABASE_URL


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_plain_url(scheme: str) -> None:
    """A URL is taken as it is, under both names of its scheme."""
    database = parse_database_url(f" {scheme}://reader:secret@db.example:6543/mail\n")
    assert database.schema == ""
    assert conninfo_to_dict(database.conninfo) == {
        "user": "reader",
        "password": "secret",
        "host": "db.example",
        "port": "6543",
        "dbname": "mail",
    }


@pytest.mark.parametrize(
    "parameter",
    [
        "pgbouncer=true",
        "connection_limit=1",
        "pool_timeout=0",
        "socket_timeout=5",
        "statement_cache_size=0",
        "sslaccept=strict",
        "sslidentity=client.p12",
        "sslidentity=client.p12&sslpassword=x",
        "sslpassword=x",
        "max_idle_connection_lifetime=300",
        "supa=base-pooler.x",
        "schema=mail",
        "ssl=true",
        "ssl=0",
        "max=10&min=2&idleTimeoutMillis=30000&connectionTimeoutMillis=2000",
        "maxUses=7500&maxLifetimeSeconds=60&allowExitOnIdle=true",
        "keepAlive=true&keepAliveInitialDelayMillis=10000&query_timeout=5000",
        "statement_timeout=5000&lock_timeout=1000&idle_in_transaction_session_timeout=1",
        "max_lifetime=1800&idle_timeout=20&prepare=false&fetch_types=false&max_pipeline=1",
        "pool_max_conns=10&pool_min_conns=1&pool_max_conn_lifetime=1h30m",
        "pool_max_conn_idle_time=30m&pool_health_check_period=1m&pool_max_conn_lifetime_jitter=0",
        "default_query_exec_mode=simple_protocol&statement_cache_capacity=0",
        "pool=5&prepared_statements=false&encoding=unicode",
        "pool_size=5&max_overflow=10&pool_pre_ping=true&prepared_statement_cache_size=0",
        "conn_max_age=600",
        "workaround=supabase-pooler.vercel",
    ],
)
def test_foreign_parameters_are_dropped(parameter: str) -> None:
    """What only other programs understand is dropped, and everything else stays."""
    read = parsed(f"postgresql://u:p@h/d?sslmode=require&{parameter}&connect_timeout=3")
    assert read == {
        "user": "u",
        "password": "p",
        "host": "h",
        "dbname": "d",
        "sslmode": "require",
        "connect_timeout": "3",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sslcert=ca.pem", {"sslrootcert": "ca.pem"}),
        ("sslcert=%2Fetc%2Fca.pem&sslmode=require", {"sslrootcert": "/etc/ca.pem"}),
        ("sslcert=ca.pem&sslidentity=me.p12&sslpassword=x", {"sslrootcert": "ca.pem"}),
        ("sslcert=ca.pem&sslpassword=x&sslaccept=strict", {"sslrootcert": "ca.pem"}),
        ("sslcert=me.pem&sslkey=me.key", {"sslcert": "me.pem", "sslkey": "me.key"}),
        (
            "sslcert=me.pem&sslkey=me.key&sslpassword=x",
            {"sslcert": "me.pem", "sslkey": "me.key", "sslpassword": "x"},
        ),
        (
            "sslkey=me.key&sslrootcert=ca.pem&sslcert=me.pem",
            {"sslkey": "me.key", "sslrootcert": "ca.pem", "sslcert": "me.pem"},
        ),
        (
            "sslcert=me.pem&sslrootcert=ca.pem",
            {"sslcert": "me.pem", "sslrootcert": "ca.pem"},
        ),
    ],
)
def test_prisma_s_certificates(given: str, expected: dict[str, str]) -> None:
    """Without ``sslkey``, ``sslcert`` is the server's CA and ``sslpassword`` nothing of libpq's."""
    read = parsed(f"postgresql://h/d?{given}")
    assert {name: read[name] for name in read if name not in ("host", "dbname", "sslmode")} == (
        expected
    )


def test_the_certificates_of_a_key_value_string_are_libpq_s() -> None:
    """A key=value string is none of Prisma's: its ``sslcert`` is the client's."""
    assert parsed("host=h sslcert=me.pem sslpassword=x") == {
        "host": "h",
        "sslcert": "me.pem",
        "sslpassword": "x",
    }


# What libpq, or psycopg, would refuse at each connect.
REFUSED = [
    ("sslmode", "no-verify", "no-verify of node-postgres is require"),
    ("sslmode", "verify_full", "give one of disable, allow, prefer, require, verify-ca, "),
    ("sslmode", "true", "give one of disable"),
    ("sslmode", "REQUIRE", "give one of disable"),
    ("channel_binding", "yes", "channel_binding that libpq does not know"),
    ("target_session_attrs", "master", "target_session_attrs that libpq does not know"),
    ("gssencmode", "on", "gssencmode that libpq does not know"),
    ("ssl_min_protocol_version", "1.2", "ssl_min_protocol_version that libpq does not know"),
    ("ssl_max_protocol_version", "TLSv9", "ssl_max_protocol_version that libpq does not know"),
    ("require_auth", "scram", "require_auth that libpq does not know"),
    ("load_balance_hosts", "yes", "load_balance_hosts that libpq does not know"),
    ("sslcertmode", "never", "sslcertmode that libpq does not know"),
    ("connect_timeout", "10s", "has a connect_timeout that is no whole number"),
    ("connect_timeout", "inf", "has a connect_timeout that is no whole number"),
    ("connect_timeout", "", "has a connect_timeout that is no whole number"),
    ("tcp_user_timeout", "30s", "has a tcp_user_timeout that is no whole number"),
    ("keepalives", "true", "has a keepalives that is no whole number"),
    ("keepalives_idle", "1.5", "has a keepalives_idle that is no whole number"),
    ("keepalives_interval", "9999999999", "has a keepalives_interval that is no whole number"),
    ("keepalives_count", "x", "has a keepalives_count that is no whole number"),
    ("port", "five", "has a port that is none"),
    ("port", "0", "has a port that is none"),
    ("port", "65536", "has a port that is none"),
    ("port", "5432,5433", "has parameters (port) that libpq does not take as they are"),
    ("hostaddr", "db.example", "has a hostaddr that is no IP address"),
    ("hostaddr", "127.0.0.1,127.0.0.2", "has parameters (host, hostaddr) that libpq does not take"),
]


@pytest.mark.parametrize(("name", "value", "told"), REFUSED)
@pytest.mark.parametrize("form", ["postgresql://u:hunter2@h/d?{}={}", "host=h user=u {}='{}'"])
def test_what_libpq_would_refuse(form: str, name: str, value: str, told: str) -> None:
    """A value that no connect could use is told at the start, in both forms, without secrets."""
    with pytest.raises(ValueError) as caught:
        parse_database_url(form.format(name, quote(value) if "://" in form else value))
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        *(f"sslmode={mode}" for mode in SSL_MODES),
        "sslmode=require&sslmode=prefer",
        "ssl=true",
        "channel_binding=disable",
        "target_session_attrs=read-write",
        "gssencmode=disable",
        "ssl_min_protocol_version=TLSv1.3",
        "require_auth=scram-sha-256,md5",
        "require_auth=!password",
        "load_balance_hosts=random",
        "connect_timeout=%2010%20",
        "keepalives=0&keepalives_idle=60&keepalives_interval=15&keepalives_count=3",
        "tcp_user_timeout=30000",
        "hostaddr=127.0.0.1",
        "hostaddr=%3A%3A1",
        "sslrootcert=/no/such/file&sslmode=verify-full",
        "options=-c%20statement_timeout%3D5s",
        "application_name=x%20y",
    ],
)
def test_what_libpq_knows_is_taken(parameters: str) -> None:
    """Values that libpq knows are none of our business."""
    parse_database_url(f"postgresql://u:p@h/d?{parameters}")


def test_parameters_that_do_not_go_together() -> None:
    """Each known, and refused together, is a problem as well."""
    with pytest.raises(
        ValueError, match=r"parameters \(sslmode, sslrootcert\) that libpq does not"
    ):
        parse_database_url("postgresql://h/d?sslrootcert=system&sslmode=require")
    with pytest.raises(ValueError, match="parameters that libpq does not take as they are"):
        parse_database_url(
            "postgresql://h/d?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2"
        )


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        *(("true", "require"), ("True", "require"), ("1", "require"), ("require", "require")),
        *(("false", "disable"), ("0", "disable"), ("prefer", "prefer")),
        ("verify-full", "verify-full"),
    ],
)
def test_the_ssl_of_node_postgres(value: str, mode: str) -> None:
    """It is taken as the sslmode that it means."""
    assert parsed(f"postgresql://h/d?ssl={value}") == {"host": "h", "dbname": "d", "sslmode": mode}


@pytest.mark.parametrize("value", ["maybe", "no-verify", "", "%7B%22ca%22%3A1%7D"])
def test_an_ssl_that_nobody_knows(value: str) -> None:
    """Libpq would take it for nothing: it is a problem."""
    with pytest.raises(ValueError, match="give sslmode instead"):
        parse_database_url(f"postgresql://h/d?ssl={value}")


@pytest.mark.parametrize("name", ["sslmod", "maxx", "user_name", "Host", "search_path"])
def test_what_may_be_a_slip_is_not_dropped(name: str) -> None:
    """A parameter that no program is known to have may be meant for libpq."""
    with pytest.raises(ValueError, match=f"the unknown parameter '{name}'"):
        parse_database_url(f"postgresql://h/d?{name}=x")


def test_the_environment_of_libpq_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGSSLMODE, which node-postgres reads too, is named where it is what libpq refuses."""
    monkeypatch.setenv("PGSSLMODE", "no-verify")
    with pytest.raises(ValueError) as caught:
        parse_database_url("postgresql://h/d")
    assert "sslmode (by PGSSLMODE)" in str(caught.value)
    assert "no-verify of node-postgres is require" in str(caught.value)
    parse_database_url("postgresql://h/d?sslmode=require")


def test_several_hosts_are_judged_together() -> None:
    """Counts of hosts, addresses and ports that fit one another are taken."""
    parse_database_url("postgresql://h1:5432,h2:5433/d")
    parse_database_url("postgresql://h1,h2/d?hostaddr=127.0.0.1,%3A%3A1")
    parse_database_url("host=h1,h2 port=5432")
    parse_database_url("hostaddr=127.0.0.1,127.0.0.2 port=5432,5433")


def test_nothing_is_connected_to() -> None:
    """Judging the values opens no connection, not even to the server that is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        parse_database_url(f"postgresql://127.0.0.1:{port}/d?hostaddr=127.0.0.1")
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [("", ""), ("?schema=mail", "mail"), ("?pgbouncer=true&schema=Mail%20Box", "Mail Box")],
)
def test_schema_becomes_the_schema(parameters: str, schema: str) -> None:
    """Prisma's ``schema`` is kept aside, decoded."""
    assert parse_database_url(f"postgresql://h/d{parameters}").schema == schema


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///mail?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "mail"}),
        ("postgresql://u@/mail?host=%2Frun", {"user": "u", "host": "/run", "dbname": "mail"}),
        ("postgresql://%2Frun%2Fpg/mail", {"host": "/run/pg", "dbname": "mail"}),
        ("postgresql://", {}),
        ("postgresql:///mail", {"dbname": "mail"}),
        ("postgresql://h1:5432,h2:5433/d", {"host": "h1,h2", "port": "5432,5433", "dbname": "d"}),
        ("postgresql://[::1]:5432/d", {"host": "::1", "port": "5432", "dbname": "d"}),
        (
            "postgresql://u:p%40ss%2Fw%3Ard%3F%23%25@h/d?connection_limit=1",
            {"user": "u", "password": "p@ss/w:rd?#%", "host": "h", "dbname": "d"},
        ),
        ("postgresql://u:a+b@h/d", {"user": "u", "password": "a+b", "host": "h", "dbname": "d"}),
        ("postgresql://h/d?password=a+b", {"password": "a+b", "host": "h", "dbname": "d"}),
        ("postgresql://h/d?password=a%26b%2B", {"password": "a&b+", "host": "h", "dbname": "d"}),
        (
            "postgresql://h/d?options=-c%20geqo%3Doff",
            {"options": "-c geqo=off", "host": "h", "dbname": "d"},
        ),
        ("host=/run dbname=mail user=u", {"host": "/run", "dbname": "mail", "user": "u"}),
        (
            r"host=h password='a b\'c' dbname=d",
            {"host": "h", "password": "a b'c", "dbname": "d"},
        ),
        ("host=h password=a://b dbname=d", {"host": "h", "password": "a://b", "dbname": "d"}),
        ("service=mail", {"service": "mail"}),
    ],
)
def test_what_libpq_understands_arrives_as_it_is(url: str, expected: dict[str, str]) -> None:
    """Sockets, several hosts, encoded passwords and key=value strings mean what libpq means."""
    assert parsed(url) == expected


def test_an_unknown_parameter_is_named() -> None:
    """A parameter that neither libpq nor Prisma knows is named, without its value."""
    with pytest.raises(ValueError, match="the unknown parameter 'no_such'") as caught:
        parse_database_url("postgresql://u:hunter2@h/d?pgbouncer=true&no_such=hunter3")
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@h/d",
        "prisma+postgres://accelerate.example/?api_key=hunter2",
        "hunter2",
        "h/hunter2",
        "postgresql://u:hunter2%@h/d",
        "postgresql://u:hunter2@[h/d",
        "postgresql://u:hunter2 x@h/d",
        "postgresql://u:hun?ter2@h/d",
        "postgresql://u:x?hunter2@h/d",
        "host=h password=hunter2 x",
        "host=h password='hunter2",
        "host=h no_such=hunter2",
        "postgresql://u:p@h/d?password=x&hunter2",
    ],
)
def test_no_secret_in_the_message(url: str) -> None:
    """What cannot be parsed is refused with what to give instead, and nothing of it is shown."""
    with pytest.raises(ValueError, match="postgresql://") as caught:
        parse_database_url(url)
    shown = f"{caught.value!s} {caught.value!r}"
    assert "hunter2" not in shown
    assert "ter2" not in shown


def test_the_repr_hides_the_connection_string() -> None:
    """A Database that gets printed shows no password."""
    assert "hunter2" not in repr(parse_database_url("postgresql://u:hunter2@h/d?schema=s"))


@given(password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
@settings(deadline=None)
def test_an_encoded_password_is_kept(password: str) -> None:
    """Any password that is percent-encoded as it should be arrives as it is."""
    url = f"postgresql://u:{quote(password, safe='')}@h/d?schema=s&pgbouncer=true"
    assert parsed(url)["password"] == password


# Rows


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


# Rows that cannot be used


@pytest.fixture
def loose(database: Database) -> Callable[..., None]:
    """Adds a row to the table that lets everything in."""
    database.execute(LOOSE_TABLE)

    def add(**fields: str | None) -> None:
        row = {
            "id": "1",
            "user_id": "u",
            "email": "m@example.org",
            "imap_host": "h",
            "password_encrypted": "p",
            **fields,
        }
        insert = sql.SQL("INSERT INTO loose ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        )
        database.execute(insert, *row.values())

    return add


@pytest.mark.parametrize("nothing", [None, "", "  "])
@pytest.mark.parametrize("column", ["id", "user_id", "email", "imap_host", "password_encrypted"])
def test_a_required_column_is_null(
    database: Database, loose: Callable[..., None], column: str, nothing: str | None
) -> None:
    """A row without a required value has its problem, and the rows around it have none."""
    loose(id="0", email="a@example.org")
    loose(**{column: nothing})
    loose(id="2", email="z@example.org")
    found = {mailbox.id: mailbox for mailbox in read(database.url, LOOSE_QUERY)}
    assert len(found) == 3
    broken = found["" if column == "id" else "1"]
    assert broken.problem == f"{column} is NULL or empty"
    assert broken.name
    assert found["0"].problem == found["2"].problem == ""


def test_all_null_columns_are_told(database: Database, loose: Callable[..., None]) -> None:
    """A row that lacks several values is told about all of them."""
    loose(imap_host=None, email=None, password_encrypted=None)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem == "email, imap_host, password_encrypted is NULL or empty"


@pytest.mark.parametrize("port", [None, "", "993", " 993 "])
def test_the_usual_port(database: Database, loose: Callable[..., None], port: str | None) -> None:
    """Without a port it is 993, over TLS from the first byte."""
    loose(imap_port=port)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.port, mailbox.starttls, mailbox.problem) == (993, False, "")


@pytest.mark.parametrize(
    "port", ["imap", "0", "-1", "65536", "99.3", "9 3", "٩٩٣", "²", "1e3", "9" * 5000]
)
def test_a_bad_port(database: Database, loose: Callable[..., None], port: str) -> None:
    """A port that is none is that row's problem alone, shown in a few characters."""
    loose(imap_port=port)
    loose(id="2", email="z@example.org")
    broken, well = read(database.url, LOOSE_QUERY)
    assert "imap_port is" in broken.problem
    assert "not a port number" in broken.problem
    assert len(broken.problem) < 200
    assert well.problem == ""


@pytest.mark.parametrize(
    ("port", "security", "starttls"),
    [
        (None, None, False),
        ("993", "tls", False),
        ("143", None, True),
        ("143", "", True),
        ("143", "starttls", True),
        ("143", "tls", False),
        ("993", "starttls", True),
        ("587", "STARTTLS", True),
        ("993", " TLS ", False),
    ],
)
def test_security(
    database: Database,
    loose: Callable[..., None],
    port: str | None,
    security: str | None,
    starttls: bool,
) -> None:
    """TLS from the first byte unless the row says STARTTLS, or port 143 does."""
    loose(imap_port=port, imap_security=security)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.starttls, mailbox.problem) == (starttls, "")


@pytest.mark.parametrize("security", ["plain", "none", "ssl", "x" * 5000, "tls\x1b"])
def test_plain_text_is_no_security(
    database: Database, loose: Callable[..., None], security: str
) -> None:
    """Anything but tls and starttls is a problem, never plain text."""
    loose(imap_security=security)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert "tls or starttls" in mailbox.problem
    assert mailbox.problem.isprintable()
    assert len(mailbox.problem) < 200


@pytest.mark.parametrize("auth", ["oauth2", " OAuth2 "])
@pytest.mark.parametrize("password", [None, "", "sealed refresh token"])
def test_oauth2_needs_no_password(
    database: Database, loose: Callable[..., None], auth: str, password: str | None
) -> None:
    """The row is whole without one; one that is there is not kept, and yet its change is seen."""
    loose(imap_auth=auth, password_encrypted=password)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.oauth2, mailbox.problem) == (True, "")
    assert "refresh" not in mailbox.stored_password
    database.execute("UPDATE loose SET password_encrypted = 'another'")
    assert read(database.url, LOOSE_QUERY) != [mailbox]


@pytest.mark.parametrize("auth", [None, "", "password", "PASSWORD "])
def test_a_password_is_the_default(
    database: Database, loose: Callable[..., None], auth: str | None
) -> None:
    """Without the column's oauth2 the row needs its password."""
    loose(id="1", imap_auth=auth)
    loose(id="2", imap_auth=auth, password_encrypted=None)
    well, broken = read(database.url, LOOSE_QUERY)
    assert (well.oauth2, well.stored_password, well.problem) == (False, "p", "")
    assert broken.problem == "password_encrypted is NULL or empty"


@pytest.mark.parametrize("auth", ["oauth", "xoauth2", "x" * 5000, "oauth2\x1b"])
def test_a_way_to_log_in_that_is_none(
    database: Database, loose: Callable[..., None], auth: str
) -> None:
    """Anything but password and oauth2 is a problem, in one line."""
    loose(imap_auth=auth)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert "password or oauth2" in mailbox.problem
    assert mailbox.problem.isprintable()
    assert len(mailbox.problem) < 200


def test_the_schema_brings_an_old_table_up_to_date(database: Database) -> None:
    """The table of a time without OAuth2 gets the column, and lets a password be NULL."""
    database.execute("ALTER TABLE mail_connections DROP COLUMN imap_auth")
    database.execute("UPDATE mail_connections SET password_encrypted = ''")
    database.execute("ALTER TABLE mail_connections ALTER password_encrypted SET NOT NULL")
    for _ in range(2):
        database.execute(SCHEMA.read_text())
    database.add("a@example.org", imap_auth="oauth2", password_encrypted=None)
    (mailbox,) = read(database.url, "SELECT * FROM mail_connections")
    assert (mailbox.oauth2, mailbox.problem) == (True, "")


@pytest.mark.parametrize(
    ("username", "login"), [(None, "m@example.org"), ("", "m@example.org"), ("anna", "anna")]
)
def test_the_login_name(
    database: Database, loose: Callable[..., None], username: str | None, login: str
) -> None:
    """The login name is imap_username, and the address where there is none."""
    loose(imap_username=username)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.username == login


@pytest.mark.parametrize(
    "host",
    [
        "imap.example.org:993",
        "imap.example.org:",
        "imaps://imap.example.org/",
        "imaps://imap.example.org:993",
        "https://mail.example.org/webmail",
        "//imap.example.org",
        "imap.example.org/",
        "imap.example.org/INBOX",
        "imap.example.org?x",
        "imap.example.org#x",
        "imap .example.org",
        "imap.example.org 993",
        "imap.example.org\t(SSL)",
        "imap.example.org\u00a0x",
        "imap.example.org, imap2.example.org",
        "imap.example.org;",
        '"imap.example.org"',
        "<imap.example.org>",
        "[imap.example.org]",
        "[2001:db8::1]",
        "[2001:db8::1]:993",
        "2001:db8::1::2",
        "127.0.0.1:993",
        "imap\\example",
        "imap..example.org",
        ".imap.example.org",
        ".",
        "..",
        "imap.example.org\x1b",
        "a" * 64 + ".example.org",
        "x." * 200 + "org",
    ],
)
def test_a_host_as_people_paste_it(
    database: Database, loose: Callable[..., None], host: str
) -> None:
    """A host that cannot be meant as it stands is that row's problem, which says what to mend."""
    loose(imap_host=host)
    loose(id="2", email="z@example.org")
    broken, well = read(database.url, LOOSE_QUERY)
    assert broken.problem.startswith("imap_host is ")
    assert "it takes the server's name alone" in broken.problem
    assert "a port goes into imap_port" in broken.problem
    assert broken.problem.isprintable()
    assert len(broken.problem) < 300
    assert well.problem == ""


@pytest.mark.parametrize(
    "host", ["anna@imap.example.org", "imaps://anna:hunter2@imap.example.org", "anna:h@nter2@h/"]
)
def test_a_host_with_a_user_shows_no_password(
    database: Database, loose: Callable[..., None], host: str
) -> None:
    """What stands before an @ may be a password, and is not said."""
    loose(imap_host=host)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem.startswith("imap_host has an @ in it: it takes the server's name alone")
    assert "nter2" not in mailbox.problem


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("imap.example.org", "imap.example.org"),
        (" imap.example.org\n", "imap.example.org"),
        ("imap.example.org.", "imap.example.org"),
        ("IMAP.Example.ORG", "IMAP.Example.ORG"),
        ("localhost", "localhost"),
        ("mail_1.my-host.example", "mail_1.my-host.example"),
        ("b\u00fccher.example", "b\u00fccher.example"),
        ("\u0926\u0947\u0935.example", "\u0926\u0947\u0935.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_a_host_that_is_taken(
    database: Database, loose: Callable[..., None], given: str, host: str
) -> None:
    """Names of any script and addresses are taken, without blanks around and the root's dot."""
    loose(imap_host=given)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.host, mailbox.problem) == (host, "")


@pytest.mark.parametrize("output", ["hex", "escape"])
@pytest.mark.parametrize("layout", ["iv:tag:ciphertext", "iv+tag+ciphertext"])
def test_a_bytea_column(database: Database, output: str, layout: str) -> None:
    """Sealed passwords in a bytea column open, as blob and as text, however PostgreSQL shows it."""
    text = stored("p\u00e4ssword")
    data = text.encode() if ":" in layout else bytes.fromhex(text.replace(":", ""))
    database.execute(LOOSE_TABLE.replace("password_encrypted text", "password_encrypted bytea"))
    database.execute("INSERT INTO loose VALUES ('1', 'u', 'm@example.org', 'h', NULL, %s)", data)
    database.execute(f"ALTER DATABASE {database.name} SET bytea_output = '{output}'")
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem == ""
    cipher = PasswordCipher(ENCRYPTION_KEY.encode()[:32], layout)
    assert cipher.decrypt(mailbox.stored_password) == "p\u00e4ssword"


@pytest.mark.parametrize("encoding", ["latin1", "no_such"])
def test_the_client_encoding_is_ours(
    database: Database, loose: Callable[..., None], encoding: str
) -> None:
    """Rows are read in UTF-8, whatever encoding the URL asks for."""
    loose(imap_username="b\u00fccher")
    (mailbox,) = read(f"{database.url}?client_encoding={encoding}", LOOSE_QUERY)
    assert mailbox.username == "b\u00fccher"


def test_a_row_that_is_returned_twice(database: Database, loose: Callable[..., None]) -> None:
    """A join that repeats a row does no harm."""
    loose()
    loose()
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem == ""


def test_rows_that_share_an_id(database: Database, loose: Callable[..., None]) -> None:
    """Different rows with one id are one mailbox that cannot be used, in whichever order."""
    for host in ("one", "two", "one", "two"):
        loose(imap_host=host)
    loose(id="2", email="z@example.org")
    shared, well = read(database.url, LOOSE_QUERY)
    assert (shared.id, well.id) == ("1", "2")
    assert "share this id" in shared.problem
    assert well.problem == ""


# Who may read, and from where


@dataclass
class Role:
    """A role of its own, which may log in to `database`."""

    name: str
    database: Database
    port: int

    def url(self, password: str = "", parameters: str = "") -> str:
        user = self.name + (f":{quote(password, safe='')}" if password else "")
        return f"postgresql://{user}@127.0.0.1:{self.port}/{self.database.name}{parameters}"


def is_asked_for_a_password(role: Role) -> bool:
    try:
        psycopg.connect(role.url(), connect_timeout=10).close()
    except psycopg.OperationalError as error:
        return "no password supplied" in str(error)
    return False


@pytest.fixture
def role(postgres: Postgres, database: Database) -> Iterator[Role]:
    """A role without any right, to whom PostgreSQL asks for a password: ``p@ss/w:rd?#%é``."""
    name = f"reader_{uuid.uuid4().hex}"
    identifier = sql.Identifier(name)
    create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'p@ss/w:rd?#%é'")
    postgres.execute(create.format(identifier))
    rules = postgres.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{before}")
    postgres.execute("SELECT pg_reload_conf()")
    reader = Role(name, database, postgres.port)
    wait_for(lambda: is_asked_for_a_password(reader), 10, "the rule to count")
    yield reader
    rules.write_text(before)
    postgres.execute("SELECT pg_reload_conf()")
    database.execute(sql.SQL("DROP OWNED BY {}").format(identifier))
    postgres.execute(sql.SQL("DROP ROLE {}").format(identifier))


PASSWORD = "p@ss/w:rd?#%é"


def grant(role: Role) -> None:
    statement = sql.SQL("GRANT SELECT ON mail_connections TO {}")
    role.database.execute(statement.format(sql.Identifier(role.name)))


def test_select_is_all_it_takes(role: Role) -> None:
    """A role that may SELECT and nothing else will do, its password percent-encoded."""
    grant(role)
    role.database.add("anna@example.org", password_encrypted="x")
    found = read(role.url(PASSWORD, "?pgbouncer=true"))
    assert [mailbox.email for mailbox in found] == ["anna@example.org"]


def test_without_permission(role: Role) -> None:
    """A role that may not even SELECT is told what to grant."""
    text = failure(role.url(PASSWORD))
    assert "permission denied" in text
    assert "grant SELECT" in text


def test_a_wrong_password(role: Role) -> None:
    """A wrong password is PostgreSQL's message, without the password."""
    text = failure(role.url("hunter2-is-wrong"))
    assert "password authentication failed" in text
    assert "check DATABASE_URL" in text
    assert "hunter2" not in text


def test_no_password(role: Role) -> None:
    """A missing password is told."""
    assert "no password supplied" in failure(role.url())


@pytest.mark.parametrize("mark", list("/?#@:["))
def test_a_password_that_was_not_encoded_is_not_shown(mark: str, postgres: Postgres) -> None:
    """A password that breaks the URL gets into no message, be it when parsing or connecting.

    The user's name is that of a host as well, as ``postgres`` is in many a compose file.
    """
    host = f"127.0.0.1:{postgres.port}"
    url = f"postgresql://localhost:first{mark}second@{host}/no_such?connect_timeout=2"
    with pytest.raises((ValueError, DatabaseError)) as caught:
        read(url)
    assert "first" not in str(caught.value)
    assert "second" not in str(caught.value)


def test_a_database_that_is_not_there(postgres: Postgres) -> None:
    """An unknown database is named."""
    text = failure(postgres.url_of("no_such_database"))
    assert '"no_such_database" does not exist' in text
    assert "check DATABASE_URL" in text


def test_nobody_listens() -> None:
    """A database that is down is one line, without the password."""
    text = failure(f"postgresql://u:hunter2@127.0.0.1:{free_port()}/d")
    assert "refused" in text.lower()
    assert "check DATABASE_URL and that the database runs" in text
    assert "hunter2" not in text


def test_an_unknown_host() -> None:
    """A host that does not resolve is one line, without the password."""
    text = failure("postgresql://u:hunter2@no-such-host.invalid/d?connect_timeout=5")
    assert "no-such-host.invalid" in text
    assert "hunter2" not in text


def test_a_query_that_is_not_utf8(database: Database) -> None:
    """A query that cannot be sent is a DatabaseError as any other."""
    assert "MAIL_CONNECTIONS_QUERY" in failure(database.url, "SELECT '\udcff'")


def test_a_server_that_is_no_database() -> None:
    """Something else that listens at the port is a DatabaseError."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        url = f"postgresql://u:hunter2@127.0.0.1:{listener.getsockname()[1]}/d?connect_timeout=5"
        reading = pool.submit(failure, url)
        client, _ = listener.accept()
        with client:
            client.recv(1024)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert "check DATABASE_URL" in reading.result(20)


def test_a_server_that_never_answers() -> None:
    """A database that accepts and keeps silent is given up after the time-out of the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        started = time.monotonic()
        text = failure(f"postgresql://u:hunter2@127.0.0.1:{port}/d?connect_timeout=2")
        took = time.monotonic() - started
    assert 1.5 < took < 8
    assert "timeout" in text
    assert "check DATABASE_URL" in text
    assert "hunter2" not in text


def test_over_a_unix_socket(postgres: Postgres, database: Database) -> None:
    """A URL with an empty host and a socket folder reaches the database."""
    database.add("anna@example.org", password_encrypted="x")
    folder = quote(str(postgres.folder / "data"), safe="")
    url = f"postgresql:///{database.name}?host={folder}&port={postgres.port}&user=postgres"
    assert len(read(f"{url}&pgbouncer=true")) == 1


def test_with_a_key_value_string(postgres: Postgres, database: Database) -> None:
    """A libpq key=value string reaches the database too."""
    database.add("anna@example.org", password_encrypted="x")
    assert (
        len(read(f"host=127.0.0.1 port={postgres.port} user=postgres dbname={database.name}")) == 1
    )


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
