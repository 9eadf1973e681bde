"""The development stand-in for the backend, as a process, and real mailboxes for it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.daemon import Daemon
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY, environment, stored
from tests.support.script_run import SCRIPTS
from tests.support.servers import Certificates, Database, Dovecot

UNUSED_URL = "http://127.0.0.1:9"
ANSWER_SECONDS = 30.0
PASSWORD = "canary mailbox password"

# The default query leaves out imap_security.
ALL_COLUMNS = "SELECT * FROM mail_connections WHERE is_active"


class StandIn:
    """The running stand-in, and how to ask it for a scan."""

    def __init__(self, process: Daemon, database: Database) -> None:
        self.process = process
        self._database = database
        self.url = process.wait_line("listening on ").split()[-1]

    def post(self, **arguments: Any) -> requests.Response:
        arguments = {"headers": {"x-admin-secret": ADMIN_SECRET}, **arguments}
        url = f"{self.url}/api/mail/scan-internal"
        return requests.post(url, timeout=ANSWER_SECONDS, **arguments)

    def ask(self, connection_id: str, user_id: str | None = None) -> requests.Response:
        """Ask for a scan; of the row's own user unless another is given."""
        query = "SELECT user_id::text FROM mail_connections WHERE id::text = %s"
        user_id = user_id or self._database.execute(query, connection_id)[0][0]
        body = {"connectionId": connection_id, "userId": user_id, "reason": "exists"}
        return self.post(json=body)

    def scan(self, connection_id: str) -> tuple[int, int]:
        """What a scan that must succeed counts: scanned, blocked."""
        answer = self.ask(connection_id)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"scanned", "blocked"}
        return answer.json()["scanned"], answer.json()["blocked"]


@pytest.fixture
def start(
    database: Database, certificates: Certificates, tmp_path: Path
) -> Callable[..., AbstractContextManager[StandIn]]:
    """Starts a stand-in on a free port; keywords change its environment."""

    @contextmanager
    def starting(*arguments: str, **changes: object) -> Iterator[StandIn]:
        variables = environment(database.url, UNUSED_URL, certificates, **changes)
        command = (SCRIPTS / "stand_in_backend.py", "--port", "0", *arguments)
        with Daemon(variables, tmp_path, command=command) as process:
            yield StandIn(process, database)

    return starting


@pytest.fixture
def stand_in(start: Callable[..., Any]) -> Iterator[StandIn]:
    """A stand-in that must end orderly, and tell no secret until then."""
    with start(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as running:
        yield running
        assert running.process.stop() == 0
        said = running.process.text + running.process.stderr
        assert not [word for word in (ADMIN_SECRET, ENCRYPTION_KEY, PASSWORD) if word in said]
        assert running.process.stderr == ""


@pytest.fixture
def anna(database: Database, dovecot: Dovecot, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A mailbox of this test alone, on Dovecot: its name, and its row's id."""
    name = f"{request.node.name.split('[')[0]}@example.org"
    return name, add_mailbox(database, dovecot, name)


def add_mailbox(database: Database, dovecot: Dovecot, name: str, **fields: object) -> str:
    """A Dovecot user and its row; the row's id."""
    dovecot.add_user(name, PASSWORD)
    row = {"imap_port": dovecot.imaps_port, "password_encrypted": stored(PASSWORD), **fields}
    return database.add(name, **row)
