"""Reading the connection rows: the only module that knows psycopg.

Connections are short: one transaction for each reading, with nothing that outlives it, so that a
transaction-mode pooler (PgBouncer, Supavisor) serves as well as PostgreSQL itself.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo, ExecStatus
from psycopg.pq.abc import PGresult

from .errors import DatabaseError
from .mailbox import Mailbox

DEFAULT_QUERY = """\
SELECT id, user_id, email, imap_host, imap_port, password_encrypted
FROM mail_connections
WHERE is_active
"""
REQUIRED_COLUMNS = ("id", "user_id", "email", "imap_host", "password_encrypted")
IMAPS_PORT = 993
IMAP_PORT = 143

# What Prisma and its hosts add to a connection URL and libpq does not know.
# https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments
PRISMA_PARAMETERS = frozenset({
    "connection_limit", "max_connection_lifetime", "max_idle_connection_lifetime", "pgbouncer",
    "pool_timeout", "schema", "single_use_connections", "socket_timeout", "sslaccept",
    "sslidentity", "statement_cache_size", "supa", "workaround",
})  # fmt: skip

CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_SECONDS = 30
# The whole reading, connecting included: a pooler may accept and then never answer.
READ_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Database:
    """Where the table is: a libpq connection string, and the schema to look in ("" for default)."""

    conninfo: str = field(repr=False)
    schema: str = ""


def password_of(database: Database) -> str:
    """The password in the connection string, which no log line may show."""
    return str(conninfo_to_dict(database.conninfo).get("password") or "")


EXAMPLE = "give postgresql://user:password@host:port/database"
ENCODE = "percent-encode the special characters of the password"


def parse_database_url(text: str) -> Database:
    """``DATABASE_URL`` without what only Prisma understands.

    Raises:
        ValueError: it is no PostgreSQL connection string; the text says why, without the value.
    """
    text, schema = text.strip(), ""
    if not text.isprintable():
        raise ValueError(f"has line breaks or other control characters: {EXAMPLE}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text, schema = _without_prisma(text)
    try:
        conninfo_to_dict(text)
    except (psycopg.Error, UnicodeError):
        raise ValueError(f"is no PostgreSQL connection string: {EXAMPLE}") from None
    return Database(text, schema)


def _without_prisma(url: str) -> tuple[str, str]:
    """The URL as it was but for Prisma's parameters, and the schema that one of them names."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgres", "postgresql"):
        raise ValueError("must begin with postgresql:// or postgres://")
    place, _, query = rest.partition("?")
    if "@" in query:
        raise ValueError(f"is ambiguous: {EXAMPLE}, and {ENCODE}")
    _check_place(place)
    parameters = [item for item in query.split("&") if item]
    _check_parameters(parameters)
    kept = [item for item in parameters if item.partition("=")[0] not in PRISMA_PARAMETERS]
    named = dict(item.split("=", 1) for item in parameters)
    base = f"{scheme}://{place}"
    return (f"{base}?{'&'.join(kept)}" if kept else base), unquote(named.get("schema", ""))


def _check_place(place: str) -> None:
    """An unencoded character in the password would make its rest part of the host or port."""
    authority = place.partition("/")[0]
    hosts = authority.rpartition("@")[2].split(",")
    ports = [re.sub(r"^(\[[^]]*\]|[^:]*)", "", host) for host in hosts]
    if "#" in place or authority.count("@") > 1:
        raise ValueError(f"is ambiguous: {EXAMPLE}, and {ENCODE}")
    if not all(re.fullmatch(r"(:[0-9]{0,5})?", p) and int(p[1:] or 0) < 65536 for p in ports):
        raise ValueError(f"has a port that is not a number: {EXAMPLE}, and {ENCODE}")


def _check_parameters(parameters: list[str]) -> None:
    known = PRISMA_PARAMETERS | {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, equals, _ in (item.partition("=") for item in parameters):
        if not equals or not re.fullmatch(r"[A-Za-z_]{1,40}", name):
            raise ValueError(f"has a parameter that is not name=value: {EXAMPLE}, and {ENCODE}")
        if name not in known and name not in ("ssl",):  # libpq takes ssl=true as sslmode=require
            raise ValueError(
                f"has the unknown parameter {name!r}: remove it, or give one that libpq knows"
            )


class ConnectionStore:
    """Reads the active mail connections."""

    def __init__(self, database: Database, query: str) -> None:
        self._database = database
        self._query = query

    def read(self) -> list[Mailbox]:
        """Every active connection, once. Any thread may call; returns within about a minute.

        Rows that cannot be used come back with their `Mailbox.problem`.

        Raises:
            DatabaseError: the database or its answer cannot be used; the text says what to do.
        """
        try:
            columns, rows = self._fetch()
        except (psycopg.Error, UnicodeError) as error:
            raise DatabaseError(_explain(error)) from error
        names = _column_names(columns)
        return _unique([_mailbox(dict(zip(names, row, strict=True))) for row in rows])

    def _fetch(self) -> tuple[list[str], list[Row]]:
        """Columns and rows of the query, all as text: no value of a column that means nothing
        here can be one that Python has no type for.
        """
        with self._transaction() as connection:
            if self._database.schema:
                schema = sql.Identifier(self._database.schema)
                connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(schema))
            connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'")
            # Not connection.execute: the simple protocol that it uses would take several
            # statements, a COMMIT of the read-only transaction among them.
            result = connection.pgconn.exec_params(self._query.encode(), None)
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result, "utf-8")
            if result.status != ExecStatus.TUPLES_OK:
                raise DatabaseError("MAIL_CONNECTIONS_QUERY returns no rows: it must be a SELECT")
            return _texts(result)

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """One read-only transaction on a connection of its own, ended by force after a minute."""
        connection = psycopg.connect(self._database.conninfo, **self._options())
        connection.read_only = True
        cut = threading.Timer(READ_TIMEOUT_SECONDS, _shut, [connection])
        cut.daemon = True
        cut.start()
        try:
            with connection:
                yield connection
        finally:
            cut.cancel()

    def _options(self) -> dict[str, Any]:
        """What the connection string does not say itself. No prepared statements: poolers."""
        defaults = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "application_name": "rebreak_idle",
            "client_encoding": "UTF8",
            "tcp_user_timeout": STATEMENT_TIMEOUT_SECONDS * 1000,
        }
        given = conninfo_to_dict(self._database.conninfo)
        options = {name: value for name, value in defaults.items() if name not in given}
        return {**options, "prepare_threshold": None}


