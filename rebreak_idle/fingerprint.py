"""A fingerprint of the rows, computed by PostgreSQL: one short statement and 32 bytes, however many
rows there are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import psycopg
from psycopg.pq import ExecStatus

from .database import Limits, transaction, words_of
from .database_url import Database
from .errors import DatabaseError, NoFingerprint
from .store import positions_of_known

# A statement of six seconds may be repeated every five minutes, when the rows are read anyhow.
LIMITS = Limits(connect_seconds=10, statement_seconds=6, whole_seconds=20.0)
# A semicolon ends a query and cannot stand in a subquery, nor what may follow it.
_TAIL = re.compile(r";(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*$", re.DOTALL)


class Fingerprint:
    """Takes fingerprints of what a query returns, whatever the order of its rows.

    It covers the columns that mean something to the daemon, by their position: others may change
    with every scan, be called alike, or have a type that does not compare. Used by one thread at a
    time.
    """

    def __init__(self, database: Database, query: str) -> None:
        self._database = database
        self._query = inner_query(query)
        self.seconds = 0.0
        """How long PostgreSQL took for the last one."""

    def take(self) -> str:
        """The fingerprint of the rows as they are now; returns within half a minute.

        Raises:
            NoFingerprint: this database cannot compute it of this query.
            DatabaseError: it cannot be asked for now.
        """
        self.seconds = 0.0
        try:
            return self._take()
        except psycopg.errors.QueryCanceled as error:
            raise NoFingerprint(words_of(error)) from error  # the rows have more time
        except (psycopg.OperationalError, psycopg.InterfaceError, UnicodeError) as error:
            raise DatabaseError(words_of(error)) from error
        except psycopg.Error as error:
            raise NoFingerprint(words_of(error)) from error

    def _take(self) -> str:
        with transaction(self._database, LIMITS, read_only=True) as connection:
            # More processes than one would cost more than the time that it takes.
            connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            # Each time: of a column that was added meanwhile, changes are to be seen as well.
            statement = self._statement_for(self._columns(connection))
            began_at = time.monotonic()
            try:
                values = _first_row(connection, statement)
            finally:
                self.seconds = time.monotonic() - began_at
        return ":".join("" if value is None else value.decode() for value in values)

    def _columns(self, connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
        statement = f"SELECT * FROM ({self._query}) AS t LIMIT 0"  # noqa: S608  # the operator's
        result = _execute(connection, statement)
        names = [result.fname(column) or b"" for column in range(result.nfields)]
        return [name.decode("utf-8", "replace") for name in names]

    def _statement_for(self, columns: Sequence[str]) -> str:
        """Columns get names of their own, so that two that are called alike do no harm."""
        names = ", ".join(f"c{number}" for number in range(len(columns)))
        hashed = ", ".join(f"t.c{number}" for number in positions_of_known(columns))
        rows = f"({self._query}) AS t({names})"
        return f"SELECT count(*), sum(hashtextextended(ROW({hashed})::text, 0)) FROM {rows}"  # noqa: S608


def inner_query(query: str) -> str:
    """The query as it can stand in a subquery: without its semicolon, and with a line break, for it
    may end in a comment.
    """
    return f"{_TAIL.sub('', query)}\n"


def _first_row(
    connection: psycopg.Connection[tuple[object, ...]], statement: str
) -> list[bytes | None]:
    result = _execute(connection, statement)
    return [result.get_value(0, column) for column in range(result.nfields)]


def _execute(
    connection: psycopg.Connection[tuple[object, ...]], statement: str
) -> psycopg.pq.abc.PGresult:
    """By the protocol that takes one statement only, as the rows are read."""
    result = connection.pgconn.exec_params(statement.encode(), None)
    if result.status != ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(result, "utf-8")
    return result
