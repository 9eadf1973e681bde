"""Transactions: with `store`, `fingerprint` and `fleet.table` the only module that knows psycopg.

Connections are short: one transaction each, with nothing that outlives it, so that a
transaction-mode pooler (PgBouncer, Supavisor) serves as well as PostgreSQL itself.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from .database_url import Database


class Limits(NamedTuple):
    """How long a transaction may take."""

    connect_seconds: int
    statement_seconds: int
    whole_seconds: float
    """With the connect: a pooler may accept and then never answer."""


@contextmanager
def transaction(
    database: Database, limits: Limits, read_only: bool
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """One transaction on a connection of its own, ended by force when its time is over."""
    connection = psycopg.connect(database.conninfo, **_options(database, limits))
    connection.read_only = read_only
    cut = threading.Timer(limits.whole_seconds, _shut, [connection])
    cut.daemon = True
    cut.start()
    try:
        with connection:
            if database.schema:
                schema = sql.Identifier(database.schema)
                connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(schema))
            connection.execute(f"SET LOCAL statement_timeout = '{limits.statement_seconds}s'")
            yield connection
    finally:
        cut.cancel()


def _options(database: Database, limits: Limits) -> dict[str, Any]:
    """What the connection string does not say itself. No prepared statements: poolers."""
    defaults = {
        "connect_timeout": limits.connect_seconds,
        "application_name": "rebreak_idle",
        "tcp_user_timeout": limits.statement_seconds * 1000,
    }
    given = conninfo_to_dict(database.conninfo)
    options = {name: value for name, value in defaults.items() if name not in given}
    return {**options, "client_encoding": "UTF8", "prepare_threshold": None}


def _shut(connection: psycopg.Connection[Any]) -> None:
    """End a connection that another thread waits on; its wait then fails."""
    with socket.socket(fileno=socket.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


def words_of(error: Exception) -> str:
    """What the database, or the way to it, said, in one line."""
    return " ".join(str(error).split()) or error.__class__.__name__