Row = tuple[str | None, ...]


def _texts(result: PGresult) -> tuple[list[str], list[Row]]:
    def text(value: bytes | None) -> str | None:
        return None if value is None else value.decode("utf-8", "replace")

    columns = range(result.nfields)
    rows = [
        tuple(text(result.get_value(row, column)) for column in columns)
        for row in range(result.ntuples)
    ]
    return [text(result.fname(column)) or "" for column in columns], rows


def _shut(connection: psycopg.Connection[Any]) -> None:
    """End a connection that another thread waits on; its wait then fails."""
    with socket.socket(fileno=socket.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def _explain(error: Exception) -> str:
    """One sentence for the log: what PostgreSQL said, and what to do about it."""
    said = " ".join(str(error).split()) or error.__class__.__name__
    match error:
        case psycopg.errors.UndefinedTable():
            remedy = "create the table, or set MAIL_CONNECTIONS_QUERY (or schema=) to the right one"
        case psycopg.errors.UndefinedColumn() | psycopg.errors.SyntaxError():
            remedy = "set MAIL_CONNECTIONS_QUERY, it must be a SELECT that fits the table"
        case psycopg.errors.InsufficientPrivilege():
            remedy = "grant SELECT on the table to the user of DATABASE_URL"
        case psycopg.errors.ReadOnlySqlTransaction():
            remedy = "MAIL_CONNECTIONS_QUERY must only read"
        case psycopg.OperationalError():
            remedy = "check DATABASE_URL and that the database runs"
        case _:
            remedy = "check DATABASE_URL and MAIL_CONNECTIONS_QUERY"
    return f"{said}: {remedy}"


def _plain(column: str) -> str:
    """A column's name without case and underscores: ``imapHost`` and ``imap_host`` are the same."""
    return column.replace("_", "").lower()


_COLUMNS = {
    _plain(name): name
    for name in (*REQUIRED_COLUMNS, "imap_port", "imap_username", "imap_security")
}


def _column_names(columns: Sequence[str]) -> list[str]:
    """The names of the contract for the columns of a result; others stay as they are."""
    names = [_COLUMNS.get(_plain(column), column) for column in columns]
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise DatabaseError(
            f"the query returns no column {', '.join(missing)} (it returns {', '.join(columns)}): "
            "name the columns in MAIL_CONNECTIONS_QUERY, with AS where they are called otherwise"
        )
    twice = sorted({name for name in names if name in _COLUMNS.values() and names.count(name) > 1})
    if twice:
        raise DatabaseError(
            f"the query returns column {', '.join(twice)} more than once: "
            "name the columns one by one in MAIL_CONNECTIONS_QUERY"
        )
    return names


def _unique(mailboxes: list[Mailbox]) -> list[Mailbox]:
    """One mailbox an id; a join that repeats a row does no harm, rows that differ are refused."""
    found: dict[str, Mailbox] = {}
    for mailbox in mailboxes:
        if found.setdefault(mailbox.id, mailbox) != mailbox:
            found[mailbox.id] = replace(
                mailbox, problem="several rows share this id: each connection needs its own"
            )
    return list(found.values())


def _mailbox(row: Mapping[str, str | None]) -> Mailbox:
    port, port_problem = _port(row.get("imap_port"))
    security = _text(row.get("imap_security")).lower()
    email = _text(row["email"])
    return Mailbox(
        id=_text(row["id"]),
        user_id=_text(row["user_id"]),
        email=email,
        host=_text(row["imap_host"]),
        port=port,
        username=_text(row.get("imap_username")) or email,
        stored_password=_text(row["password_encrypted"]),
        starttls=security == "starttls" or (not security and port == IMAP_PORT),
        problem=_row_problem(row) or port_problem or _security_problem(security),
    )


def _text(value: str | None) -> str:
    return (value or "").strip()


def _row_problem(row: Mapping[str, str | None]) -> str:
    empty = [name for name in REQUIRED_COLUMNS if not _text(row[name])]
    return f"{', '.join(empty)} is NULL or empty" if empty else ""


def _port(value: str | None) -> tuple[int, str]:
    text = _text(value)
    if not text:
        return IMAPS_PORT, ""
    if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536:
        return int(text), ""
    return IMAPS_PORT, f"imap_port is {text[:20]!a}, not a port number"


def _security_problem(security: str) -> str:
    if security in ("", "tls", "starttls"):
        return ""
    return f"imap_security is {security[:20]!a}: it takes tls or starttls (never plain text)"
