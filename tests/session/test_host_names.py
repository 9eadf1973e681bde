"""The limits at hosts that have several names, the whole program."""

import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from rebreak_idle.errors import NameUnusable
from rebreak_idle.hosts import Hosts
from tests.conftest import Run
from tests.support.harness import quick_config
from tests.support.names import DOMAIN, Names, add_mailbox, row
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Database, free_port
from tests.support.waiting import wait_for


@pytest.fixture
def names(tmp_path: Path) -> Names:
    return Names(tmp_path)


def customers(names: Names, number: int, *addresses: str) -> list[str]:
    """So many names at these addresses, each with an order of its own."""
    found = [f"mail{n}.{DOMAIN}" for n in range(number)]
    for n, name in enumerate(found):
        start = n % len(addresses)
        names.lead(name, *addresses[start:], *addresses[:start])
    return found


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("127.0.0.1", "127.0.0.2")])
def test_limits_count_for_all_names_of_an_address(
    run: Run, database: Database, names: Names, addresses: tuple[str, ...]
) -> None:
    """Forty customers' domains at one hoster see two attempts at a time, together."""
    under_way: list[int] = []
    servers: list[ScriptedImap] = []

    def count(_: Connection) -> None:
        connecting = {"not authenticated"}
        all_connections = [c for server in servers for c in list(server.connections)]
        under_way.append(sum(c.state in connecting and c.closed is None for c in all_connections))

    with ExitStack() as stack:
        port = 0
        for address in addresses:
            context = names.server_context()
            server = ScriptedImap(Mailbox(), tls_context=context, host=address, port=port)
            server.on("login", count)
            servers.append(stack.enter_context(server))
            port = server.port
        for number, name in enumerate(customers(names, 40, *addresses)):
            add_mailbox(database, str(number), name, port)
        with run(**names.environment, HOST_CONNECTS_AT_ONCE="2") as daemon:
            wait_for(lambda: sum(len(s.idling) for s in servers) == 40, 30, "all 40 watched")
            assert daemon.stop() == 0
    assert max(under_way) <= 2


def test_logins_are_counted_for_all_names_of_an_address(
    run: Run, database: Database, names: Names
) -> None:
    """A burst of twice the rate for all of them together, and then the rate."""
    with ScriptedImap(Mailbox(), tls_context=names.server_context()) as server:
        for number, name in enumerate(customers(names, 12, "127.0.0.1")):
            add_mailbox(database, str(number), name, server.port)
        with run(**names.environment, HOST_LOGINS_PER_SECOND="2") as daemon:
            server.wait_for_idling(12, 30)
            at = sorted(connection.accepted_at for connection in server.connections)
            assert at[-1] - at[0] > 3.0  # four at once, then eight at two a second
            assert daemon.stop() == 0


def test_a_dead_machine_under_many_names_is_one_host_that_is_down(
    run: Run, database: Database, names: Names
) -> None:
    """It is said once, one mailbox probes for all, and all return together."""
    port = free_port()
    for number, name in enumerate(customers(names, 12, "127.0.0.1")):
        add_mailbox(database, str(number), name, port)
    with run(**names.environment, RECONNECT_MAX_SECONDS="1") as daemon:
        line = daemon.wait_line(" is down: 5 mailboxes in a row could not connect")
        assert re.search(rf"\[idle/host\] mail\d+\.{DOMAIN}:{port} \(one of \d+ names", line)
        server = ScriptedImap(Mailbox(), tls_context=names.server_context(), port=port)
        with server:
            server.wait_for_idling(12, 30)
            assert daemon.text.count(" is down: ") == 1
            assert daemon.text.count(" answers again: its mailboxes return") == 1
            assert daemon.stop() == 0


def test_a_mailbox_whose_host_is_down_does_not_say_that_it_reconnects(
    run: Run, database: Database, names: Names
) -> None:
    """From the line that says that the host is down until it answers again."""
    port = free_port()
    for number, name in enumerate(customers(names, 12, "127.0.0.1")):
        add_mailbox(database, str(number), name, port)
    with run(**names.environment, RECONNECT_MAX_SECONDS="0.2") as daemon:
        daemon.wait_line(" is down: ")
        down = next(n for n, line in enumerate(daemon.lines) if " is down: " in line)
        with ScriptedImap(Mailbox(), tls_context=names.server_context(), port=port) as server:
            server.wait_for_idling(12, 30)
            lines = daemon.lines[down:]
            up = next(n for n, line in enumerate(lines) if " answers again" in line)
            assert not [line for line in lines[:up] if "reconnecting in" in line]
            assert daemon.stop() == 0


