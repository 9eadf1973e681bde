"""Hosts that take only so many connections from one address, and close the others."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rebreak_idle.limits import Backoff
from rebreak_idle.places import GIVES_WAY_SECONDS, KEPT_SECONDS, Places
from tests.conftest import Run
from tests.support.names import EVERY_COLUMN
from tests.support.recording_backend import Hang, RecordingBackend
from tests.support.rig import add_mailboxes, stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

ROOM_AGAIN = "has room for all its mailboxes again"


class Limit:
    """Ends connections beyond `most`, in the way of `how`, before or after the TLS handshake."""

    def __init__(self, server: ScriptedImap, most: int, how: str) -> None:
        self.most = most
        self.refused = 0
        self._how = how
        self._taken: list[Connection] = []
        self._lock = threading.Lock()
        server.on("greeting" if how == "bye" else "tls-handshake", self._look)

    def _look(self, connection: Connection) -> None:
        with self._lock:
            self._taken = [other for other in self._taken if other.closed is None]
            if len(self._taken) < self.most:
                self._taken.append(connection)
                return
            self.refused += 1
        if self._how == "bye":
            connection.bye(b"Too many connections from your address")
        connection.end(self._how)


@pytest.fixture(params=["fin", "rst", "bye"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def limited(
    certificates: Certificates, database: Database, most: int, mailboxes: int, how: str = "fin"
) -> Iterator[tuple[ScriptedImap, Limit]]:
    """A server that takes `most` connections, and more mailboxes than that."""
    users = {f"{number}@example.org": "secret" for number in range(mailboxes)}
    context = certificates.server_context()
    with ScriptedImap(Mailbox(), tls_context=context, users=users) as server:
        for name in users:
            database.add(name, imap_port=server.port, password_encrypted=stored("secret"))
        yield server, Limit(server, most, how)


def watched(server: ScriptedImap) -> set[str]:
    """Whose sessions idle."""
    return {connection.login for connection in server.idling}


def wait_until_back(server: ScriptedImap, gone: list[Connection]) -> None:
    """Wait until four idle again, without these connections."""
    server.wait_until(lambda: len(server.idling) == 4 and not set(gone) & set(server.idling))


def test_a_full_host_is_said_to_be_full_and_not_down(
    run: Run, database: Database, certificates: Certificates, how: str
) -> None:
    """Those that are there stay, the others wait, and all come in as soon as there is room."""
    with (
        limited(certificates, database, 4, 12, how) as (server, limit),
        run(RECONNECT_MAX_SECONDS="0.5") as daemon,
    ):
        line = daemon.wait_line(" is full: ")
        assert line.startswith("[idle/host] localhost:")
        assert "it takes no more than 4 of our connections (" in line
        server.wait_for_idling(4)
        before, tried = watched(server), limit.refused
        server.wait_until(lambda: limit.refused >= tried + 3)
        assert watched(server) == before
        limit.most = 100
        server.wait_for_idling(12, 30)
        daemon.wait_line(ROOM_AGAIN)
        assert before <= watched(server)
        assert " is down" not in daemon.text
        assert daemon.text.count(" is full: ") == daemon.text.count(ROOM_AGAIN) == 1
        assert daemon.stop() == 0


def test_one_mailbox_too_many(run: Run, database: Database, certificates: Certificates) -> None:
    """However few are too many: it is said, and the others stay."""
    with (
        limited(certificates, database, 2, 3) as (server, limit),
        run(RECONNECT_MAX_SECONDS="0.5") as daemon,
    ):
        line = daemon.wait_line(" is full: it takes no more than 2 of our connections (")
        assert "closed the connection during the TLS handshake: a limit, or no TLS" in line
        limit.most = 3
        server.wait_for_idling(3)
        daemon.wait_line(ROOM_AGAIN)
        assert daemon.stop() == 0


@contextmanager
def releasing(server: ScriptedImap) -> Iterator[threading.Event]:
    """Logins are held until the event is set."""
    event = threading.Event()
    server.on("login", lambda _: event.wait(20.0))
    yield event
    event.set()


@pytest.mark.parametrize("most", [1, 4])
def test_check_says_that_a_host_is_full(
    run: Run, database: Database, certificates: Certificates, how: str, most: int
) -> None:
    """In the daemon's words, once, and fails; the others are tried one after the other."""
    with (
        limited(certificates, database, most, 40, how) as (server, limit),
        releasing(server) as turned_away,
        run("check") as daemon,
    ):
        server.wait_until(lambda: limit.refused)
        turned_away.set()
        assert daemon.wait(60) == 1
        assert limit.refused > 0
        assert daemon.text.count(" is full: ") == 1
        line = daemon.wait_line(" is full: ")
        told = re.search(r" is full: it takes no more than (\d+) of our connections \(", line)
        assert told
        assert 1 <= int(told[1]) <= 8
        assert "; those stay, the other mailboxes wait, one tries again in 0s" in line
        assert "check failed — database ok, 40 of 40 mailboxes ready" in daemon.text
        assert " is down" not in daemon.text


