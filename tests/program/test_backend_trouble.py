"""What the backend may do, seen by the whole program: nothing is lost, and the log says why."""

import re
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.recording_backend import (
    Behaviour,
    Hang,
    RecordingBackend,
    answer,
    cut_off,
    drip,
    early_hints,
    empty,
    html,
    redirect,
    reset,
)
from tests.support.rig import add_mailboxes, environment, stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

FAILURES = {
    "500": (answer(500, {"error": "no"}), "the backend answered 500"),
    "503": (answer(503, {}), "the backend answered 503"),
    "401": (answer(401, {}), "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong"),
    "403": (answer(403, {}), "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong"),
    "404": (answer(404, {}), "BACKEND_URL does not lead to the scan endpoint"),
    "redirect": (redirect("http://127.0.0.1:1/"), "redirects are not followed"),
    "html error": (html(502), "the backend answered 502"),
    "reset": (reset, "the backend broke off"),
    "cut off": (cut_off(b"{}", 100), "the backend broke off"),
    "cut off before the body": (cut_off(b"", 100), "the backend broke off"),
    "informational": (early_hints, "the backend answered 103"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_said_and_the_scan_stays_owed(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    name: str,
) -> None:
    """Whatever is no 2xx gets one clear line, and the scan is sent again."""
    behaviour, text = FAILURES[name]
    backend.script = [behaviour]
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            line = daemon.wait_line("[idle/user@example.org] scan failed:")
            assert text in line
            assert line.endswith("it is still owed, next try in 1s")
            daemon.wait_line("scan-triggered → scanned=1 blocked=0")
    assert [scan.reason for scan in backend.scans] == ["catch-up", "catch-up"]
    first, second = backend.scans
    assert second.arrived - first.answered >= 0.99


@pytest.mark.parametrize("behaviour", [html(200), answer(200, [1, 2])])
def test_any_2xx_is_success(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    behaviour: Behaviour,
) -> None:
    """A 2xx without a JSON object counts as done, its numbers are unknown, and the log wonders."""
    backend.script = [behaviour]
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            daemon.wait_line("scan-triggered → scanned=? blocked=?")
            daemon.wait_line("the backend's answer is no JSON object: is BACKEND_URL right?")
            daemon.stop()
    assert len(backend.scans) == 1


@pytest.mark.parametrize("behaviour", [empty(204), empty(200)])
def test_an_empty_2xx_is_success(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    behaviour: Behaviour,
) -> None:
    """Nothing need be said with a 2xx, and nothing is remarked on."""
    backend.script = [behaviour]
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            daemon.wait_line("scan-triggered → scanned=? blocked=?")
            daemon.stop()
            assert "BACKEND_URL" not in daemon.text
    assert len(backend.scans) == 1


def test_a_backend_that_is_down_gets_what_is_owed_when_it_returns(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """While it refuses connections the sessions live on; then each owed scan is sent once."""
    mailbox = Mailbox()
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            daemon.wait_line("scan-triggered")
            with backend.down():
                mailbox.arrive(3)
                line = daemon.wait_line("[idle/backend] the backend is away: ")
                assert "refuses connections: is it running, is BACKEND_URL right?" in line
            mark = daemon.mark()
            daemon.wait_line("[idle/backend] the backend is back", after=mark)
            daemon.wait_line("scan-triggered", after=mark)
            assert server.connects == 1
    assert [scan.reason for scan in backend.scans] == ["catch-up", "exists"]


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_a_scan_takes_no_longer_than_its_time_out(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    behaviour: str,
) -> None:
    """A backend that never answers, or drips, is left after SCAN_TIMEOUT_SECONDS in all."""
    backend.script = [Hang() if behaviour == "hang" else drip(60)]
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run(SCAN_TIMEOUT_SECONDS="1") as daemon:
            daemon.wait_line("scan failed: the backend")
            daemon.wait_line("scan-triggered")


def test_retry_after_is_honoured(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """429 and 503 with Retry-After are asked again when they say."""
    backend.script = [answer(429, {}, {"Retry-After": "3"})]
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            daemon.wait_line("next try in 3s")
            daemon.wait_line("scan-triggered")
    first, second = backend.scans
    assert second.arrived - first.answered >= 2.99


def test_a_burst_during_one_request_makes_exactly_one_more(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """One mailbox never has two requests under way, and many announcements need one scan."""
    hang = Hang()
    mailbox = Mailbox()
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            backend.wait_answered(1)
            backend.script = [hang]
            mailbox.arrive()
            backend.wait_for(2)
            for _ in range(20):
                mailbox.arrive()
            hang.release()
            backend.wait_answered(3)
            daemon.stop()
    assert len(backend.scans) == 3
    assert backend.concurrent_max == 1


def test_scan_concurrency_is_respected(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """However many mailboxes get mail at once, no more requests than that are under way."""
    hang = Hang()
    backend.default = hang
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        add_mailboxes(database, 12, server.port)
        query = "SELECT * FROM mail_connections WHERE is_active"
        with run(SCAN_CONCURRENCY="3", MAIL_CONNECTIONS_QUERY=query) as daemon:
            server.wait_for_idling(12, 30)
            backend.wait_for(3)
            hang.release()
            backend.wait_answered(12)
            daemon.stop()
    assert backend.concurrent_max == 3


def test_production_and_staging_ports(
    database: Database, certificates: Certificates, tmp_path: Path
) -> None:
    """Without BACKEND_URL the port follows NODE_ENV."""
    values = environment(database.url, "", certificates)
    del values["BACKEND_URL"]
    for node_env, port in (("production", 3015), ("staging", 3016)):
        with Daemon({**values, "NODE_ENV": node_env}, tmp_path, ["check"]) as daemon:
            daemon.wait(30)
            assert re.search(rf"backend: the backend at http://127.0.0.1:{port} ", daemon.text)
