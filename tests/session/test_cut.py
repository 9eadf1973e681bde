"""The cut: the server's conversation ends after every single byte, and no mail is lost by it.

At the moment of each cut one mail arrives. Whatever the worker had heard until then, the promise
holds: a successful scan request follows the mail.
"""

import queue
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from rebreak_idle.imap.connector import tls_context
from tests.support.harness import JudgingBackend, Scans, Watched, assert_promise, quick_config
from tests.support.scripted_imap import CutAfter, Mailbox, ScriptedImap
from tests.support.servers import Certificates

# How many cuts are made at once: the processor's share is small, the rest is waiting.
AT_ONCE = {"fin": 16, "rst": 16, "silence": 96}
# A server that falls silent is noticed by a time-out; in IDLE, when the IDLE is renewed.
TIME_OUT_SECONDS = {"fin": 5.0, "rst": 5.0, "silence": 0.5}
RENEW_SECONDS = 0.5
# How often a cut is tried: on a machine that is busy with something else the worker may give the
# first connection up before its server has said enough.
TRIES = 5
# Generous: it only says how long a lost mail is waited for.
WITHIN_SECONDS = 20.0
# So many losses tell enough; the cuts that are left are not made.
MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Place:
    """What one cut after the other uses: a backend, and the program's way to it."""

    backend: JudgingBackend
    scans: Scans


@dataclass(frozen=True)
class Cutter:
    """Makes cuts, each with a server, a mailbox and a worker of its own."""

    server_context: ssl.SSLContext
    context: ssl.SSLContext
    places: "queue.SimpleQueue[Place]"
    problems: list[str] = field(default_factory=list)

    def conversation_bytes(self) -> int:
        """How much the server says up to the second IDLE, with one announcement in the first."""
        place = self.places.get()
        with (
            self._server(Mailbox(exists=4)) as server,
            self._watched(server, place, TIME_OUT_SECONDS["fin"]),
        ):
            server.wait_until(lambda: idles(server) == 2)
            server.wait_for_idling()
            said = server.connections[0].sent_bytes
        self.places.put(place)
        return said

    def cut_after(self, n_bytes: int, how: str) -> None:
        """Cut the first connection there; what goes wrong is added to `problems`."""
        if len(self.problems) >= MOST_PROBLEMS:
            return
        place = self.places.get()
        try:
            assert any(self._was_cut(place, n_bytes, how) for _ in range(TRIES)), "never cut"
        except AssertionError as error:
            self.problems.append(f"{how} after byte {n_bytes}: {error}")
        finally:
            self.places.put(place)

    def _was_cut(self, place: Place, n_bytes: int, how: str) -> bool:
        """Try it once; False when the connection ended before it came to the cut.

        Raises:
            AssertionError: a mail was lost.
        """
        mailbox = Mailbox(exists=4)
        cut = CutAfter(n_bytes, how, callback=lambda: mailbox.arrive(announce=False))
        with (
            self._server(mailbox, cut) as server,
            self._watched(server, place, TIME_OUT_SECONDS[how]),
        ):
            server.wait_until(
                lambda: server.connects and server.connections[0].closed, WITHIN_SECONDS
            )
            if not cut.fired.wait(0 if server.connections[0].closed != how else WITHIN_SECONDS):
                return False
            assert_promise(mailbox, place.backend, WITHIN_SECONDS)
        return True

    def _server(self, mailbox: Mailbox, cut: CutAfter | None = None) -> ScriptedImap:
        server = ScriptedImap(
            mailbox,
            tls_context=self.server_context,
            cut=cut,
            capabilities_before_login=("IMAP4rev1",),
            capabilities_after_login=("IMAP4rev1", "IDLE"),
        )
        server.on("idling", lambda _: mailbox.arrive(), times=1)
        return server

    def _watched(self, server: ScriptedImap, place: Place, time_out_seconds: float) -> Watched:
        return Watched(
            server,
            place.backend,
            self.context,
            scans=place.scans,
            idle_renew_seconds=RENEW_SECONDS,
            imap_timeout_seconds=time_out_seconds,
        )


def idles(server: ScriptedImap) -> int:
    """How many IDLEs were begun."""
    commands = [each.line for connection in server.connections for each in connection.commands]
    return sum(line.endswith(b" IDLE\r\n") for line in commands)


@pytest.fixture
def cutter(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cutter]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    places: queue.SimpleQueue[Place] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(max(AT_ONCE.values())):
            backend = stack.enter_context(JudgingBackend())
            scans = Scans(quick_config(backend_url=backend.url))
            stack.callback(scans.close)
            places.put(Place(backend, scans))
        yield Cutter(certificates.server_context(), tls_context(), places)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", AT_ONCE)
def test_the_conversation_cut_after_every_byte(cutter: Cutter, how: str) -> None:
    """From the greeting to the second IDLE, wherever in it the server falls away: no mail lost."""
    length = cutter.conversation_bytes()
    assert length > 400
    with ThreadPoolExecutor(AT_ONCE[how]) as pool:
        list(pool.map(lambda n_bytes: cutter.cut_after(n_bytes, how), range(length + 1)))
    assert not cutter.problems, "\n".join(cutter.problems)
