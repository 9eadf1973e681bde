"""Servers that hang, and a peer that is gone without a word."""

import contextlib
import ctypes
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from tests.session.conftest import Watch
from tests.session.losses.conftest import SOON_SECONDS, Act, arrive_and, only_tls
from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, MissingProgramError, find_program, free_port, run

TIMEOUT_SECONDS = 0.5  # a time-out that a test waits for
LEAVE_SECONDS = 3.0  # what a session that is given up may take to log out


# Servers that hang


def drip_bytes(connection: Connection) -> None:
    connection.drip(b"x", every_seconds=0.05)


def drip_lines(connection: Connection) -> None:
    connection.drip(b"* OK wait\r\n", every_seconds=0.02, size=11)


def drip_record(connection: Connection) -> None:
    """A TLS handshake record of 16 KiB, byte by byte."""
    connection.send_raw(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    drip_bytes(connection)


HANG = [Connection.silence, drip_bytes, drip_lines]
HANGS: dict[str, list[Act]] = {
    "tls-handshake": [Connection.silence, drip_record],
    "starttls": HANG,
    "greeting": HANG,
    "capability": HANG,
    "login": HANG,
    "examine": HANG,
    "idle": HANG,
    "done": HANG,
}


@pytest.mark.parametrize("step", HANGS)
def test_a_server_that_hangs(
    certificates: Certificates, context: ssl.SSLContext, step: str
) -> None:
    """Silent or dripping, each command is bounded as a whole, and the next session catches up."""
    secure = certificates.server_context()
    how = "starttls_context" if step == "starttls" else "tls_context"

    def hang_once(act: Act) -> None:
        mailbox = Mailbox(exists=4)
        with JudgingBackend() as backend, ScriptedImap(mailbox, **{how: secure}) as server:
            hang_at(server, backend, mailbox, context, step, act)

    with ThreadPoolExecutor(len(HANGS[step])) as pool:
        list(pool.map(hang_once, HANGS[step]))


def hang_at(
    server: ScriptedImap,
    backend: JudgingBackend,
    mailbox: Mailbox,
    context: ssl.SSLContext,
    step: str,
    act: Act,
) -> None:
    hung_at: list[float] = []

    def hang(connection: Connection) -> None:
        hung_at.append(time.monotonic())
        act(connection)

    server.capability_code_in = ()
    server.on(step, arrive_and(mailbox, hang), times=1)
    short = {"imap_timeout_seconds": TIMEOUT_SECONDS, "idle_renew_seconds": SOON_SECONDS}
    with Watched(server, backend, context, **short) as watched:
        server.wait_for_connections(2)
        waited = server.connections[1].accepted_at - hung_at[0]
        slack = 3.0  # for a machine that is busy with something else
        assert TIMEOUT_SECONDS * 0.9 < waited < TIMEOUT_SECONDS + LEAVE_SECONDS + slack, act
        assert_promise(mailbox, backend)
        server.wait_for_idling()
        watched.wait_line("no answer in time")
        assert server.connects == 2, act


@only_tls
def test_a_connect_that_hangs(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    certificates: Certificates,
    watch: Watch,
) -> None:
    """A host that answers no connection request is left in time, and tried again."""
    server.port = free_port()
    with watch(imap_timeout_seconds=TIMEOUT_SECONDS) as watched:
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.create_server(("127.0.0.1", server.port), backlog=0))
            full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            line = watched.wait_line("no answer in time")
            assert line.endswith(f"(connecting to 127.0.0.1:{server.port})")
            mailbox.arrive()
        context = certificates.server_context()
        with ScriptedImap(mailbox, tls_context=context, port=server.port):
            assert_promise(mailbox, backend)
            watched.stop()


@pytest.mark.parametrize(
    ("step", "act"), [("done", drip_lines), ("logout", Connection.silence)], ids=["done", "logout"]
)
@only_tls
def test_a_log_out_that_hangs(server: ScriptedImap, watched: Watched, step: str, act: Act) -> None:
    """Whoever leaves is held up for three seconds at most."""
    server.on(step, act)
    began = time.monotonic()
    watched.stop()
    assert time.monotonic() - began < LEAVE_SECONDS + 2.0


# The peer that is gone without a word


class Namespace:
    """A network namespace, reached over a veth pair; for the length of a `with` block.

    Its addresses are those of this process: another run's, or one that was killed and left behind,
    would take the packets.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        self.name = f"rebreak-idle-{pid}"
        self._link = f"rbi{pid % 10**8}"
        net = ipaddress.ip_network("10.231.0.0/16").network_address + 4 * (pid % 2**14)
        self.here, self.there = str(net + 1), str(net + 2)

    def __enter__(self) -> "Namespace":
        self._ip("netns", "add", self.name)
        try:
            self._ip("link", "add", self._link, "type", "veth", "peer", "in", "netns", self.name)
            self._ip("addr", "add", f"{self.here}/30", "dev", self._link)
            self._ip("link", "set", self._link, "up")
            self.inside("addr", "add", f"{self.there}/30", "dev", "in")
            self.inside("link", "set", "in", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ip("netns", "del", self.name)  # and the pair with it
        with contextlib.suppress(RuntimeError):
            self._ip("link", "del", self._link)  # at once, not when the last socket is gone

    def inside(self, *arguments: str) -> None:
        """Run `ip` in the namespace."""
        self._ip("-n", self.name, *arguments)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile belong to the namespace."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        other = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            self._enter(other)
            try:
                yield
            finally:
                self._enter(own)
        finally:
            os.close(own)
            os.close(other)

    @staticmethod
    def _enter(descriptor: int) -> None:
        clone_newnet = 0x40000000
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, clone_newnet):
            raise OSError(ctypes.get_errno(), "setns")

    @staticmethod
    def _ip(*arguments: str) -> None:
        run(find_program("ip"), *arguments)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Skips where there can be none; under CI=true that is a failure."""
    problem = "" if os.geteuid() == 0 else "network namespaces need root"
    with contextlib.ExitStack() as stack:
        try:
            found = None if problem else stack.enter_context(Namespace())
        except (MissingProgramError, RuntimeError) as error:
            problem = str(error)
        if problem:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(problem)
        yield found


@pytest.mark.timeout(200)
def test_silent_peer_is_noticed(
    namespace: Namespace, mailbox: Mailbox, backend: JudgingBackend
) -> None:
    """A peer that vanishes without FIN or RST is noticed within two minutes, and mail caught up."""
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(namespace.there).configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with namespace.entered():
        server = ScriptedImap(mailbox, tls_context=server_context, host=namespace.there)
    with server, Watched(server, backend, context) as watched:
        watched.wait_listening()
        namespace.inside("link", "set", "in", "down")
        vanished = time.monotonic()
        mailbox.arrive()
        watched.wait_line("reconnecting in", seconds=150)
        assert time.monotonic() - vanished < 120
        assert server.connects == 1
        namespace.inside("link", "set", "in", "up")
        assert_promise(mailbox, backend, 30)
