"""The line of figures, from the program."""

import re
import signal

import pytest

from tests.conftest import Run
from tests.support.recording_backend import RecordingBackend, answer
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

LINE = re.compile(
    r"^\[idle/db\] last 3s — (\d+) scans, reaction median ([\d.]+)s, slowest ([\d.]+)s; "
    r"(\d+) scans owed; (\d+) parked$"
)


def test_figures_follow_the_refresh_of_the_interval(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """Reactions as the backend saw them; what is owed, and who is parked; none on SIGHUP."""
    users = {"user@example.org": "secret"}
    tls, mailbox = certificates.server_context(), Mailbox()
    with ScriptedImap(mailbox, tls_context=tls, users=users) as server:
        for name in ("user", "parked"):
            database.add(
                f"{name}@example.org", imap_port=server.port, password_encrypted=stored("secret")
            )
        with run(REFRESH_INTERVAL_SECONDS="3") as daemon:
            daemon.wait_line("parked: next try")
            daemon.wait_line("scan-triggered")
            daemon.signal(signal.SIGHUP)
            found = LINE.search(daemon.wait_line(LINE))
            assert found
            assert found.groups() == ("1", "0", "0", "0", "1")
            refreshed = [line for line in daemon.lines if "refreshed" in line]
            assert len(refreshed) >= 3  # at the start, on SIGHUP, at the interval

            mark = daemon.mark()
            backend.script = [answer(500, {})]
            mailbox.arrive()
            scans = backend.wait_answered(3)  # the first, the one that fails, its repetition
            found = LINE.search(daemon.wait_line(LINE, after=mark))
            assert found
            if found[1] == "0":  # it was told in the midst of them
                mark = daemon.mark()
                found = LINE.search(daemon.wait_line(LINE, after=mark))
                assert found
            assert found[1] == "1"
            took = (scans[2].answered or 0.0) - scans[1].arrived
            assert float(found[2]) == pytest.approx(took, abs=0.3)
            assert found[2] == found[3] or float(found[2]) == pytest.approx(
                float(found[3]), rel=0.05
            )


def test_what_is_owed_is_told(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """A scan that the backend refuses is owed, until its row goes."""
    backend.default = answer(500, {})
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run(REFRESH_INTERVAL_SECONDS="3", CHANGE_CHECK_SECONDS="0.2") as daemon:
            daemon.wait_line("scan failed")
            mark = daemon.mark()
            assert daemon.wait_line(LINE, after=mark).endswith("; 1 scans owed; 0 parked")
            mark = daemon.mark()
            database.execute("DELETE FROM mail_connections")
            daemon.wait_line("refreshed — 0 active", after=mark)
            mark = daemon.mark()
            assert daemon.wait_line(LINE, after=mark).endswith("; 0 scans owed; 0 parked")
