"""Hosts with several addresses, of which some do not answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rebreak_idle.errors import Interrupted
from rebreak_idle.imap.addresses import Address, AddressOrder
from rebreak_idle.imap.network import Resumption
from rebreak_idle.imap.race import MOST_AT_ONCE, Race
from rebreak_idle.imap.stream import Stream
from tests.conftest import Run
from tests.support.names import DOMAIN, Names, add_mailbox, silent_address
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Database, has_ipv6
from tests.support.waiting import wait_for

HOST = f"two.{DOMAIN}"
PROMPT_SECONDS = 5.0
LONG_SECONDS = 60.0
# What the first 30 s of a connect would have been spent on, and what is promised instead.
ALL_WATCHED_SECONDS = 10.0


def v4(host: str, port: int = 993) -> Address:
    return socket.AF_INET, (host, port)


def v6(host: str) -> Address:
    return socket.AF_INET6, (host, 993, 0, 0)


@pytest.fixture
def names(tmp_path: Path) -> Names:
    return Names(tmp_path)


def never() -> bool:
    return False


@pytest.fixture
def listening() -> Iterator[tuple[str, int]]:
    """An address that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


# The order


def test_families_take_turns() -> None:
    """The first address stays the first, and families alternate after it."""
    addresses = [v6("::1"), v6("::2"), v6("::3"), v4("127.0.0.1"), v4("127.0.0.2")]
    assert AddressOrder().sorted(addresses) == [
        v6("::1"), v4("127.0.0.1"), v6("::2"), v4("127.0.0.2"), v6("::3")
    ]  # fmt: skip


def test_what_failed_comes_last_until_it_answers() -> None:
    """Of several that failed, the one whose failure is the longest ago is tried first."""
    one, two, three = (v4(f"127.0.0.{n}") for n in (1, 2, 3))
    order = AddressOrder()
    order.failed([one])
    assert order.sorted([one, two, three]) == [two, three, one]
    order.failed([two])
    assert order.sorted([one, two, three]) == [three, one, two]
    order.failed([three])
    order.failed([one])
    assert order.sorted([three, two, one]) == [two, three, one]
    order.answered(three)
    assert order.sorted([one, two, three]) == [three, two, one]
    assert order.sorted([]) == []


def test_not_every_address_is_remembered() -> None:
    """Of a name that leads elsewhere each time only the last failures are kept."""
    order = AddressOrder()
    for number in range(1000):
        order.failed([v4(f"127.0.{number // 250}.{number % 250}")])
    assert len(order._failed) < 100


# The race


def connect(
    addresses: list[Address],
    seconds: float = LONG_SECONDS,
    resumption: Resumption | None = None,
    is_stopping: Callable[[], bool] = never,
) -> object:
    """Where a stream gets to from these addresses."""
    stream = Stream(is_stopping, seconds, resumption or Resumption())
    try:
        stream.connect(addresses)
        assert stream.sock is not None
        return stream.sock.getpeername()
    finally:
        stream.close()


def test_an_address_that_is_silent_delays_the_next_one_by_a_moment_only(
    listening: tuple[str, int],
) -> None:
    """Far sooner than its share of the time-out; and the next connection does not try it first."""
    with silent_address("127.0.0.2") as silent:
        addresses, resumption = [v4(*silent), v4(*listening)], Resumption()
        began = time.monotonic()
        assert connect(addresses, resumption=resumption) == listening
        assert time.monotonic() - began < LONG_SECONDS / 4
        assert resumption.addresses.sorted(addresses) == addresses[::-1]
        assert connect(addresses, resumption=resumption) == listening


def test_many_that_are_silent(listening: tuple[str, int]) -> None:
    """However many there are: one that answers is found, in a second attempt where needed."""
    with silent_address("127.0.0.2") as silent:
        port, resumption = silent[1], Resumption()
        others: list[Address] = [v4(*silent)]
        for number in range(3, 3 + MOST_AT_ONCE):
            others.append(v4(f"127.0.0.{number}", port))
        assert connect([*others[:5], v4(*listening)], resumption=resumption) == listening