def test_a_name_that_does_not_resolve_is_alone(run: Run, database: Database, names: Names) -> None:
    """Its mailboxes wait for it; those of other names at the address it had notice nothing."""
    lost, kept = customers(names, 2, "127.0.0.1")
    names.lead(lost)
    with ScriptedImap(Mailbox(), tls_context=names.server_context()) as server:
        for number in range(7):
            add_mailbox(database, f"lost{number}", lost, server.port)
        with run(**names.environment, RECONNECT_MAX_SECONDS="1") as daemon:
            line = daemon.wait_line(f"[idle/host] {lost}:{server.port} is down: 5 mailboxes")
            assert "does not resolve" in line
            for number in range(7):
                add_mailbox(database, f"kept{number}", kept, server.port)
            daemon.signal(signal.SIGHUP)
            server.wait_for_idling(7)
            names.lead(lost, "127.0.0.1")
            daemon.wait_line(f"[idle/host] {lost}:{server.port} answers again")
            server.wait_for_idling(14)
            assert daemon.text.count(" is down: ") == 1
            assert daemon.stop() == 0


def test_who_hears_that_a_name_leads_nowhere_lets_the_next_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that wait for one look-up are told of its failure, and none keeps the others."""
    may_go_on = threading.Event()

    def look_up(name: str, *_: object, **__: object) -> list[object]:
        assert may_go_on.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    endpoint = Hosts(quick_config(), time.monotonic).at(row("slow"))
    waiting: list[str] = []

    def connect(id_: str) -> None:
        woken = threading.Event()

        def wait(seconds: float) -> None:
            waiting.append(id_)
            assert woken.wait(min(seconds, 20.0)), "nobody woke it"
            woken.clear()

        with endpoint.connecting(id_, woken.set, wait):
            pass

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(connect, str(n)) for n in range(4)]
        wait_for(lambda: len(waiting) == 3, 5, "three that wait")
        may_go_on.set()
        for future in futures:
            with pytest.raises(NameUnusable):
                future.result(20)


def test_a_name_that_no_certificate_is_for_is_alone(
    run: Run, database: Database, names: Names
) -> None:
    """A customer's domain that the hoster has no certificate for takes nobody with it."""
    good, bad = f"good.{DOMAIN}", "bad.example"
    names.lead(good, "127.0.0.1")
    names.lead(bad, "127.0.0.1")
    with ScriptedImap(Mailbox(), tls_context=names.server_context()) as server:
        for number in range(7):
            add_mailbox(database, f"bad{number}", bad, server.port)
        with run(**names.environment, RECONNECT_MAX_SECONDS="1") as daemon:
            line = daemon.wait_line(f"[idle/host] {bad}:{server.port} is down: 5 mailboxes")
            assert "certificate not accepted" in line
            for number in range(7):
                add_mailbox(database, f"good{number}", good, server.port)
            daemon.signal(signal.SIGHUP)
            server.wait_for_idling(7)
            server.tls_context = names.server_context(bad)
            daemon.wait_line(f"[idle/host] {bad}:{server.port} answers again")
            server.wait_for_idling(14)
            assert daemon.text.count(" is down: ") == 1
            assert daemon.stop() == 0


def test_a_session_that_is_lost_while_its_host_is_down_waits_for_it(
    run: Run, database: Database, names: Names
) -> None:
    """It says why it was lost, and not that it reconnects in seconds: it does not."""
    name = f"mail.{DOMAIN}"
    names.lead(name, "127.0.0.1")
    with ScriptedImap(Mailbox(), tls_context=names.server_context()) as server:
        add_mailbox(database, "first", name, server.port)
        with run(**names.environment, RECONNECT_MAX_SECONDS="1") as daemon:
            server.wait_for_idling(1)
            server.tls_context = names.server_context("other.example")
            for number in range(5):
                add_mailbox(database, str(number), name, server.port)
            daemon.signal(signal.SIGHUP)
            daemon.wait_line(" is down: ")
            server.idling[0].fin()
            line = daemon.wait_line(re.compile(r"\[idle/first@example.org\] .*closed"))
            assert line.endswith("its host is down: it reconnects when that answers again")
            assert "[idle/first@example.org] reconnecting" not in daemon.text
            server.tls_context = names.server_context()
            server.wait_for_idling(6)
            assert daemon.stop() == 0


def test_a_name_is_looked_up_once_for_all(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mailboxes wait for the one that looks it up, each on its own thread."""
    asked: list[str] = []
    may_go_on = threading.Event()

    def look_up(name: str, *_: object, **__: object) -> list[object]:
        asked.append(name)
        assert may_go_on.wait(20)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 993))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    hosts = Hosts(quick_config(), time.monotonic)
    connected: list[str] = []

    def connect(id_: str) -> None:
        woken = threading.Event()

        def wait(seconds: float) -> None:
            woken.wait(min(seconds, 20.0))
            woken.clear()

        with hosts.at(row("slow")).connecting(id_, woken.set, wait):
            connected.append(id_)

    with ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(connect, str(n)) for n in range(20)]
        wait_for(lambda: asked, 5, "the look-up")
        may_go_on.set()
        for future in futures:
            future.result(20)
    assert (len(connected), asked) == (20, ["slow"])
