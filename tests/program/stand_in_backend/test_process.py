"""The stand-in as a process."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.program.stand_in_backend.conftest import ANSWER_SECONDS, UNUSED_URL, StandIn
from tests.support.daemon import Daemon
from tests.support.rig import ADMIN_SECRET, environment
from tests.support.script_run import SCRIPTS
from tests.support.servers import Certificates, Database


def test_it_can_be_asked_whether_it_is_up(stand_in: StandIn) -> None:
    """GET / says so; elsewhere there is nothing."""
    assert requests.get(stand_in.url, timeout=ANSWER_SECONDS).status_code == 200
    elsewhere = f"{stand_in.url}/elsewhere"
    assert requests.get(elsewhere, timeout=ANSWER_SECONDS).status_code == 404
    secret = {"x-admin-secret": ADMIN_SECRET}
    answer = requests.post(elsewhere, data=b"{}", headers=secret, timeout=ANSWER_SECONDS)
    assert answer.status_code == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_orderly(start: Callable[..., Any], number: int) -> None:
    """Asked to stop it says so and exits with 0, a silent caller on the line notwithstanding."""
    with start() as stand_in:
        port = int(stand_in.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            stand_in.process.signal(number)
            assert stand_in.process.wait() == 0
        assert stand_in.process.lines[-1] == "[backend] stopped"


def test_a_wrong_environment_is_told_and_shows_no_secret(tmp_path: Path) -> None:
    """Exit status 78 and a line for each problem, as the daemon does."""
    variables = {"ADMIN_SECRET": ADMIN_SECRET, "ENCRYPTION_KEY": "canary-short"}
    command = (SCRIPTS / "stand_in_backend.py",)
    with Daemon(variables, tmp_path, command=command) as process:
        assert process.wait() == 78
    problems = process.stderr.splitlines()
    assert [line.split()[0] for line in problems] == ["DATABASE_URL", "ENCRYPTION_KEY"]
    assert "canary" not in process.stderr


def test_nothing_in_the_working_directory_is_taken_for_a_module(tmp_path: Path) -> None:
    """It is started where its .env is, and that may be anywhere."""
    (tmp_path / "email.py").write_text("raise SystemExit('not this one')\n")
    with Daemon({}, tmp_path, command=(SCRIPTS / "stand_in_backend.py",)) as process:
        assert process.wait() == 78
    assert "not this one" not in process.stderr


def test_a_missing_blocklist_is_told(
    database: Database, certificates: Certificates, tmp_path: Path
) -> None:
    """A blocklist that cannot be read stops the start: nothing would be deleted."""
    command = (SCRIPTS / "stand_in_backend.py", "--port", "0", "--blocklist", "nowhere")
    variables = environment(database.url, UNUSED_URL, certificates)
    with Daemon(variables, tmp_path, command=command) as process:
        assert process.wait() == 1
    assert "nowhere" in process.stderr
    assert os.linesep not in process.stderr.strip()


def test_states_are_shown(start: Callable[..., AbstractContextManager[StandIn]]) -> None:
    """What the daemon tells of a mailbox gets a line; nonsense and a wrong secret do not."""
    told = {
        "connectionId": "7",
        "userId": "8",
        "state": "parked",
        "who": "user",
        "reason": "the server refused the login: no",
        "since": "2026-11-28T08:00:00.000Z",
    }
    with start(CONNECTION_STATE_PATH="/states") as stand_in:

        def post(body: object, secret: str = ADMIN_SECRET) -> int:
            return requests.post(
                f"{stand_in.url}/states",
                json=body,
                headers={"x-admin-secret": secret},
                timeout=ANSWER_SECONDS,
            ).status_code

        assert post(told, "wrong") == 401
        assert post({**told, "who": None}) == 400
        assert "parked" not in stand_in.process.text
        assert post(told) == 204
        stand_in.process.wait_line(
            "mailbox 7 is parked since 2026-11-28T08:00:00.000Z (who: user): "
            "the server refused the login: no"
        )
