"""Reading the connection rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from .database import Limits, transaction, words_of
from .database_url import Database
from .errors import DatabaseError
from .hostname import host_problem
from .mailbox import Mailbox
from .portions import in_portions

DEFAULT_QUERY = """\
SELECT id, user_id, email, imap_host, imap_port, password_encrypted
FROM mail_connections
WHERE is_active
"""
REQUIRED_COLUMNS = ("id", "user_id", "email", "imap_host", "password_encrypted")
IMAPS_PORT = 993
IMAP_PORT = 143
OAUTH2_HINT = "; for OAuth2 the query must return imap_auth as well"

LIMITS = Limits(connect_seconds=10, statement_seconds=30, whole_seconds=60.0)


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
        return _unique([_mailbox(dict(zip(names, row, strict=True))) for row in in_portions(rows)])

    def _fetch(self) -> tuple[list[str], list[Row]]:
        """Columns and rows of the query, all as text: no value of a column that means nothing
        here can be one that Python has no type for.
        """
        with transaction(self._database, LIMITS, read_only=True) as connection:
            connection.execute("SET LOCAL bytea_output = 'hex'")  # the form that the cipher takes
            # Not connection.execute: the simple protocol that it uses would take several
            # statements, a COMMIT of the read-only transaction among them.
            result = connection.pgconn.exec_params(self._query.encode(), None)
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result, "utf-8")
            if result.status != ExecStatus.TUPLES_OK:
                raise DatabaseError("MAIL_CONNECTIONS_QUERY returns no rows: it must be a SELECT")
            return _texts(result)


Row = tuple[str | None, ...]


def _texts(result: PGresult) -> tuple[list[str], list[Row]]:
    def text(value: bytes | None) -> str | None:
        return None if value is None else value.decode("utf-8", "replace")

    columns = range(result.nfields)
    rows = [
        tuple(text(result.get_value(row, column)) for column in columns)
        for row in in_portions(range(result.ntuples))
    ]
    return [text(result.fname(column)) or "" for column in columns], rows


def _explain(error: Exception) -> str:
    """One sentence for the log: what PostgreSQL said, and what to do about it."""
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
    return f"{words_of(error)}: {remedy}"


def _plain(column: str) -> str:
    """A column's name without case and underscores: ``imapHost`` and ``imap_host`` are the same."""
    return column.replace("_", "").lower()


_COLUMNS = {
    _plain(name): name
    for name in (*REQUIRED_COLUMNS, "imap_port", "imap_auth", "imap_username", "imap_security")
}


def positions_of_known(columns: Sequence[str]) -> list[int]:
    """Where the columns are that mean something here; all of them where none does."""
    known = [n for n, column in enumerate(columns) if _plain(column) in _COLUMNS]
    return known or list(range(len(columns)))


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
    for mailbox in in_portions(mailboxes):
        if found.setdefault(mailbox.id, mailbox) != mailbox:
            found[mailbox.id] = replace(
                mailbox, problem="several rows share this id: each connection needs its own"
            )
    return list(found.values())


def _mailbox(row: Mapping[str, str | None]) -> Mailbox:
    port, port_problem = _port(row.get("imap_port"))
    security = _text(row.get("imap_security")).lower()
    auth = _text(row.get("imap_auth")).lower()
    oauth2 = auth == "oauth2"
    host = _text(row["imap_host"])
    email = _text(row["email"])
    return Mailbox(
        id=_text(row["id"]),
        user_id=_text(row["user_id"]),
        email=email,
        host=host.removesuffix("."),  # with it no certificate would fit
        port=port,
        username=_text(row.get("imap_username")) or email,
        stored_password=_stored_password(row, oauth2),
        starttls=security == "starttls" or (not security and port == IMAP_PORT),
        oauth2=oauth2,
        problem=_row_problem(row, oauth2)
        or host_problem(host)
        or port_problem
        or _security_problem(security)
        or _auth_problem(auth),
    )


def _text(value: str | None) -> str:
    return (value or "").strip()


def _stored_password(row: Mapping[str, str | None], oauth2: bool) -> str:
    """With OAuth2 a hash: it may be a sealed refresh token of kilobytes, which is never opened."""
    text = _text(row["password_encrypted"])
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if oauth2 else text


def _row_problem(row: Mapping[str, str | None], oauth2: bool) -> str:
    needed = [name for name in REQUIRED_COLUMNS if not (oauth2 and name == "password_encrypted")]
    empty = [name for name in needed if not _text(row[name])]
    if not empty:
        return ""
    hint = "" if "imap_auth" in row or empty != ["password_encrypted"] else OAUTH2_HINT
    return f"{', '.join(empty)} is NULL or empty{hint}"


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


def _auth_problem(auth: str) -> str:
    if auth in ("", "password", "oauth2"):
        return ""
    return f"imap_auth is {auth[:20]!a}: it takes password or oauth2"
