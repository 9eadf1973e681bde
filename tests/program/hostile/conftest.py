"""Hostile servers, rows, backends and networks against the whole program, over real sockets.

`SECURITY.md` says what is promised; the names of these tests are quoted there.
"""

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

EVIL, WELL = "evil@example.org", "well@example.org"
ALL_COLUMNS = "SELECT * FROM mail_connections WHERE is_active"
PROMPT_SECONDS = 10.0


@pytest.fixture
def evil(certificates: Certificates) -> Iterator[ScriptedImap]:
    """The server of the hostile mailbox; honest until a test bends it."""
    with scripted(certificates, EVIL) as server:
        yield server


@pytest.fixture
def well(certificates: Certificates) -> Iterator[ScriptedImap]:
    """The server of the mailbox that must not suffer."""
    with scripted(certificates, WELL) as server:
        yield server


def scripted(certificates: Certificates, *logins: str, starttls: bool = False) -> ScriptedImap:
    """An honest server with a mailbox for each login, all with the password `secret`."""
    context = certificates.server_context()
    return ScriptedImap(
        {login: Mailbox() for login in logins},
        users=dict.fromkeys(logins, "secret"),
        **{"starttls_context" if starttls else "tls_context": context},
    )


def add(database: Database, server: ScriptedImap, email: str, **fields: object) -> str:
    """Add the row of a mailbox on `server`; its id."""
    row = {"imap_port": server.port, "password_encrypted": stored("secret"), **fields}
    return database.add(email, **row)


def deliver(server: ScriptedImap, login: str, backend: RecordingBackend, id_: str) -> None:
    """Let mail arrive and be announced, and wait for the scan that follows it."""
    mailbox = server.mailbox_of(login)
    mailbox.arrive()
    at = mailbox.arrivals[-1].at

    def scanned() -> bool:
        return any(scan.connection_id == id_ and scan.arrived >= at for scan in backend.scans)

    wait_for(scanned, PROMPT_SECONDS, f"the scan of {login}'s mail")


def reconnects(daemon: Daemon, email: str, after: int) -> int:
    """How often the mailbox backed off since."""
    return sum(f"[idle/{email}] reconnecting in" in line for line in daemon.lines[after:])


def wait_reconnects(daemon: Daemon, email: str, number: int, after: int) -> None:
    what = f"{number} back-offs of {email}"
    wait_for(lambda: reconnects(daemon, email, after) >= number, 40, what)


def drop(server: ScriptedImap) -> None:
    """End the sessions that there are, as an honest server does."""
    for connection in server.connections:
        if connection.open:
            connection.fin()


def said(server: ScriptedImap) -> bytes:
    """All commands that the server got."""
    return b"".join(command.line for each in server.connections for command in each.commands)
