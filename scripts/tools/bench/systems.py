"""What is measured, the daemon first: each watches all mailboxes and asks for scans."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.tools.bench.load import Load
from scripts.tools.bench.rules import WITH_TOKENS
from scripts.tools.child import Child
from scripts.tools.servers import ROOT, OwnPostgres, base_environment
from tests.support.rig import environment, stored
from tests.support.servers import Database

ROWS = """
INSERT INTO mail_connections (
    id, user_id, email, imap_host, imap_port, imap_auth, password_encrypted
)
SELECT lpad(to_hex(box + 1), 32, '0')::uuid, gen_random_uuid(),
    'box' || box || '@bench.example', '127.0.0.1', %s, %s, %s
FROM generate_series(0, %s - 1) AS box
"""


class Process(Child):
    """One that is measured; its output goes to a file."""

    def __init__(
        self, command: Sequence[str | Path], place: Place, environment: Mapping[str, str]
    ) -> None:
        self._log = place.log
        with place.log.open("wb") as output:
            super().__init__("it", command, environment, place.folder, output)

    def last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""


@dataclass(frozen=True)
class Place:
    """Where a system is to do its work."""

    load: Load
    folder: Path
    log: Path

    @property
    def backend_url(self) -> str:
        return f"http://127.0.0.1:{self.load.http_port}"


def identity(mailbox: int) -> str:
    """The connection id; the load server knows the mailbox by it."""
    return str(uuid.UUID(int=mailbox + 1))


class System:
    """Something that watches mailboxes."""

    name = ""

    def missing(self) -> str:
        """What it needs and is not there, or nothing."""
        return ""

    def start(self, place: Place, parts: ExitStack) -> Process:
        """Start it; what it needs beside its process ends with ``parts``."""
        raise NotImplementedError


class Daemon(System):
    """`python -m rebreak_idle`, as users start it, with a PostgreSQL."""

    name = "rebreak"

    def __init__(self, postgres: Callable[[], OwnPostgres], **settings: object) -> None:
        self._postgres = postgres
        self._settings = settings

    def start(self, place: Place, parts: ExitStack) -> Process:
        database = parts.enter_context(Database(self._postgres()))
        self._add_rows(database, place.load)
        settings = environment(
            database.url, place.backend_url, place.load.certificates, **self._settings
        )
        del settings["RECONNECT_INITIAL_SECONDS"]  # the default, not that of the tests
        env = {**base_environment(), "PYTHONPATH": str(ROOT), **settings}
        command = [sys.executable, "-m", "rebreak_idle"]
        return Process(command, place, env)

    def _add_rows(self, database: Database, load: Load) -> None:
        password = stored("a password of usual length")
        database.execute(ROWS, load.imap_port, None, password, load.mailboxes)


class DaemonWithTokens(Daemon):
    """The daemon with mailboxes that log in by access token."""

    name = WITH_TOKENS

    def __init__(self, postgres: Callable[[], OwnPostgres], **settings: object) -> None:
        query = "SELECT * FROM mail_connections WHERE is_active"
        super().__init__(postgres, MAIL_CONNECTIONS_QUERY=query, **settings)

    def _add_rows(self, database: Database, load: Load) -> None:
        database.execute(ROWS, load.imap_port, "oauth2", None, load.mailboxes)
