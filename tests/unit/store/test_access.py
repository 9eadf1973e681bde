"""Who may read the rows, and from where."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from rebreak_idle.errors import DatabaseError
from tests.support.servers import Database, Postgres, free_port
from tests.support.waiting import wait_for
from tests.unit.store.conftest import failure, read


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
