"""Several daemons on one table, the server that counts their sessions, and the mail."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import environment, stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

MAILBOXES = 60
SILENCE_SECONDS = 3.0
BEAT_SECONDS = SILENCE_SECONDS / 3
TABLE = (Path(__file__).parents[2] / "scripts" / "idle_instances.sql").read_text("utf-8")
# Where nobody may be taken for dead though the machine is so busy that a daemon stands still.
CALM_SILENCE_SECONDS = 9.0
# What a machine that is busy with other tests may need beyond what is promised.
ROOM_SECONDS = 40.0


@contextmanager
def refusing_writes(database: Database, code: str) -> Iterator[None]:
    """The table's database takes no writes, and says so by this SQLSTATE, as a standby does."""
    database.execute(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'a standby' USING ERRCODE = '{code}'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON idle_instances
        FOR EACH ROW EXECUTE FUNCTION refuse()
    """)
    try:
        yield
    finally:
        database.execute("DROP FUNCTION refuse CASCADE")


class Fleet:
    """Daemons on one table, and the mailboxes at one server.

    While it waits it looks who has how many sessions: see `longest_gap` and `most_sessions`.
    """

    def __init__(
        self,
        database: Database,
        backend: RecordingBackend,
        certificates: Certificates,
        folder: Path,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.silence_seconds = silence_seconds
        self.database = database
        self.backend = backend
        self.daemons: dict[str, Daemon] = {}
        self.longest_gap = 0.0
        """For how many seconds a mailbox had no session at most, since `watch`."""
        self.most_sessions = 0
        """How many sessions a mailbox had at most, since `watch`."""
        self._certificates = certificates
        self._folder = folder
        self._stack = ExitStack()
        self._ids: dict[str, str] = {}
        self._missing_since: dict[str, float] = {}
        self._is_watching = False
        users = {f"u{n}@example.org": "secret" for n in range(MAILBOXES)}
        self.mailboxes = {name: Mailbox() for name in users}
        context = certificates.server_context()
        self.imap = ScriptedImap(self.mailboxes, tls_context=context, users=users)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.imap)
        for name in self.mailboxes:
            password = stored("secret")
            self._ids[name] = self.database.add(
                name, imap_port=self.imap.port, password_encrypted=password
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def start(self, name: str, url: str | None = None, **variables: object) -> Daemon:
        """Start a daemon of this name."""
        return self.start_by((), name, url, **variables)

    def start_by(
        self, command: Sequence[str], name: str, url: str | None = None, **variables: object
    ) -> Daemon:
        """The same, with this before the program, as `env` would have it."""
        settings = {
            "INSTANCE_NAME": name,
            "INSTANCE_SILENCE_SECONDS": self.silence_seconds,
            "HOST_LOGINS_PER_SECOND": 1000,
            "HOST_CONNECTS_AT_ONCE": 64,
            "CHANGE_CHECK_SECONDS": 0,
            **variables,
        }
        folder = self._folder / f"{name}-{len(self.daemons)}"
        folder.mkdir(exist_ok=True)
        url = url or self.database.url
        values = environment(url, self.backend.url, self._certificates, **settings)
        daemon = Daemon(values, folder)
        self.daemons[name] = self._stack.enter_context(daemon)
        return daemon

    def start_all(self, *names: str) -> None:
        """Start daemons of these names, and wait until each watches its share."""
        for name in names:
            self.start(name)
        self.wait_settled(*names)

    # What there is

    def rows(self) -> dict[str, tuple[int, int, bool]]:
        """Mailboxes, watched and settled of each instance, as it says itself."""
        found = self.database.execute(
            "SELECT name, mailboxes, watched, settled FROM idle_instances ORDER BY name"
        )
        return {name: (mailboxes, watched, settled) for name, mailboxes, watched, settled in found}

    def beat_of(self, name: str) -> int:
        """The counter of an instance; 0 where it has no row."""
        found = self.database.execute("SELECT beat FROM idle_instances WHERE name = %s", name)
        return int(found[0][0]) if found else 0

    def open_connections(self) -> list[Connection]:
        """Those that are logged in."""
        connections = list(self.imap.connections)
        return [c for c in connections if c.closed is None and c.state in ("selected", "idle")]

    def sessions(self) -> Counter[str]:
        """How many sessions each mailbox has, by the server's count."""
        return Counter(connection.login for connection in self.open_connections())

    def all_have(self, number: int) -> bool:
        """Whether each mailbox has so many sessions."""
        sessions = self.sessions()
        return len(sessions) == MAILBOXES and set(sessions.values()) == {number}

    def is_covered(self) -> bool:
        """Whether each mailbox has a session."""
        return len(self.sessions()) == MAILBOXES

    def has_settled(self, names: Collection[str]) -> bool:
        """Whether these are the instances, each watches its share, and no mailbox has two."""
        if not self.all_have(1):
            return False
        rows = self.rows()
        return (
            set(rows) == set(names)
            and all(settled for _, _, settled in rows.values())
            and sum(mailboxes for mailboxes, _, _ in rows.values()) == MAILBOXES
        )

    # Waiting

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = ROOM_SECONDS) -> None:
        """Wait, and look at the sessions meanwhile."""

        def look() -> bool:
            self._look()
            return condition()

        try:
            wait_for(look, seconds, what)
        except AssertionError as error:
            logs = "\n".join(f"--- {name}:\n{d.text}" for name, d in self.daemons.items())
            raise AssertionError(f"{error}: {self.sessions()}\n{self.rows()}\n{logs}") from None

    def wait_settled(self, *names: str, seconds: float = ROOM_SECONDS) -> None:
        self.wait(lambda: self.has_settled(names), f"{names} to share the mailboxes", seconds)

    def let_pass(self, seconds: float) -> None:
        """Time is the thing that is waited for: what should not happen does not for so long."""
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() >= until, "time to pass", seconds + ROOM_SECONDS)

    def watch(self) -> None:
        """From now on a mailbox without a session, or with many, is noted."""
        self.longest_gap, self.most_sessions = 0.0, 0
        self._missing_since.clear()
        self._is_watching = True

    def _look(self) -> None:
        if not self._is_watching:
            return
        sessions, now = self.sessions(), time.monotonic()
        self.most_sessions = max(self.most_sessions, *sessions.values(), 0)
        for name in self.mailboxes:
            if sessions[name]:
                self._missing_since.pop(name, None)
            else:
                since = self._missing_since.setdefault(name, now)
                self.longest_gap = max(self.longest_gap, now - since)

    # Mail

    def mail(self, number: int = 10) -> None:
        """Mail arrives in some of the mailboxes."""
        for name in random.sample(sorted(self.mailboxes), number):
            self.mailboxes[name].arrive()

    def wait_scanned(self) -> None:
        """Each mail was followed by a successful scan that began after it arrived."""
        self.wait(lambda: not self.missed(), "a scan for each mail")

    def missed(self) -> list[str]:
        """Mailboxes with mail that no scan followed."""
        begun: dict[str | None, float] = {}
        for scan in self.backend.scans:
            if scan.answered is not None:
                begun[scan.connection_id] = max(begun.get(scan.connection_id, 0.0), scan.arrived)
        return [
            name
            for name, mailbox in self.mailboxes.items()
            if mailbox.arrivals and begun.get(self._ids[name], 0.0) <= mailbox.arrivals[-1].at
        ]
