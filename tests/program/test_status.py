"""SIGUSR1: how the mailboxes are doing."""

import re
import signal

from tests.conftest import Run
from tests.support.recording_backend import RecordingBackend, answer
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database


def test_every_mailbox_that_is_not_simply_idle_has_a_line(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """State, since when, next try and last trouble; then a count by state."""
    users = {"user@example.org": "secret", "owing@example.org": "secret"}
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context(), users=users) as server:
        port = server.port
        database.add("user@example.org", imap_port=port, password_encrypted=stored("secret"))
        database.add("parked@example.org", imap_port=port, password_encrypted=stored("secret"))
        database.add("off@example.org", imap_port=1, password_encrypted=stored("secret"))
        with run(RECONNECT_INITIAL_SECONDS="100") as daemon:
            for text in ("scan-triggered", "reconnecting in 100s", "parked: next try"):
                daemon.wait_line(text)
            mark = daemon.mark()
            daemon.signal(signal.SIGUSR1)
            daemon.wait_line("states — 1 BACKING_OFF, 1 IDLING, 1 PARKED", after=mark)
            off = daemon.wait_line("[idle/off@example.org] BACKING_OFF for ", after=mark)
            assert re.search(r"next try in \d+s, last trouble: network trouble: Conn", off)
            parked = daemon.wait_line("[idle/parked@example.org] PARKED for ", after=mark)
            assert "last trouble: the server refused the login" in parked
            assert not [line for line in daemon.lines[mark:] if "user@example.org" in line]


def test_an_owed_scan_is_told(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """A mailbox that listens but owes a scan is not simply idle."""
    backend.default = answer(500, {})
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            daemon.wait_line("scan failed")
            daemon.signal(signal.SIGUSR1)
            line = daemon.wait_line(re.compile(r"IDLING for .*a scan is owed"))
            assert "last trouble: the backend answered 500" in line