def test_one_that_refuses_is_passed_over_at_once(
    listening: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next address is tried without a delay."""
    monkeypatch.setattr("rebreak_idle.imap.race.ATTEMPT_DELAY_SECONDS", LONG_SECONDS)
    began = time.monotonic()
    assert connect([v4("127.0.0.1", 1), v4("127.0.0.2", 1), v4(*listening)]) == listening
    assert time.monotonic() - began < LONG_SECONDS / 2


def test_an_address_there_is_no_way_to(listening: tuple[str, int]) -> None:
    """Such an error passes to the next address, and is not the one that is told."""
    nowhere: Address = socket.AF_INET6, ("2001:db8::1", 993, 0, 0)
    assert connect([nowhere, v4(*listening)]) == listening
    with pytest.raises(ConnectionRefusedError):
        connect([v4("127.0.0.1", 1), (socket.AF_INET6, ("::1", 1, 0, 0))])


def test_the_deadline_bounds_all_of_them() -> None:
    """Where none answers the time-out ends it, however many there are."""
    with silent_address("127.0.0.2") as one, silent_address("127.0.0.3") as two:
        began = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            connect([v4(*one), v4(*two)], seconds=0.6)
        assert caught.value.errno is None
        assert 0.5 < time.monotonic() - began < LONG_SECONDS / 2


def test_no_address_at_all() -> None:
    """Nothing to try is an error as well."""
    with pytest.raises(OSError, match="no address"):
        connect([])


@pytest.mark.skipif(not has_ipv6(), reason="there is no ::1 here")
def test_both_families(listening: tuple[str, int]) -> None:
    """An IPv6 address where nobody listens does not matter."""
    assert connect([(socket.AF_INET6, ("::1", 1, 0, 0)), v4(*listening)]) == listening


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_a_race_is_ended_at_once(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop, or an abort, ends the wait for all of the addresses, and no socket is left."""
    monkeypatch.setattr("rebreak_idle.imap.race.ATTEMPT_DELAY_SECONDS", 0.0)
    stopping = threading.Event()
    stream = Stream(stopping.is_set, LONG_SECONDS, Resumption())
    with (
        silent_address("127.0.0.2") as one,
        silent_address("127.0.0.3") as two,
        ThreadPoolExecutor(1) as pool,
        closing(stream),
    ):
        racing = pool.submit(stream.connect, [v4(*one), v4(*two)])
        wait_for(lambda: stream.sock is not None, PROMPT_SECONDS, "the race")
        if how == "stop":
            stopping.set()
            stream.interrupt()
        else:
            stream.abort()
        error = racing.exception(PROMPT_SECONDS)
        assert isinstance(error, Interrupted if how == "stop" else OSError)
        assert stream.sock is None


def test_a_stop_before_the_race() -> None:
    """Whoever is to stop does not begin."""
    with silent_address("127.0.0.2") as silent, pytest.raises(Interrupted):
        connect([v4(*silent)], is_stopping=lambda: True)


def test_losers_are_closed(listening: tuple[str, int]) -> None:
    """Of all sockets of a race only the winner's stays open."""
    made: list[socket.socket] = []

    class Noted(Race):
        def _start(self, address: Address) -> None:
            super()._start(address)
            made.extend(sock for sock, _ in self._under_way.values() if sock not in made)

    woken, other_end = socket.socketpair()
    with silent_address("127.0.0.2") as silent, woken, other_end:
        race = Noted([v4(*silent), v4(*listening)], AddressOrder(), woken)
        winner, address = race.run(time.monotonic() + LONG_SECONDS)
        with winner:
            assert address == v4(*listening)
            assert [sock is winner or sock.fileno() == -1 for sock in made] == [True, True]
            assert winner.fileno() != -1


# The whole program


def test_forty_mailboxes_at_a_host_whose_first_address_is_silent(
    run: Run, database: Database, names: Names
) -> None:
    """All are watched within ten seconds."""
    with (
        ScriptedImap(Mailbox(), tls_context=names.server_context()) as server,
        silent_address("127.0.0.2", server.port),
    ):
        names.lead(HOST, "127.0.0.2", "127.0.0.1")
        for number in range(40):
            add_mailbox(database, str(number), HOST, server.port)
        with run(**names.environment) as daemon:
            server.wait_for_idling(40, ALL_WATCHED_SECONDS)
            assert "reconnecting" not in daemon.text
            assert daemon.stop() == 0


@pytest.mark.parametrize("how", ["silence", "fin", "rst", "bad certificate", "bye"])
def test_an_address_at_which_no_session_comes_about(
    run: Run, database: Database, names: Names, how: str
) -> None:
    """It accepts connections and no more: the next attempt begins with the other address."""
    with ScriptedImap(Mailbox(), tls_context=names.server_context()) as server:
        context = names.server_context(*(["other.example"] if how == "bad certificate" else []))
        with ScriptedImap(
            Mailbox(), tls_context=context, host="127.0.0.2", port=server.port
        ) as broken:
            if how == "bye":
                broken.on("greeting", b"* BYE Not here\r\n", instead=True)
            elif how != "bad certificate":
                broken.on("tls-handshake", lambda connection: connection.end(how))
            names.lead(HOST, "127.0.0.2", "127.0.0.1")
            add_mailbox(database, "user", HOST, server.port)
            with run(**names.environment, IMAP_TIMEOUT_SECONDS="1") as daemon:
                server.wait_for_idling(1)
                assert daemon.text.count("reconnecting") <= 1
                assert broken.connects == 1
                assert daemon.stop() == 0


def test_a_stop_while_addresses_are_silent(run: Run, database: Database, names: Names) -> None:
    """The daemon ends in order and at once."""
    with (
        silent_address("127.0.0.2") as (_, port),
        silent_address("127.0.0.3", port),
        silent_address("127.0.0.4", port),
    ):
        names.lead(HOST, "127.0.0.2", "127.0.0.3", "127.0.0.4")
        for number in range(4):
            add_mailbox(database, str(number), HOST, port)
        with run(**names.environment, LOG_LEVEL="debug") as daemon:
            daemon.wait_line("[idle/db] refreshed")
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < PROMPT_SECONDS
            assert daemon.lines[-1] == "[idle/db] stopped"


def test_addresses_of_a_private_network_are_not_raced(
    run: Run, database: Database, names: Names
) -> None:
    """However many there are, and whatever is among them: no connection is made to them."""
    with ScriptedImap(Mailbox(), tls_context=names.server_context()) as server:
        names.lead(HOST, "127.0.0.2", "127.0.0.1", "10.0.0.1")
        add_mailbox(database, "user", HOST, server.port)
        with run(**names.environment, IMAP_ALLOW_PRIVATE_HOSTS="false") as daemon:
            line = daemon.wait_line("[idle/user@example.org] ")
            assert "leads to 127.0.0.2, which is not a public address" in line
            assert daemon.stop() == 0
        assert server.connects == 0
