"""How the scripted server ends connections, cuts them, and sends any bytes."""

import contextlib
import socket
import ssl
import threading
import time

import pytest

from tests.session.scripted_imap.conftest import HELLO, LOGIN, SECONDS, RawClient
from tests.support.scripted_imap import Connection, CutAfter, Mailbox, ScriptedImap
from tests.support.servers import Certificates

# Ends


@pytest.mark.parametrize("how", ["fin", "truncate", "rst", "close_notify", "silence"])
@pytest.mark.parametrize("by", ["action", "test"])
def test_ends(secure: ScriptedImap, certificates: Certificates, how: str, by: str) -> None:
    """Each way to end a connection looks to the client as its name says."""
    if by == "action":
        secure.on("idling", lambda c: c.end(how))
    with RawClient(secure, certificates.client_context()) as raw:
        raw.idle()
        if by == "test":
            secure.wait_for_idling(1)
            secure.idling[0].end(how)
        raw.sock.settimeout(0.2 if how in ("silence", "close_notify") else SECONDS)
        assert end_seen_by(raw) == how
        assert secure.connections[0].closed == how
    secure.wait_until(lambda: not secure.connections[0].open)


def end_seen_by(raw: RawClient) -> str:
    """Say how the stream ended, as TLS and TCP tell it."""
    patience = raw.sock.gettimeout()
    try:
        socket.socket.recv(raw.sock, 1, socket.MSG_PEEK)  # TLS makes an end of stream of a reset
        assert raw.recv() == b""
    except TimeoutError:
        return "silence"
    except ConnectionResetError:
        return "rst"
    except ssl.SSLEOFError:
        return "truncate"
    with socket.socket(fileno=raw.sock.detach()) as tcp:
        tcp.settimeout(patience)
        try:
            assert tcp.recv(1) == b""
        except TimeoutError:
            return "close_notify"
        return "fin"


def test_bye(plain: ScriptedImap) -> None:
    """BYE is said and the connection closed, also by an action before an answer."""
    plain.on("login", lambda c: c.bye(b"Overloaded"))
    with RawClient(plain) as raw:
        raw.send(HELLO)
        assert raw.rest().endswith(b"* BYE Overloaded\r\n")


def test_a_silent_server_sees_its_client_go(plain: ScriptedImap, mailbox: Mailbox) -> None:
    """A silent connection answers nothing, announces nothing, and notices the client's end."""
    with RawClient(plain) as raw:
        raw.idle()
        plain.wait_for_idling(1)
        plain.idling[0].silence()
        mailbox.arrive()
        raw.send(b"DONE\r\n")
        raw.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            raw.recv()
        assert plain.connections[0].open
    plain.wait_until(lambda: not plain.connections[0].open)


# Bytes


def test_split_lines(secure: ScriptedImap, certificates: Certificates) -> None:
    """A line can be cut into TLS records, and a record into TCP segments."""
    line = b"* 5 EXISTS\r\n"
    with RawClient(secure, certificates.client_context()) as raw:
        raw.idle()
        secure.wait_for_idling(1)
        connection = secure.idling[0]
        connection.send_split(line, size=5)
        assert [raw.recv() for _ in range(3)] == [b"* 5 E", b"XISTS", b"\r\n"]
        connection.send_segments(line, size=3)
        assert raw.recv() == line
        rest = connection.send_partial_record(line)
        raw.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            raw.recv()
        connection.send_raw(rest)
        raw.sock.settimeout(SECONDS)
        assert raw.recv() == line


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_drip_ends_with_the_connection(plain: ScriptedImap, end: str) -> None:
    """A drip goes on for ever, byte by byte, and ends when either side does."""
    plain.on("noop", lambda c: c.drip(b"* OK wait\r\n", every_seconds=0.001))
    with RawClient(plain) as raw:
        raw.send(b"a NOOP\r\n")
        raw.until(rb"(\* OK wait\r\n){5}")
        if end == "server":
            plain.close()
    plain.wait_until(lambda: not plain.connections[0].open)
    assert plain.connections[0].closed == end


def test_a_flood_is_bounded(secure: ScriptedImap, certificates: Certificates) -> None:
    """A flood stops at its maximum, or as soon as the client goes."""
    secure.on("noop", lambda c: c.flood(b"* 5 EXISTS\r\n", max_bytes=3_000_000), times=1)
    secure.on("noop", lambda c: c.flood(b"x"))
    with RawClient(secure, certificates.client_context()) as raw:
        raw.until(b"Ready\r\n")
        raw.send(b"a NOOP\r\n")
        received = 0
        while received < 3_000_000:
            received += len(raw.recv())
        raw.send(b"a NOOP\r\n")
        raw.until(b"xxx")
    secure.wait_until(lambda: not secure.connections[0].open)


def test_a_stuck_flood_ends_with_the_server(mailbox: Mailbox) -> None:
    """A flood that nobody reads, and a drip and a silence, hold up neither close nor threads."""
    with ScriptedImap(mailbox) as server, contextlib.ExitStack() as clients:
        server.on("noop", lambda c: c.flood(b"* 5 EXISTS\r\n"))
        server.on("capability", Connection.silence)
        server.on("id", lambda c: c.drip(b"x"))
        for command in (b"a NOOP\r\n", b"a CAPABILITY\r\n", b"a ID NIL\r\n"):
            clients.enter_context(RawClient(server)).send(command)
        server.wait_until(lambda: all(c.commands for c in server.connections[:3]))
        server.wait_for_connections(3)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 1
    assert not any(connection.thread.is_alive() for connection in server.connections)


