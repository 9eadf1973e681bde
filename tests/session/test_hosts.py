"""The limits at one host: attempts at once, and the rate of logins."""

import itertools
import math
import re
import socket
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebreak_idle.errors import HostUnreachable
from rebreak_idle.gate import Turn
from rebreak_idle.host import Host
from rebreak_idle.hosts import Hosts
from rebreak_idle.imap.addresses import Address
from rebreak_idle.limits import TokenBucket
from tests.conftest import Run
from tests.support.harness import quick_config
from tests.support.names import LocalNames, row
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import add_mailboxes, stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.simulation import World

REFUSED = HostUnreachable("refused", answered=True)


def nobody() -> None:
    """Whom nobody waits for."""


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


def hosts_at(now: Callable[[], float] = lambda: 0.0, **settings: object) -> Hosts:
    return Hosts(quick_config(**settings), now, LocalNames())


def at(*addresses: str) -> list[Address]:
    return [(socket.AF_INET, (address, 993)) for address in addresses]


def host_of(hosts: Hosts, name: str, *addresses: str) -> Host:
    """The host of a name that leads to these addresses now."""
    return hosts.host_of(hosts.at(row(name)), at(*addresses))


def test_endpoints_are_told_apart_by_name_port_and_tls() -> None:
    """The same name and port are one, whatever the case; TLS and STARTTLS are two."""
    hosts = hosts_at()
    assert hosts.at(row("Mail.example.org")) is hosts.at(row("mail.example.org"))
    assert hosts.at(row(port=143)) is not hosts.at(row(port=993))
    assert hosts.at(row(starttls=True)) is not hosts.at(row())


def test_endpoints_that_no_row_names_are_forgotten() -> None:
    """What is known of a name lasts as long as a row leads there."""
    hosts = hosts_at()
    kept, gone = hosts.at(row("kept")), hosts.at(row("gone"))
    hosts.forget_all_but([row("kept")])
    assert hosts.at(row("kept")) is kept
    assert hosts.at(row("gone")) is not gone


def test_hosts_are_told_apart_by_address() -> None:
    """Names that lead to one address are one host; ports, and TLS and STARTTLS, are several."""
    hosts = hosts_at()
    host = host_of(hosts, "a", "192.0.2.1")
    assert host_of(hosts, "b", "192.0.2.1") is host
    assert host_of(hosts, "c", "192.0.2.2") is not host
    for other in (row("d", port=143), row("d", starttls=True)):
        assert hosts.host_of(hosts.at(other), at("192.0.2.1")) is not host


def test_the_order_of_addresses_does_not_matter() -> None:
    """A name that leads to several addresses is one host, in whatever order they are told."""
    hosts = hosts_at()
    addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    for order in itertools.permutations(addresses):
        for name in ("a", "b"):
            assert host_of(hosts, name, *order) is hosts.at(row("a")).host


def test_hosts_that_have_an_address_in_common_are_one() -> None:
    """Also where that shows only later, through a third name."""
    hosts = hosts_at()
    one, two = host_of(hosts, "a", "192.0.2.1"), host_of(hosts, "b", "192.0.2.2")
    assert one is not two
    both = host_of(hosts, "c", "192.0.2.2", "192.0.2.1")
    assert {hosts.at(row(name)).host for name in "abc"} == {both}
    assert host_of(hosts, "d", "192.0.2.1") is both
    assert host_of(hosts, "e", "192.0.2.2", "192.0.2.3") is both
    assert host_of(hosts, "f", "192.0.2.3") is both
    assert both.shown == "a:993 (one of 6 names that lead there)"


def test_a_name_that_leads_elsewhere_each_time_is_one_host() -> None:
    """One address at a time, in turn: its mailboxes share one set of limits."""
    hosts = hosts_at()
    found = {host_of(hosts, "a", f"192.0.2.{number}") for number in (1, 2, 3, 1, 2)}
    assert len(found) == 1
    assert host_of(hosts, "b", "192.0.2.2") in found


def test_a_name_that_moves_away_leaves_the_others_behind() -> None:
    """Its new address has nothing to do with the host where the others stay."""
    hosts = hosts_at()
    old = host_of(hosts, "a", "192.0.2.1")
    host_of(hosts, "b", "192.0.2.1")
    new = host_of(hosts, "b", "192.0.2.9")
    assert new is not old
    assert host_of(hosts, "a", "192.0.2.1") is old
    assert (old.shown, new.shown) == ("a:993", "b:993")


def test_addresses_that_no_name_leads_to_are_forgotten() -> None:
    """Whoever gets such an address next is another host."""
    hosts = hosts_at()
    moved = host_of(hosts, "a", "192.0.2.1")
    assert host_of(hosts, "a", "192.0.2.2") is moved
    hosts.forget_all_but([row("a")])
    assert host_of(hosts, "b", "192.0.2.1") is not moved
    assert host_of(hosts, "c", "192.0.2.2") is moved


def test_hosts_that_become_one_share_what_they_had_given() -> None:
    """Slots that are held count, and whoever waits is served, before and after."""
    hosts = hosts_at(host_connects_at_once=2)
    one, two = host_of(hosts, "a", "192.0.2.1"), host_of(hosts, "b", "192.0.2.2")
    turns = [Turn(host, str(n), nobody) for n, host in enumerate([one, one, one, two, two, two])]
    assert [turn.wait_seconds() for turn in turns] == [0, 0, math.inf] * 2
    both = host_of(hosts, "c", "192.0.2.1", "192.0.2.2")
    turns += [Turn(both, "6", nobody), Turn(one, "7", nobody), Turn(two, "8", nobody)]
    passed = 0
    while turns:
        going = [turn for turn in turns if not turn.wait_seconds()]
        assert going, "nobody goes on"
        assert passed < 2 or len(going) <= 2
        going[0].end()
        turns.remove(going[0])
        passed += 1
    assert passed == 9


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
        add_mailboxes(database, 12, server.port)
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
    hosts = hosts_at(lambda: now, reconnect_initial_seconds=5.0, reconnect_max_seconds=300.0)
    host = host_of(hosts, "h", "192.0.2.1")
    ordinary = host.line_for("0")
    for number in range(8):
        host.refused(str(number), REFUSED, ordinary)
    assert host.is_down
    probes = host.line_for("0")
    assert host.due_in_seconds(probes) == 5.0
    now = 5.0
    host.refused("0", REFUSED, probes)
    assert host.due_in_seconds(probes) > 7.0
    host.connected("0")
    assert not host.is_down


def test_what_was_under_way_first_decides_whether_a_host_is_down() -> None:
    """A host that takes only so many refuses the others before those are logged in."""
    host = host_of(hosts_at(), "h", "192.0.2.1")
    line = host.line_for("0")
    for number in range(8):
        host.attempt_began(str(number))
    for number in range(2, 8):
        host.refused(str(number), REFUSED, line)
        host.attempt_ended(str(number))
    assert not host.is_down
    host.connected("0")
    host.attempt_ended("0")
    host.refused("8", REFUSED, line)
    host.attempt_ended("1")
    assert not host.is_down
    for number in range(9, 13):
        host.refused(str(number), REFUSED, line)
    assert host.is_down


def test_who_waits_for_a_host_that_is_down_makes_progress() -> None:
    """The line may be long: nobody in it counts as stuck."""
    world = World(7, 1)
    for server in world.servers.values():
        server.up = False
    try:
        world.refresh()
        for _ in range(30):
            world.pass_time(60)
            assert not any(worker.is_overdue() for worker in world.workers)
        world.mend()
        world.pass_time(600)
        assert all(server.sessions for server in world.servers.values())
    finally:
        world.end()
