"""PgBouncer in front of a PostgreSQL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.servers.base import (
    Server,
    accepts_connections,
    find_program,
    free_port,
    unprivileged,
)
from tests.support.servers.postgres import Postgres


class PgBouncer(Server):
    """PgBouncer in transaction mode in front of a PostgreSQL, one server connection a database.

    Everything that is not set here has its default, as at a provider's pooler.
    """

    name = "PgBouncer"
    run_options = unprivileged()

    def __init__(self, postgres: Postgres, pool_mode: str = "transaction") -> None:
        super().__init__()
        self.port = free_port()
        self._postgres = postgres
        self._pool_mode = pool_mode

    def url_for(self, database_url: str) -> str:
        """The same database through the pooler."""
        database = database_url.rsplit("/", 1)[1]
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def show(self, what: str) -> list[dict[str, Any]]:
        """The rows of a SHOW command of the admin console: pools, clients, config, …"""
        rows: list[dict[str, Any]] = []
        url = make_conninfo(self.url_for("/pgbouncer"), connect_timeout=10)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(f"SHOW {what}"))
            names = [column.name for column in cursor.description or ()]
            rows.extend(dict(zip(names, row, strict=True)) for row in cursor)
        return rows

    def _prepare(self) -> None:
        (self.folder / "users.txt").write_text('"postgres" ""\n')
        (self.folder / "pgbouncer.ini").write_text(f"""\
[databases]
* = host=127.0.0.1 port={self._postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {self.folder}/users.txt
admin_users = postgres
pool_mode = {self._pool_mode}
default_pool_size = 1
max_client_conn = 500
""")

    def _command(self) -> Sequence[str | Path]:
        return [find_program("pgbouncer"), self.folder / "pgbouncer.ini"]

    def _ready(self) -> bool:
        return accepts_connections(self.port)