def test_check_does_not_take_a_dead_host_for_a_full_one(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """Where nobody is let in nothing is said of a limit."""
    with limited(certificates, database, 0, 12), run("check") as daemon:
        assert daemon.wait(60) == 1
        assert " is full: " not in daemon.text
        assert "0 of 12 mailboxes ready" in daemon.text


def test_a_full_host_is_tried_seldom(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """One at a time, with a back-off: the others do not knock."""
    with (
        limited(certificates, database, 4, 24) as (server, limit),
        run(RECONNECT_INITIAL_SECONDS="1") as daemon,
    ):
        line = daemon.wait_line(" is full: ")
        tried = limit.refused
        assert line.endswith("the other mailboxes wait, one tries again in 1s")
        server.wait_until(lambda: limit.refused >= tried + 3, 30)  # after 1, 2 and 4 s
        after = len(daemon.lines)
        assert limit.refused <= tried + 8 + 3  # what was under way may still come
        assert not [line for line in daemon.lines[after:] if "reconnecting" in line]
        assert daemon.stop() == 0


def wait_for_refusal(server: ScriptedImap, limit: Limit) -> None:
    """Wait until one of those that wait has just been refused: the next one tries later."""
    tried = limit.refused
    server.wait_until(lambda: limit.refused > tried)


def test_a_mailbox_that_works_keeps_its_place(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """Who loses a session gets the place that it had, and none of those that wait."""
    with (
        limited(certificates, database, 4, 12) as (server, limit),
        run(RECONNECT_MAX_SECONDS="1") as daemon,
    ):
        daemon.wait_line(" is full: ")
        server.wait_for_idling(4)
        before = watched(server)
        for number in range(4):
            wait_for_refusal(server, limit)
            lost = server.idling[number]
            lost.rst() if number % 2 else lost.fin()
            wait_until_back(server, [lost])
            assert watched(server) == before
        assert " is down" not in daemon.text
        assert daemon.stop() == 0


def test_all_of_them_keep_their_places(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """The server's restart changes nothing, although one of them is busy and notices it late."""
    with (
        limited(certificates, database, 4, 12) as (server, limit),
        run(RECONNECT_MAX_SECONDS="1") as daemon,
    ):
        daemon.wait_line(" is full: ")
        server.wait_for_idling(4)
        backend.wait_for(4)
        backend.script = [hang := Hang()]
        assert isinstance(server.mailboxes, Mailbox)
        server.mailboxes.arrive()
        backend.wait_for(8)
        wait_for_refusal(server, limit)
        before, gone = watched(server), server.idling
        for connection in gone:
            connection.rst()
        server.wait_until(lambda: len(server.idling) == 3)
        hang.release()
        wait_until_back(server, gone)
        assert watched(server) == before
        assert daemon.stop() == 0


def test_the_place_of_a_row_that_is_gone_goes_to_another(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """Of those that wait one gets in at once, whatever the back-off says."""
    with (
        limited(certificates, database, 4, 8) as (server, limit),
        run(RECONNECT_MAX_SECONDS="300", RECONNECT_INITIAL_SECONDS="0.5") as daemon,
    ):
        daemon.wait_line(" is full: ")
        tried = limit.refused
        server.wait_until(lambda: limit.refused >= tried + 3, 20)  # now it waits for 4 s and more
        before = watched(server)
        leaving = sorted(before)[0]
        database.execute("UPDATE mail_connections SET is_active = false WHERE email = %s", leaving)
        daemon.signal(signal.SIGHUP)
        server.wait_until(lambda: len(watched(server) - before) == 1)
        assert watched(server) > before - {leaving}
        assert daemon.stop() == 0


def test_a_host_is_down_where_no_session_lives(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """A host that takes nobody at all is down, in whatever way it says so."""
    with (
        limited(certificates, database, 0, 8, "rst"),
        run(RECONNECT_MAX_SECONDS="0.5") as daemon,
    ):
        line = daemon.wait_line(" is down: 5 mailboxes in a row could not connect")
        assert re.search("closed the connection during the TLS handshake", line)
        assert " is full" not in daemon.text
        assert daemon.stop() == 0


def test_all_mailboxes_under_one_login(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """Twenty-five mailboxes at Courier's twenty (MAXPERIP in Debian): the number is learned."""
    context = certificates.server_context()
    with ScriptedImap(Mailbox(), tls_context=context) as server:
        Limit(server, 20, "fin")
        add_mailboxes(database, 25, server.port)
        with run(RECONNECT_MAX_SECONDS="1", MAIL_CONNECTIONS_QUERY=EVERY_COLUMN) as daemon:
            daemon.wait_line(" is full: it takes no more than 20 of our connections")
            server.wait_for_idling(20)
            assert " is down" not in daemon.text
            assert daemon.stop() == 0


# Places, in simulated time


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lives() -> bool:
    return True


def try_in_vain(places: Places, mailbox_id: str) -> bool:
    """A mailbox without a place had its turn and was refused; whether the host is full from now."""
    places.back_off()
    return places.record_failure(mailbox_id, True)


def full(places: Places, *mailbox_ids: str) -> None:
    """These have sessions, and another one was refused three times."""
    for mailbox_id in mailbox_ids:
        places.session_began(mailbox_id, lives)
    assert [places.record_failure("x", True) for _ in range(3)] == [False, False, True]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def places(clock: Clock) -> Places:
    return Places(Backoff(5, 300, lambda: 0.0), clock)


def test_only_those_without_a_place_wait(places: Places, clock: Clock) -> None:
    """Who has or had a session goes to the host as ever."""
    full(places, "a", "b")
    places.session_ended("a")
    assert [places.keeps_out(each) for each in ("a", "b", "x", "new")] == [False, False, True, True]
    clock.now += GIVES_WAY_SECONDS
    assert places.due_in_seconds > 0  # "a" comes first
    places.session_began("a", lives)
    assert places.due_in_seconds <= 0


def test_nobody_is_waited_for_without_end(places: Places, clock: Clock) -> None:
    """Whoever has a place comes first for a minute; there may be room for both."""
    full(places, "a", "b")
    places.session_ended("a")
    clock.now += 5 + GIVES_WAY_SECONDS
    assert places.due_in_seconds <= 0


def test_sessions_that_do_not_work_keep_no_place(places: Places, clock: Clock) -> None:
    """A mailbox that logs in and breaks again and again does not hold up the others for ever."""
    full(places, "a", "b")
    for _ in range(int(KEPT_SECONDS / 5) + 1):
        places.session_ended("a")
        clock.now += 5
        places.session_began("a", lives)
    places.session_ended("a")
    assert places.due_in_seconds <= 0
    assert places.keeps_out("a")


def test_refusals_count_in_a_row(places: Places) -> None:
    """A mailbox that got in after it was refused, or a new one, shows that there is room."""
    places.session_began("a", lives)
    for _ in range(10):
        for _ in range(2):
            assert not places.record_failure("a", True)
        places.record_success("a")
    for number in range(10):
        for _ in range(2):
            assert not places.record_failure("x", True)
        places.session_began(str(number), lives)
    assert not places.is_full


def test_others_that_reconnect_do_not_hide_that_a_host_is_full(places: Places) -> None:
    """They get the places that they had: that says nothing of one more."""
    for each in "abc":
        places.session_began(each, lives)
    for each in "ab":
        assert not places.record_failure("x", True)
        places.session_ended(each)
        places.session_began(each, lives)
        places.record_success(each)
    assert places.record_failure("x", True)


def test_tries_back_off_and_begin_anew(places: Places, clock: Clock) -> None:
    """Seldomer while they fail; at once after one that got in."""
    full(places, "a")
    waits = []
    for _ in range(8):
        waits.append(places.due_in_seconds)
        clock.now += places.due_in_seconds
        assert not try_in_vain(places, "x")
    assert waits[0] == 5
    assert waits[-1] == 300 * 0.8 or waits[-1] == 300
    assert not try_in_vain(places, "y")
    assert not places.record_success("x")
    places.session_began("x", lives)
    assert places.due_in_seconds <= 0
    assert not try_in_vain(places, "y")
    assert places.due_in_seconds == 5
    assert places.record_success("y")
    assert not places.is_full


def test_a_mailbox_whose_sessions_do_not_come_about_loses_its_place(
    places: Places, clock: Clock
) -> None:
    """Others may have it after ten minutes; and where nobody has a place, the host is not full."""
    full(places, "a", "b", "c")
    places.session_ended("a")
    clock.now += KEPT_SECONDS + 1
    assert places.due_in_seconds <= 0
    assert [places.keeps_out(each) for each in "abc"] == [True, False, False]
    for each in "bc":
        places.session_ended(each)
    clock.now += KEPT_SECONDS + 1
    assert places.due_in_seconds <= 0
    assert not places.is_full


@pytest.mark.parametrize("how", ["parked", "removed"])
def test_a_place_that_is_given_up(places: Places, clock: Clock, how: str) -> None:
    """The next one may try at once."""
    full(places, "a", "b")
    for _ in range(4):
        try_in_vain(places, "x")
    assert places.due_in_seconds > 20
    if how == "parked":
        places.session_ended("a")
        places.give_up("a")
    else:
        places.keep_only({"b", "x"})
    assert places.due_in_seconds <= 0
    assert places.keeps_out("a")
    assert places.count_living() == 1


def test_sessions_that_the_server_has_closed_do_not_live(places: Places) -> None:
    """Whatever their threads are busy with; who had them has a place all the same."""
    alive = ["a", "b"]
    places.session_began("a", lambda: "a" in alive)
    places.session_began("b", lambda: "b" in alive)
    assert places.has_living()
    alive.remove("a")
    assert places.has_living()
    assert places.count_living() == 1
    alive.remove("b")
    assert not places.has_living()
    places.session_ended("a")
    assert places.due_in_seconds > 0


def test_a_host_that_does_not_answer_is_not_full(places: Places) -> None:
    """Then nobody can say what it is."""
    places.session_began("a", lives)
    for _ in range(10):
        assert not places.record_failure("x", False)
    assert not places.is_full
