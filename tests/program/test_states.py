"""The backend is told that a mailbox is parked, not watched, or watched again."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.recording_backend import STATE_PATH, Hang, RecordingBackend, answer, empty
from tests.support.rig import ADMIN_SECRET, environment, stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

USERS = {f"{name}@example.org": "secret" for name in ("user", "other")}
SECONDS = 30.0
# The program, with another quarter of an hour.
SHORT = (
    "from rebreak_idle import notices; notices.UNWATCHED_SECONDS = 1.0;"
    "from rebreak_idle.__main__ import main; main([])"
)

Add = Callable[..., str]


@pytest.fixture
def inbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def server(certificates: Certificates, inbox: Mailbox) -> Iterator[ScriptedImap]:
    tls = certificates.server_context()
    with ScriptedImap(inbox, tls_context=tls, users=USERS) as scripted:
        yield scripted


@pytest.fixture
def add(database: Database, server: ScriptedImap) -> Add:
    """Adds a row of the server; its id."""
    return lambda name, password="secret": database.add(
        f"{name}@example.org", imap_port=server.port, password_encrypted=stored(password)
    )


def told(backend: RecordingBackend, number: int) -> list[dict[str, Any]]:
    """The bodies of so many messages, as soon as they were answered."""
    wait_for(
        lambda: sum(request.answered is not None for request in backend.notices) >= number,
        SECONDS,
        f"{number} messages",
    )
    return [request.body for request in backend.notices]


def test_parked_and_watched_again(
    run: Run, database: Database, backend: RecordingBackend, add: Add
) -> None:
    """A wrong password is told with who must act; the right one as soon as it works."""
    backend.states = empty()
    began = datetime.now(UTC)
    user, _ = add("user", password="wrong"), add("other")
    with run(CONNECTION_STATE_PATH=STATE_PATH, CHANGE_CHECK_SECONDS="0.2") as daemon:
        daemon.wait_line("parked: next try")
        (parked,) = told(backend, 1)
        ((user_id,),) = database.execute(
            "SELECT user_id::text FROM mail_connections WHERE id = %s", user
        )
        assert list(parked) == ["connectionId", "userId", "state", "who", "reason", "since"]
        assert (parked["connectionId"], parked["userId"]) == (user, user_id)
        assert (parked["state"], parked["who"]) == ("parked", "user")
        assert parked["reason"].startswith("the server refused the login: ")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", parked["since"])
        since = datetime.fromisoformat(parked["since"])
        assert began - timedelta(seconds=1) <= since <= datetime.now(UTC)
        (request,) = backend.notices
        assert request.method == "POST"
        assert request.headers["x-admin-secret"] == ADMIN_SECRET
        assert request.headers["content-type"] == "application/json"

        database.execute(
            "UPDATE mail_connections SET password_encrypted = %s WHERE id = %s",
            stored("secret"),
            user,
        )
        watched = told(backend, 2)[1]
        assert (watched["connectionId"], watched["state"]) == (user, "watched")
        assert watched["who"] == "nobody"
        assert datetime.fromisoformat(watched["since"]) > since
    assert len(backend.notices) == 2


def test_not_watched_for_a_quarter_of_an_hour(
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """A server that is away; the quarter of an hour is made short."""
    backend.states = empty()
    user = database.add("user@example.org", imap_port=1, password_encrypted=stored("secret"))
    values = environment(database.url, backend.url, certificates, CONNECTION_STATE_PATH=STATE_PATH)
    with Daemon(values, tmp_path, command=("-c", SHORT)):
        (unwatched,) = told(backend, 1)
        assert (unwatched["connectionId"], unwatched["state"]) == (user, "unwatched")
        assert unwatched["who"] == "nobody"
        assert unwatched["reason"].startswith("network trouble: ")


def test_an_operator_s_fault_is_told_as_his(
    run: Run, database: Database, backend: RecordingBackend
) -> None:
    """A password that does not open is nothing that the user could mend."""
    backend.states = empty()
    database.add("user@example.org", password_encrypted=stored("secret", "x" * 32))
    with run(CONNECTION_STATE_PATH=STATE_PATH):
        (parked,) = told(backend, 1)
        assert (parked["state"], parked["who"]) == ("parked", "operator")
        assert parked["reason"].startswith("the stored password does not open")


def test_no_secret_is_in_a_reason(
    run: Run, backend: RecordingBackend, server: ScriptedImap, add: Add
) -> None:
    """A server that says secrets back, and more than anybody reads, gets them into no message."""
    backend.states = empty()
    said = f"NO [AUTHENTICATIONFAILED] canary-password {ADMIN_SECRET} \x07 {'x' * 900}"
    server.on("login", lambda c: c.answer(said.encode()), instead=True)
    add("user", password="canary-password")
    with run(CONNECTION_STATE_PATH=STATE_PATH):
        (parked,) = told(backend, 1)
        assert "canary" not in parked["reason"]
        assert parked["reason"].isprintable()
        assert len(parked["reason"]) <= 301


def test_it_is_told_until_it_takes_it_and_scans_go_on(
    run: Run, backend: RecordingBackend, inbox: Mailbox, add: Add
) -> None:
    """One line when it cannot be told, one when it can; scans are not in its way, nor it in
    theirs.
    """
    backend.states = answer(500, {"error": "no table"})
    add("user", password="wrong")
    add("other")
    with run(CONNECTION_STATE_PATH=STATE_PATH) as daemon:
        daemon.wait_line(
            "[idle/backend] the backend cannot be told which mailboxes are parked, unwatched or "
            "watched again: the backend answered 500"
        )
        told(backend, 3)
        inbox.arrive()
        daemon.wait_line("scan-triggered")
        assert "scan failed" not in daemon.text
        backend.states = empty()
        daemon.wait_line("[idle/backend] the backend can be told again", SECONDS)
        assert daemon.text.count("cannot be told") == 1


def test_an_endpoint_that_hangs_holds_up_no_scan_and_no_stop(
    run: Run, backend: RecordingBackend, inbox: Mailbox, add: Add
) -> None:
    """All its requests hang, and mail is scanned, and the daemon stops as ever."""
    hanging = Hang()
    backend.states = hanging
    for number in range(6):
        add(f"parked{number}")  # the server does not know them
    add("other")
    with run(CONNECTION_STATE_PATH=STATE_PATH, SCAN_CONCURRENCY="1") as daemon:
        wait_for(lambda: backend.notices, SECONDS, "a message")
        before = len(backend.scans)
        inbox.arrive()
        backend.wait_answered(before + 1)
        assert daemon.stop() == 0


def test_without_the_path_nothing_is_told(run: Run, backend: RecordingBackend, add: Add) -> None:
    """No request."""
    add("user", password="wrong")
    with run() as daemon:
        daemon.wait_line("parked: next try")
        assert daemon.stop() == 0
    assert not backend.notices
