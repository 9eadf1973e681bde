"""All the places where a mail can be lost, each on the whole worker and against real sockets.

Waits are so long here (IDLE renewed after 25 minutes, looked at after one) that what is found
within seconds was found because the server told of it, unless a test asks for less.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.session.conftest import Watch, secured
from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates

EXISTS = b"* 5 EXISTS\r\n"
EVENT = "exists-event received (new mail)"
RENEWING = "idle renewing (0.2s threshold)"
SOON_SECONDS = 0.2  # a renewal that a test need not wait for
AT_ONCE_SECONDS = 2.5  # a few milliseconds, on a machine that is busy with something else

Act = Callable[[Connection], object]


@pytest.fixture(params=["tls", "starttls"])
def server(
    request: pytest.FixtureRequest, certificates: Certificates, mailbox: Mailbox
) -> Iterator[ScriptedImap]:
    with secured(mailbox, certificates, request.param) as scripted:
        yield scripted


@pytest.fixture
def watched(server: ScriptedImap, watch: Watch) -> Iterator[Watched]:
    """A mailbox that is watched already: its first scan is done and its worker listens."""
    with watch() as mailbox_watched:
        mailbox_watched.wait_listening()
        server.wait_for_idling()  # it may still be about to take note of it
        yield mailbox_watched


only_tls = pytest.mark.parametrize("server", ["tls"], indirect=True)


def arrive_and(mailbox: Mailbox, act: Act) -> Act:
    """One mail arrives, and what the server tells of it is up to `act`."""

    def arriving(connection: Connection) -> object:
        mailbox.arrive(announce=False)
        return act(connection)

    return arriving


def sending(data: bytes) -> Act:
    return lambda connection: connection.send(data)


def tell(connection: Connection, *actions: Act) -> None:
    """Have all of it leave in one segment."""
    with connection.glue():
        for act in actions:
            act(connection)


def idle_again(server: ScriptedImap) -> None:
    """End the IDLE that is under way, so that the worker begins another."""
    server.idling[0].end_idle(b"OK Once more")


def assert_at_once(mailbox: Mailbox, backend: JudgingBackend) -> None:
    """The promise is kept, and nobody waited for anything."""
    assert_promise(mailbox, backend)
    last = mailbox.arrivals[-1].at
    assert min(scan.arrived for scan in backend.successes if scan.arrived > last) - last < (
        AT_ONCE_SECONDS
    )


def assert_announced(watched: Watched, backend: JudgingBackend, mailbox: Mailbox) -> None:
    """The mail was found by its announcement, not by UIDNEXT, and scanned at once."""
    watched.wait_line(EVENT)
    assert_at_once(mailbox, backend)
    assert backend.scans[-1].reason == "exists"


def idles(server: ScriptedImap) -> list[float]:
    """When each IDLE began."""
    commands = [each for connection in server.connections for each in connection.commands]
    return [at for at, line in commands if line.upper().endswith(b" IDLE\r\n")]
