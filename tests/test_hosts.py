"""The limits at one host: attempts at once, and the rate of logins."""

import re
from itertools import pairwise

import pytest
from conftest import Run
from harness import quick_config
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_backend import RecordingBackend
from rig import stored
from scripted_imap import Connection, Mailbox, ScriptedImap
from servers import Certificates, Database

from rebreak_idle.hosts import Hosts
from rebreak_idle.limits import TokenBucket
from rebreak_idle.mailbox import Mailbox as Row


def test_a_burst_of_twice_the_rate_is_let_through() -> None:
    """Forty logins at twenty a second go at once; the next ones come one by one."""
    rate = TokenBucket(20, lambda: 100.0)
    assert [rate.take() for _ in range(40)] == [0.0] * 40
    assert [round(rate.take(), 6) for _ in range(3)] == [0.05, 0.1, 0.15]


@given(
    st.floats(0.1, 1000),
    st.lists(st.floats(0, 10), min_size=1, max_size=200),
)
@settings(deadline=None)
def test_the_lasting_rate_is_never_exceeded(per_second: float, pauses: list[float]) -> None:
    """In any stretch of time there are no more turns than the rate allows, and twice it at once."""
    now = 0.0
    rate = TokenBucket(per_second, lambda: now)
    turns = []
    for pause in pauses:
        now += pause
        turns.append(now + rate.take())
    assert all(later - earlier > -1e-6 for earlier, later in pairwise(turns))
    for first in range(len(turns)):
        for last in range(first, len(turns)):
            allowed = (turns[last] - turns[first]) * per_second + 2 * per_second + 1
            assert last - first <= allowed + 1e-6


def row(host: str = "h", port: int = 993, starttls: bool = False) -> Row:
    return Row("1", "u", "user@example.org", host, port, "user", "", starttls)


def test_hosts_are_told_apart_by_name_and_port() -> None:
    """The same name and port are one host, whatever the case; TLS and STARTTLS are two."""
    hosts = Hosts(quick_config(), lambda: 0.0)
    assert hosts.at(row("Mail.example.org")) is hosts.at(row("mail.example.org"))
    assert hosts.at(row(port=143)) is not hosts.at(row(port=993))
    assert hosts.at(row(starttls=True)) is not hosts.at(row())


def test_hosts_that_no_row_names_are_forgotten() -> None:
    """What is known of a host lasts as long as a row leads there."""
    hosts = Hosts(quick_config(), lambda: 0.0)
    kept, gone = hosts.at(row("kept")), hosts.at(row("gone"))
    hosts.forget_all_but([row("kept")])
    assert hosts.at(row("kept")) is kept
    assert hosts.at(row("gone")) is not gone


def test_attempts_at_once_are_bounded(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """A host that is slow to greet sees two attempts at a time, and all mailboxes in the end."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        under_way: list[int] = []

        def count(_: Connection) -> None:
            connecting = {"not authenticated"}
            under_way.append(
                sum(c.state in connecting and c.closed is None for c in server.connections)
            )

        server.on("login", count)
        for number in range(12):
            database.add(
                f"{number}@example.org",
                imap_port=server.port,
                imap_username="user@example.org",
                password_encrypted=stored("secret"),
            )
        query = "SELECT * FROM mail_connections WHERE is_active"
        with run(HOST_CONNECTS_AT_ONCE="2", MAIL_CONNECTIONS_QUERY=query) as daemon:
            server.wait_for_idling(12, 30)
            daemon.stop()
        assert max(under_way) <= 2


def test_a_dead_host_holds_up_no_other(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """Mailboxes at a host that never answers wait for each other, and for nobody else."""
    with (
        ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as dead,
        ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as well,
    ):
        dead.on("greeting", lambda connection: connection.silence())
        for number in range(5):
            database.add(
                f"{number}@example.org", imap_port=dead.port, password_encrypted=stored("secret")
            )
        database.add("user@example.org", imap_port=well.port, password_encrypted=stored("secret"))
        with run(HOST_CONNECTS_AT_ONCE="1") as daemon:
            daemon.wait_line("[idle/user@example.org] connected")
            assert dead.connects == 1
            assert daemon.stop() == 0


def test_a_host_that_is_down_is_probed_by_one(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """After five mailboxes failed, one probes, the others wait; all return when it answers."""
    users = {f"{number}@example.org": "secret" for number in range(12)}
    context = certificates.server_context()
    with ScriptedImap(Mailbox(), tls_context=context, users=users) as server:
        server.on("greeting", b"* BYE Down for maintenance\r\n", instead=True)
        for name in users:
            database.add(name, imap_port=server.port, password_encrypted=stored("secret"))
        with run(RECONNECT_MAX_SECONDS="1", HOST_CONNECTS_AT_ONCE="3") as daemon:
            line = daemon.wait_line("[idle/host] localhost:")
            assert "is down: 5 mailboxes in a row could not connect" in line
            down_at = server.connects
            server.wait_for_connections(down_at + 6)
            open_at_once = [c for c in server.connections if c.closed is None]
            assert len(open_at_once) <= 3
            assert daemon.text.count("is down:") == 1
            server.off("greeting")
            daemon.wait_line("answers again: its mailboxes return")
            server.wait_for_idling(12, 30)
            assert not re.search(r"attempt [4-9]", daemon.text)
            assert daemon.stop() == 0


@pytest.mark.parametrize("text", [b"LOGIN failed", b"[UNAVAILABLE] Not for you"])
def test_refused_logins_do_not_make_a_host_down(
    run: Run, database: Database, certificates: Certificates, text: bytes
) -> None:
    """Seven accounts that cannot log in, for whatever reason, say nothing about the host."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        server.on("login", lambda c: c.answer(b"NO " + text))
        for number in range(7):
            database.add(
                f"{number}@example.org", imap_port=server.port, password_encrypted=stored("no")
            )
        with run() as daemon:
            for number in range(7):
                line = daemon.wait_line(f"[idle/{number}@example.org] ")
                assert text.decode() in line
            assert "is down" not in daemon.text


def test_a_row_that_cannot_be_used_is_parked_although_its_host_is_down(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """A password that does not open, or cannot be sent, has nothing to do with the host."""
    users = {f"{number}@example.org": "secret" for number in range(5)}
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context(), users=users) as server:
        server.on("greeting", b"* BYE Down\r\n", instead=True)
        for name in users:
            database.add(name, imap_port=server.port, password_encrypted=stored("secret"))
        with run(RECONNECT_MAX_SECONDS="1") as daemon:
            daemon.wait_line("is down: 5 mailboxes in a row could not connect")
            database.add("sealed@example.org", imap_port=server.port, password_encrypted="x")
            database.add(
                "cr@example.org", imap_port=server.port, password_encrypted=stored("a\r\nb")
            )
            daemon.signal(1)
            for name in ("sealed", "cr"):
                line = daemon.wait_line(re.compile(rf"\[idle/{name}@example.org\] .*parked"))
                assert "the operator must act" in line


def test_attempts_under_way_do_not_make_the_probe_wait() -> None:
    """Of eight that fail together the fifth takes the host down, and the rest change nothing."""
    now = 0.0
    config = quick_config(reconnect_initial_seconds=5.0, reconnect_max_seconds=300.0)
    host = Hosts(config, lambda: now).at(row())
    for number in range(8):
        host.record_failure(str(number), "refused", probe=False)
    assert host.is_down
    assert host._breaker.probe_in_seconds == 5.0
    now = 5.0
    host.record_failure("0", "refused", probe=True)
    assert host._breaker.probe_in_seconds > 7.0
    host.record_success()
    assert not host.is_down