@pytest.mark.parametrize(
    "line",
    [
        *(b"* 5 EX\0ISTS\r\n", b"\xff\xfe\r\n", b"* OK (((\r\n", b"* 5 exists\r\n"),
        *(b"\r\n", b"+ x\r\n", b"* 1 FETCH (BODY {2147483647}\r\n"),
    ],
)
def test_any_line(secure: ScriptedImap, certificates: Certificates, line: bytes) -> None:
    """Whatever bytes the test sends arrive as they are."""
    secure.on("idling", line)
    with RawClient(secure, certificates.client_context()) as raw:
        raw.idle()
        raw.seen += line if raw.seen else b""
        assert raw.recv() == line


# The cut


def clean_conversation(server: ScriptedImap, context: ssl.SSLContext | None) -> bytes:
    """Converse from greeting to LOGOUT with one mail; return all that the server sent."""
    with RawClient(server, context) as raw, contextlib.suppress(OSError, AssertionError):
        raw.sock.settimeout(0.5 if server.cut and server.cut.how == "silence" else SECONDS)
        seen = b""
        for command, answer in CONVERSATION:
            raw.send(command)
            seen += raw.until(answer)
        return seen
    return seen + raw.seen


CONVERSATION = [
    (b"", b"Ready\r\n"),
    (b"a LOGIN user@example.org secret\r\n", b"a OK.*\r\n"),
    (b"b EXAMINE INBOX\r\n", b"b OK.*\r\n"),
    (b"c IDLE\r\n", rb"\+ idling\r\n"),
    (b"DONE\r\n", b"c OK.*\r\n"),
    (b"d LOGOUT\r\n", b"d OK.*\r\n"),
]


@pytest.mark.parametrize("how", ["fin", "rst", "silence"])
def test_cut_after_every_byte(secure: ScriptedImap, certificates: Certificates, how: str) -> None:
    """The client gets exactly the bytes before the cut, and the callback runs once."""
    context = certificates.client_context()
    whole = clean_conversation(secure, context)
    length = secure.connections[0].sent_bytes
    assert len(whole) == length
    step = 150 if how == "silence" else 1  # the client waits a while before it calls it silence
    for n_bytes in {*range(0, length, step), length}:
        mailbox = Mailbox(exists=4)
        cut = CutAfter(n_bytes, how, callback=mailbox.arrive)
        with ScriptedImap(mailbox, tls_context=secure.tls_context, cut=cut) as server:
            assert clean_conversation(server, context) == whole[:n_bytes]
            assert cut.fired.wait(SECONDS)
            assert server.connections[0].closed == how
            assert server.connections[0].sent_bytes == n_bytes
            assert clean_conversation(server, context) != b""  # the second is left alone
        assert len(mailbox.arrivals) == 1


@pytest.mark.parametrize("how", ["fin", "rst", "silence"])
def test_cut_in_an_announcement(mailbox: Mailbox, how: str) -> None:
    """A cut in the middle of an announcement takes the test's own thread along unharmed."""
    with ScriptedImap(mailbox) as server, RawClient(server) as cut, RawClient(server) as other:
        cut.idle()
        other.idle()
        server.wait_for_idling(2)
        first, second = server.connections
        server.cut = CutAfter(first.sent_bytes + 5, how, callback=mailbox.arrive)
        mailbox.arrive()
        other.until(rb"\* 6 EXISTS\r\n")
        assert (first.closed, second.closed) == (how, None)
        cut.sock.settimeout(0.2)
        assert cut.rest() == b"* 5 E"


def test_cuts_at_the_same_moment() -> None:
    """Connections that are cut together, with mail arriving at each cut, do not wait in a ring."""
    mailbox = Mailbox(exists=100)
    with ScriptedImap(mailbox) as server, contextlib.ExitStack() as stack:
        with RawClient(server) as first:
            first.send(HELLO)
            n_bytes = first.until(b"b OK.*\r\n").index(b"b OK") + len(b"b OK")
        server.cut = CutAfter(n_bytes, "fin", callback=mailbox.arrive, every=True)
        clients = [stack.enter_context(RawClient(server)) for _ in range(50)]
        for client in clients:
            client.send(HELLO)
        assert all(client.rest().endswith(b"\r\nb OK") for client in clients)
        assert len(mailbox.arrivals) == 50


# Many, and the end


def test_two_hundred_connections(secure: ScriptedImap, certificates: Certificates) -> None:
    """Two hundred clients idle at once, all hear of a mail, and the server ends within a second."""
    context = certificates.client_context()
    mailbox = secure.mailbox_of(LOGIN)
    assert mailbox
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(secure, context)) for _ in range(200)]
        for client in clients:
            client.send(HELLO + b"c IDLE\r\n")
        secure.wait_for_idling(200, seconds=30)
        mailbox.arrive()
        for client in clients:
            client.until(rb"\* 5 EXISTS\r\n")
        before = threading.active_count()
        began = time.monotonic()
        secure.close()
        assert time.monotonic() - began < 1
        assert threading.active_count() <= before - 201


def test_a_failing_action_fails_the_test(mailbox: Mailbox) -> None:
    """An exception in an action comes out where the server is left."""
    server = ScriptedImap(mailbox)
    server.on("noop", fail)
    with pytest.raises(ExceptionGroup) as failure:
        noop_once(server)
    assert isinstance(failure.value.exceptions[0], LookupError)


def fail(connection: Connection) -> None:
    raise LookupError


def noop_once(server: ScriptedImap) -> None:
    with server, RawClient(server) as raw:
        raw.send(b"a NOOP\r\n")
        raw.rest()


def test_the_same_port_again(mailbox: Mailbox) -> None:
    """A server can come back on the port it had."""
    with ScriptedImap(mailbox) as server, RawClient(server) as raw:
        raw.idle()
        server.close()
        with ScriptedImap(mailbox, port=server.port) as again, RawClient(again) as other:
            other.idle()
