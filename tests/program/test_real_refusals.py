"""What real Cyrus and Courier say to a login that they do not let in, and what is made of it."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Run, programs_required
from tests.support.chrooted import Courier, Cyrus
from tests.support.rig import stored
from tests.support.servers import Certificates, Database

USER = "user@example.org"
PLACES = 2
# Courier takes five seconds for its answer to a wrong password.
REFUSED_WITHIN_SECONDS = 30.0
LET_IN_WITHIN_SECONDS = 60.0

Server = Cyrus | Courier


def cyrus(certificates: Certificates) -> Server:
    """Refuses the third login of a user: `NO Too many open connections (2 of 2 for …)`."""
    return Cyrus(certificates, logins_per_user=PLACES)


def courier(certificates: Certificates) -> Server:
    """Closes the third connection from an address without a word."""
    return Courier(certificates, connections_per_ip=PLACES)


@pytest.fixture(params=[cyrus, courier], ids=lambda make: make.__name__)
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Server]:
    make: Callable[[Certificates], Server] = request.param
    with ExitStack() as parts:
        with programs_required():
            made = parts.enter_context(make(certificates))
        made.add_user(USER, "secret")
        yield made


def add(database: Database, server: Server, password: str) -> None:
    database.add(USER, imap_port=server.imaps_port, password_encrypted=stored(password))


def test_a_wrong_password_is_the_users_move(run: Run, database: Database, server: Server) -> None:
    """It is parked at the first refusal: it never worked, and the server says that it is wrong."""
    add(database, server, "wrong")
    with run() as daemon:
        line = daemon.wait_line("(the user must act) — parked", REFUSED_WITHIN_SECONDS)
        assert "ogin failed" in line
        assert "reconnecting in" not in daemon.text


def test_a_full_server_is_nobodys_fault(run: Run, database: Database, server: Server) -> None:
    """Who is kept out by others' sessions is tried again, and let in when one of them leaves."""
    add(database, server, "secret")
    with ExitStack() as others:
        for _ in range(PLACES):
            others.enter_context(server.client(USER))
        with run(RECONNECT_MAX_SECONDS=1) as daemon:
            kept_out = re.compile(rf"\[idle/({re.escape(USER)}|host)\] (?!connected)")
            assert "must act" not in daemon.wait_line(kept_out)
            others.close()
            daemon.wait_line(f"[idle/{USER}] connected", LET_IN_WITHIN_SECONDS)
            assert "must act" not in daemon.text
