"""The stand-in's access tokens: a Dovecot of one's own takes them, and so does the daemon."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.program.stand_in_backend.conftest import ALL_COLUMNS, StandIn
from tests.support.daemon import Daemon
from tests.support.rig import ADMIN_SECRET, environment
from tests.support.servers import Certificates, Database, Dovecot

USER = "gina@example.org"
PATH = "/api/mail/access-token"


class OwnDovecot(Dovecot):
    """One whose key is the stand-in's."""

    issuer = "https://rebreak.example/stand-in"

    @property
    def key_file(self) -> Path:
        return self.folder / "keys" / "default" / "HS256" / "default"


@pytest.fixture
def dovecot(certificates: Certificates) -> Iterator[OwnDovecot]:
    with OwnDovecot(certificates.server) as server:
        server.add_user(USER, "no password that anybody uses")
        yield server


@pytest.fixture
def row(database: Database, dovecot: OwnDovecot) -> str:
    return database.add(
        USER, imap_port=dovecot.imaps_port, imap_auth="oauth2", password_encrypted=None
    )


@pytest.fixture
def stand_in(
    start: Callable[..., AbstractContextManager[StandIn]], dovecot: OwnDovecot
) -> Iterator[StandIn]:
    arguments = ("--token-key", str(dovecot.key_file))
    with start(*arguments, MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as running:
        yield running
        assert running.process.stop() == 0
        assert "eyJ" not in running.process.text + running.process.stderr


def ask(stand_in: StandIn, body: object, secret: str = ADMIN_SECRET) -> requests.Response:
    headers = {"x-admin-secret": secret}
    return requests.post(f"{stand_in.url}{PATH}", json=body, headers=headers, timeout=30)


def request_of(database: Database, id_: str, **more: object) -> dict[str, Any]:
    query = "SELECT user_id::text FROM mail_connections WHERE id::text = %s"
    user_id = database.execute(query, id_)[0][0]
    return {"connectionId": id_, "userId": user_id, "fresh": False, **more}


def test_the_daemon_and_the_stand_in_and_dovecot(
    stand_in: StandIn,
    database: Database,
    dovecot: OwnDovecot,
    row: str,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """The daemon logs in with its token, and the stand-in scans with one, too."""
    values = environment(
        database.url, stand_in.url, certificates, MAIL_CONNECTIONS_QUERY=ALL_COLUMNS
    )
    with Daemon(values, tmp_path) as daemon:
        daemon.wait_line("scan-triggered → scanned=0 blocked=0")
        mark = daemon.mark()
        dovecot.deliver(USER, subject="Casino bonus")
        daemon.wait_line("scan-triggered → scanned=1 blocked=1", after=mark)
        assert dovecot.count(USER) == 0
        assert daemon.stop() == 0
    assert f"access token for {row}" in stand_in.process.text


def test_a_token_is_handed_out_again_unless_a_fresh_one_is_wanted(
    stand_in: StandIn, database: Database, row: str
) -> None:
    """With what is left of it."""
    first, second = (ask(stand_in, request_of(database, row)).json() for _ in range(2))
    assert 3500 < second["expiresIn"] <= first["expiresIn"] <= 3599
    assert first["accessToken"] == second["accessToken"]
    third = ask(stand_in, request_of(database, row, fresh=True)).json()
    assert third["accessToken"] != first["accessToken"]


def test_what_is_refused(stand_in: StandIn, database: Database, row: str) -> None:
    """With the statuses of the contract, and a JSON error."""
    password = database.add("paul@example.org", password_encrypted="x")
    body = request_of(database, row)
    cases = [
        (ask(stand_in, body, "wrong"), 401),
        (ask(stand_in, {**body, "connectionId": "nobody"}), 404),
        (ask(stand_in, {**body, "userId": "somebody else"}), 404),
        (ask(stand_in, request_of(database, password)), 409),
        (ask(stand_in, {**body, "fresh": "yes"}), 400),
        (ask(stand_in, {"connectionId": row}), 400),
        (ask(stand_in, [1]), 400),
    ]
    assert [(answer.status_code, bool(answer.json()["error"])) for answer, _ in cases] == [
        (status, True) for _, status in cases
    ]
