"""Several daemons on one table share the mailboxes, and take over from one that dies."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import environment, stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, PgBouncer
from tests.support.waiting import wait_for

MAILBOXES = 60
SILENCE_SECONDS = 3.0
BEAT_SECONDS = SILENCE_SECONDS / 3
TABLE = Path(__file__).parents[2] / "scripts" / "idle_instances.sql"
# What a machine that is busy with other tests may need beyond what is promised.
ROOM_SECONDS = 30.0


class Fleet:
    """Daemons on one table, and the server that counts their sessions."""

    def __init__(
        self, database: Database, backend: RecordingBackend, imap: ScriptedImap,
        certificates: Certificates, folder: Path, url: str,
    ) -> None:  # fmt: skip
        self.database = database
        self.imap = imap
        self._backend = backend
        self._certificates = certificates
        self._folder = folder
        self._url = url
        self._stack = ExitStack()

    def start(self, name: str, **variables: object) -> Daemon:
        """A daemon of this name, which is running when this returns."""
        settings = {
            "INSTANCE_NAME": name,
            "INSTANCE_SILENCE_SECONDS": SILENCE_SECONDS,
            "HOST_LOGINS_PER_SECOND": 1000,
            "HOST_CONNECTS_AT_ONCE": 64,
            **variables,
        }
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        values = environment(self._url, self._backend.url, self._certificates, **settings)
        return self._stack.enter_context(Daemon(values, folder))

    def close(self) -> None:
        self._stack.close()

    def rows(self) -> dict[str, tuple[int, int, bool]]:
        """Mailboxes, watched and settled of each instance, as it says itself."""
        found = self.database.execute(
            "SELECT name, mailboxes, watched, settled FROM idle_instances ORDER BY name"
        )
        return {name: (mailboxes, watched, settled) for name, mailboxes, watched, settled in found}

    def sessions(self) -> Counter[str]:
        """How many sessions each mailbox has, by the server's count."""
        connections = list(self.imap.connections)
        return Counter(
            c.login for c in connections if c.closed is None and c.state in ("selected", "idle")
        )

    def all_have(self, number: int) -> bool:
        """Whether each mailbox has so many sessions."""
        sessions = self.sessions()
        return len(sessions) == MAILBOXES and set(sessions.values()) == {number}

    def has_settled(self, *names: str) -> bool:
        """Whether these are the instances, each watches its share, and no mailbox has two."""
        rows = self.rows()
        return (
            set(rows) == set(names)
            and all(settled for _, _, settled in rows.values())
            and sum(mailboxes for mailboxes, _, _ in rows.values()) == MAILBOXES
            and self.all_have(1)
        )

    def wait_settled(self, *names: str, seconds: float = ROOM_SECONDS) -> None:
        wait_for(lambda: self.has_settled(*names), seconds, f"{names} to share the mailboxes")


@pytest.fixture
def fleet(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> Iterator[Fleet]:
    """No daemon yet, a table, and mailboxes at one server."""
    users = {f"u{n}@example.org": "secret" for n in range(MAILBOXES)}
    mailboxes = {name: Mailbox() for name in users}
    context = certificates.server_context()
    with ScriptedImap(mailboxes, tls_context=context, users=users) as imap:
        for name in users:
            database.add(name, imap_port=imap.port, password_encrypted=stored("secret"))
        database.execute(TABLE.read_text())
        fleet = Fleet(database, backend, imap, certificates, tmp_path, database.url)
        yield fleet
        fleet.close()


def test_three_share_the_mailboxes_and_two_take_over_from_one_that_is_killed(fleet: Fleet) -> None:
    """Its mailboxes are watched again in time, and the others' sessions are not touched."""
    daemons = {name: fleet.start(name) for name in ("a", "b", "c")}
    fleet.wait_settled("a", "b", "c")
    daemons["b"].signal(signal.SIGKILL)
    wait_for(lambda: not fleet.all_have(1), ROOM_SECONDS, "its sessions to end")
    wait_for(lambda: fleet.all_have(1), ROOM_SECONDS, "the others to take over")
    fleet.wait_settled("a", "c")
