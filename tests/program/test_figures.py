"""The line of figures, from the program."""

import re
import signal
import time

from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend, answer
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

SECONDS = 30.0

LINE = re.compile(
    r"^\[idle/db\] last \d+s — (\d+) scans, reaction median ([\d.]+)s, slowest ([\d.]+)s; "
    r"(\d+) scans owed; (\d+) parked$"
)


def figures(daemon: Daemon, after: int = 0) -> list[list[float]]:
    """The numbers of each line of figures: scans, median, slowest, owed, parked."""
    found = [LINE.search(line) for line in daemon.lines[after:]]
    return [[float(number) for number in line.groups()] for line in found if line]


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
            wait_for(lambda: sum(line[0] for line in figures(daemon)) == 1, SECONDS, "the scan")
            told = figures(daemon)
            assert told[-1][3:] == [0, 1]
            assert {line[1] for line in told} == {0}  # of no mail was heard
            refreshed = [line for line in daemon.lines if "refreshed" in line]
            assert len(refreshed) >= len(told) + 2  # at the start, and on SIGHUP

            mark, arrived = daemon.mark(), time.monotonic()
            backend.script = [answer(500, {})]
            mailbox.arrive()
            scans = backend.wait_answered(3)  # the first, the one that fails, its repetition
            wait_for(lambda: any(line[0] for line in figures(daemon, mark)), SECONDS, "figures")
            (line,) = [line for line in figures(daemon, mark) if line[0]]
            assert line[0] == 1
            least = scans[2].arrived - scans[1].arrived
            for reaction in line[1:3]:
                assert 0.95 * least <= reaction <= 1.05 * (time.monotonic() - arrived)


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
