"""The table `idle_instances`: one statement a beat, in a transaction of its own."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from .. import __version__
from ..database import Limits, transaction, words_of
from ..database_url import Database
from ..errors import RebreakError
from .instance import Instance

T = TypeVar("T")

# A standby that just became one says either, the second where BEGIN asks for READ WRITE: so that
# default_transaction_read_only, as on a disk that is nearly full, leaves the beats alone.
READ_ONLY = (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.FeatureNotSupported)
LIMITS = Limits(connect_seconds=5, statement_seconds=5, whole_seconds=15.0)

VIEW_AND_SHARE = re.compile(r"(.*\]) ([0-9a-f]+)", re.DOTALL)
# Whether it is there, and may be used: who cannot delete a row learns it only when another dies.
EXISTS = """\
SELECT found IS NOT NULL, (
    SELECT bool_and(has_table_privilege(found, privilege))
    FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
)
FROM (SELECT to_regclass('idle_instances')::oid AS found) AS place
"""
# The SELECT shows the table as it was before the upsert (PostgreSQL, 7.8.4, "Data-Modifying
# Statements in WITH"): whether one's own row was still there, and whose it was. Who was condemned
# does not know it yet, and may have stood still since it wrote this: it has not settled.
BEAT = """\
WITH beaten AS (
    INSERT INTO idle_instances AS mine (
        fleet, name, incarnation, beat, leaving, view, settled, mailboxes, watched, version,
        started_at, beat_at
    )
    VALUES (
        %(fleet)s, %(name)s, %(incarnation)s::uuid, %(beat)s, %(leaving)s, %(view)s,
        %(settled)s AND EXISTS (
            SELECT FROM idle_instances
            WHERE fleet = %(fleet)s AND name = %(name)s AND incarnation = %(incarnation)s::uuid
        ),
        %(mailboxes)s, %(watched)s, %(version)s, now(), now()
    )
    ON CONFLICT (fleet, name) DO UPDATE SET
        incarnation = excluded.incarnation,
        beat = excluded.beat,
        leaving = excluded.leaving,
        view = excluded.view,
        settled = excluded.settled,
        mailboxes = excluded.mailboxes,
        watched = excluded.watched,
        version = excluded.version,
        started_at = CASE mine.incarnation
            WHEN excluded.incarnation THEN mine.started_at ELSE now() END,
        beat_at = now()
)
SELECT name, incarnation::text, beat, leaving, view, settled, mailboxes, watched
FROM idle_instances
WHERE fleet = %(fleet)s
"""
CONDEMN = """\
DELETE FROM idle_instances
WHERE fleet = %(fleet)s AND name = %(name)s AND incarnation = %(incarnation)s::uuid
    AND beat = %(beat)s
"""
LEAVE = """\
DELETE FROM idle_instances
WHERE fleet = %(fleet)s AND name = %(name)s AND incarnation = %(incarnation)s::uuid
"""
SHOW = """\
SELECT name, mailboxes, watched, settled, version,
    greatest(0, extract(epoch FROM now() - beat_at))::float8
FROM idle_instances
WHERE fleet = %(fleet)s
ORDER BY name
"""


class NoTable(RebreakError):
    """There is no such table: one instance, alone."""


class TableUnusable(RebreakError):
    """The table is there and cannot be used: somebody must grant rights, or create it anew."""


class TableReadOnly(TableUnusable):
    """The database takes no writes now: a standby. Who is alone stays so; for a fleet it is an
    outage."""


class TableUnreachable(RebreakError):
    """The database did not answer: nothing is known."""


class FleetTable:
    """Reads and writes the rows of one fleet. Any thread may call; each call ends within 15 s."""

    def __init__(self, database: Database, fleet: str) -> None:
        self._database = replace(
            database,
            conninfo=make_conninfo(database.conninfo, connect_timeout=LIMITS.connect_seconds),
        )
        self._fleet = fleet
        self._in_use = threading.Lock()
        self._has_left = False

    def beat(self, row: Instance, condemned: Iterable[Instance] = ()) -> list[Instance]:
        """Delete the rows that stand as in ``condemned``, write one's own, and return the rows as
        they were before it was written.

        Raises:
            NoTable, TableUnusable, TableUnreachable: the text says why.
        """
        with self._in_use:
            if self._has_left:
                return []
            return self._run(lambda connection: self._beat(connection, row, condemned))

    def leave(self, row: Instance) -> None:
        """Delete one's own row; no beat that is under way writes it again.

        Raises:
            NoTable, TableUnusable, TableUnreachable: the text says why.
        """
        with self._in_use:
            self._has_left = True
            self._run(lambda connection: connection.execute(LEAVE, self._values(row)))

    def show(self) -> list[tuple[Any, ...]]:
        """For people: name, mailboxes, watched, settled, version and the seconds since the beat,
        by the database's clock. Writes nothing.

        Raises:
            NoTable, TableUnusable, TableUnreachable: the text says why.
        """
        return self._run(
            lambda connection: connection.execute(SHOW, {"fleet": self._fleet}).fetchall(),
            read_only=True,
        )

    def _beat(
        self,
        connection: psycopg.Connection[Any],
        row: Instance,
        condemned: Iterable[Instance],
    ) -> list[Instance]:
        for each in condemned:
            connection.execute(CONDEMN, self._values(each))
        found = connection.execute(BEAT, self._values(row)).fetchall()
        return [_instance(*columns) for columns in found]

    def _values(self, row: Instance) -> dict[str, object]:
        columns = {name: getattr(row, name) for name in Instance.__slots__}
        columns["view"] = f"{row.view} {row.share}".rstrip()
        return {**columns, "fleet": self._fleet, "version": __version__}

    def _run(self, action: Callable[[psycopg.Connection[Any]], T], read_only: bool = False) -> T:
        try:
            with transaction(self._database, LIMITS, read_only) as connection:
                is_there, is_granted = connection.execute(EXISTS).fetchone() or (False, None)
                if not is_there:
                    raise NoTable("there is no table idle_instances")
                if not is_granted:
                    raise TableUnusable(
                        "permission denied: it takes SELECT, INSERT, UPDATE and DELETE on it"
                    )
                return action(connection)
        except psycopg.OperationalError as error:
            raise TableUnreachable(words_of(error)) from error
        except READ_ONLY as error:
            raise TableReadOnly(words_of(error)) from error
        except (psycopg.Error, UnicodeError) as error:
            raise TableUnusable(words_of(error)) from error


def _instance(
    name: str,
    incarnation: str,
    beat: int,
    leaving: bool,
    view: str,
    settled: bool,
    mailboxes: int,
    watched: int,
) -> Instance:
    """A row; in its column ``view`` the fingerprint of the share stands behind the view."""
    share = ""
    if found := VIEW_AND_SHARE.fullmatch(view):
        view, share = found.groups()
    return Instance(name, incarnation, beat, leaving, view, settled, share, mailboxes, watched)
