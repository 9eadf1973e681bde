"""Several daemons share the mailboxes: they come, go and die, and no mail is missed.

What is promised is a time, in beats and silences; the bounds here leave a busy machine room beyond
it. The sessions are counted by the server, and looked at all the while.
"""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet_rig import (
    BEAT_SECONDS,
    MAILBOXES,
    ROOM_SECONDS,
    SILENCE_SECONDS,
    TABLE,
    Fleet,
)
from tests.support.recording_backend import RecordingBackend
from tests.support.servers import Certificates, Database

LOGINS_SECONDS = 1.0
TAKEN_OVER_SECONDS = SILENCE_SECONDS + 2 * BEAT_SECONDS + LOGINS_SECONDS


@pytest.fixture
def fleet(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> Iterator[Fleet]:
    """No daemon yet, a table, and mailboxes at one server."""
    database.execute(TABLE)
    with Fleet(database, backend, certificates, tmp_path) as fleet:
        yield fleet


def test_two_take_over_from_one_that_is_killed(fleet: Fleet) -> None:
    """Its mailboxes are watched again within a silence, two beats and the logins; the others'
    sessions are not touched, and no mail is missed.
    """
    fleet.start_all("a", "b", "c")
    share, before = fleet.rows()["b"][0], set(fleet.open_connections())
    fleet.mail()
    fleet.watch()
    fleet.daemons["b"].signal(signal.SIGKILL)
    fleet.mail()
    fleet.wait(lambda: not fleet.is_covered(), "its sessions to end")
    fleet.mail()
    fleet.wait(fleet.is_covered, "the others to take over", TAKEN_OVER_SECONDS + ROOM_SECONDS)
    print(f"killed: unwatched for {fleet.longest_gap:.1f} s")
    fleet.wait_settled("a", "c")
    assert len(before - set(fleet.open_connections())) == share
    fleet.daemons["a"].wait_line("b fell silent: its")
    fleet.wait_scanned()


def test_a_newcomer_takes_its_share_and_leaves_no_gap(fleet: Fleet) -> None:
    """No mailbox is without a session for a moment, and about a third moves."""
    fleet.start_all("a", "b")
    fleet.watch()
    fleet.start("c")
    fleet.mail()
    fleet.wait_settled("a", "b", "c")
    assert fleet.longest_gap == 0
    share = fleet.rows()["c"][0]
    assert MAILBOXES / 6 < share < MAILBOXES / 2
    fleet.daemons["c"].wait_line(f"joined as c, with a, b: {share} of {MAILBOXES} mailboxes")
    fleet.daemons["a"].wait_line("c came;")
    fleet.daemons["a"].wait_line("mailboxes to c")
    fleet.wait_scanned()


@pytest.mark.parametrize("wrong", ["key", "network", "certificates"])
def test_a_newcomer_that_can_log_in_nowhere_costs_no_session(
    fleet: Fleet, certificates: Certificates, wrong: str
) -> None:
    """It never settles, so nobody leaves anything to it."""
    fleet.start_all("a")
    before = set(fleet.open_connections())
    fleet.watch()
    settings = {
        "key": {"ENCRYPTION_KEY": "another-key-that-opens-no-password!!"},
        "network": {"IMAP_ALLOW_PRIVATE_HOSTS": "false"},
        "certificates": {"SSL_CERT_FILE": certificates.untrusted.cert_pem},
    }
    fleet.start("b", **settings[wrong])
    fleet.wait(lambda: fleet.beat_of("b") >= 6, "six of its beats")
    fleet.mail()
    fleet.wait_scanned()
    assert fleet.longest_gap == 0
    assert set(fleet.open_connections()) >= before
    fleet.wait(lambda: "b" in fleet.rows(), "its row")
    mailboxes, watched, settled = fleet.rows()["b"]
    assert (mailboxes > 0, watched, settled) == (True, 0, False)


def test_a_rolling_restart_leaves_a_mailbox_for_two_beats(fleet: Fleet) -> None:
    """Whoever stops in order says so first, and the others take over at their next beat."""
    fleet.start_all("a", "b", "c")
    for name in ("a", "b", "c"):
        fleet.watch()
        fleet.mail()
        assert fleet.daemons[name].stop() == 0
        fleet.wait(fleet.is_covered, "the others to take over")
        assert fleet.longest_gap <= 2 * BEAT_SECONDS + LOGINS_SECONDS + ROOM_SECONDS
        print(f"restarted: unwatched for {fleet.longest_gap:.1f} s")
        fleet.start(name)
        fleet.wait_settled("a", "b", "c")
    fleet.daemons["b"].wait_line(re.compile("c (left|fell silent): its"))
    fleet.wait_scanned()


def test_from_three_to_five_to_two_under_mail(fleet: Fleet) -> None:
    """Nothing is missed, and each mailbox has one session in the end."""
    fleet.start_all("a", "b", "c")
    fleet.watch()
    for name in ("d", "e"):
        fleet.start(name)
        fleet.mail()
    fleet.wait_settled("a", "b", "c", "d", "e")
    assert fleet.longest_gap == 0
    fleet.daemons["a"].signal(signal.SIGKILL)
    fleet.mail()
    fleet.daemons["b"].signal(signal.SIGTERM)
    fleet.mail()
    fleet.daemons["d"].signal(signal.SIGKILL)
    began_at = time.monotonic()
    fleet.mail()
    fleet.wait_settled("c", "e", seconds=2 * ROOM_SECONDS)
    print(f"two left: settled after {time.monotonic() - began_at:.1f} s")
    fleet.wait_scanned()
