"""A preflight's mailboxes, and a backend that answers as a test chooses."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.recording_backend import Behaviour, RecordingBackend, Request
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

ANY_LOGIN = "SELECT * FROM mail_connections WHERE is_active ORDER BY email"


def add_mailboxes(database: Database, number: int, port: int, prefix: str = "") -> None:
    """So many mailboxes at one port of localhost, all with the login user@example.org."""
    for index in range(number):
        database.add(
            f"{prefix}{index}@example.org",
            imap_port=port,
            imap_username="user@example.org",
            password_encrypted=stored("secret"),
        )


class Gate(RecordingBackend):
    """A backend whose every answer, to any method and path, is one that the test chose."""

    def __init__(self, choose: Callable[[Request], Behaviour]) -> None:
        super().__init__()
        self._choose = choose

    def _behaviour(self, request: Request) -> Behaviour:
        return self._choose(request)


@pytest.fixture
def server(database: Database, certificates: Certificates) -> Iterator[ScriptedImap]:
    """A server with one mailbox that is ready, so that the backend alone decides."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as scripted:
        add_mailboxes(database, 1, scripted.port)
        yield scripted
