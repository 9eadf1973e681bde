"""The scripted server is itself proved: with IMAPClient where it behaves, bytewise where not."""

import contextlib
import itertools
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError

from tests.support.scripted_imap import Connection, CutAfter, Mailbox, ScriptedImap, parse_command
from tests.support.servers import Certificates

LOGIN, PASSWORD = "user@example.org", "secret"
SECONDS = 10.0  # for what should happen at once
HELLO = b"a LOGIN user@example.org secret\r\nb EXAMINE INBOX\r\n"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(exists=4)


@pytest.fixture(params=["plain", "starttls", "tls"])
def server(
    request: pytest.FixtureRequest, certificates: Certificates, mailbox: Mailbox
) -> Iterator[ScriptedImap]:
    context = certificates.server_context()
    tls = context if request.param == "tls" else None
    starttls = context if request.param == "starttls" else None
    with ScriptedImap(mailbox, tls_context=tls, starttls_context=starttls) as scripted:
        yield scripted


@pytest.fixture
def plain(mailbox: Mailbox) -> Iterator[ScriptedImap]:
    with ScriptedImap(mailbox) as scripted:
        yield scripted


@pytest.fixture
def secure(certificates: Certificates, mailbox: Mailbox) -> Iterator[ScriptedImap]:
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as scripted:
        yield scripted


class RawClient:
    """A client that sees bytes: each `recv` is one segment, and over TLS at most one record."""

    def __init__(self, server: ScriptedImap, context: ssl.SSLContext | None = None) -> None:
        self.tcp = socket.create_connection((server.host, server.port), timeout=SECONDS)
        self.sock = self.tcp
        self.seen = b""
        if context:
            self.start_tls(context)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.sock = context.wrap_socket(
            self.sock, server_hostname="localhost", suppress_ragged_eofs=False
        )

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def recv(self) -> bytes:
        return self.sock.recv(1 << 20)

    def until(self, pattern: bytes) -> bytes:
        """Read up to a match of `pattern`; return all that was read since the last call."""
        while not re.search(pattern, self.seen):
            data = self.recv()
            assert data, f"end of stream after {self.seen!r}"
            self.seen += data
        seen, self.seen = self.seen, b""
        return seen

    def rest(self) -> bytes:
        """Read to the end, however it comes."""
        with contextlib.suppress(OSError):
            while data := self.recv():
                self.seen += data
        return self.seen

    def idle(self) -> bytes:
        self.send(HELLO + b"c IDLE\r\n")
        return self.until(rb"\+ idling\r\n")


def connect(server: ScriptedImap, certificates: Certificates) -> IMAPClient:
    context = certificates.client_context()
    if server.tls_context:
        return IMAPClient("localhost", server.port, ssl_context=context, timeout=SECONDS)
    client = IMAPClient("localhost", server.port, ssl=False, timeout=SECONDS)
    if server.starttls_context:
        client.starttls(context)
    return client


def logged_in(server: ScriptedImap, certificates: Certificates) -> IMAPClient:
    client = connect(server, certificates)
    client.login(LOGIN, PASSWORD)
    return client


# The well-behaved server


def test_a_whole_session(
    server: ScriptedImap, certificates: Certificates, mailbox: Mailbox
) -> None:
    """Login, EXAMINE, IDLE, an announcement, DONE, NOOP, STATUS and LOGOUT work as they should."""
    with logged_in(server, certificates) as client:
        selected = client.select_folder("INBOX", readonly=True)
        assert (selected[b"EXISTS"], selected[b"UIDNEXT"], selected[b"UIDVALIDITY"]) == (4, 5, 1)
        assert client.has_capability("IDLE")
        client.idle()
        server.wait_for_idling(1)
        mailbox.arrive()
        assert client.idle_check(timeout=SECONDS) == [(5, b"EXISTS")]
        assert client.idle_done() == (b"IDLE terminated", [])
        assert client.noop()[0] == b"NOOP completed"
        assert client.folder_status("INBOX", "UIDNEXT") == {b"UIDNEXT": 6}
        assert client.id_({"name": "test"})
    server.wait_until(lambda: not server.connections[0].open)
    connection = server.connections[0]
    assert (connection.closed, connection.logged_out, server.connects) == ("logout", True, 1)
    assert connection.commands[-1].line.endswith(b" LOGOUT\r\n")


@pytest.mark.parametrize(
    "password", ['quo"te', "back\\slash", "with space", "{5}", "", "(paren] *%", "pässwörd"]
)
def test_any_password(plain: ScriptedImap, certificates: Certificates, password: str) -> None:
    """LOGIN's quoted strings and SASL PLAIN's base64 are read as they were meant."""
    plain.users = {LOGIN: password}
    if password.isascii():
        with connect(plain, certificates) as client:
            client.login(LOGIN, password)
    with connect(plain, certificates) as client:
        client.plain_login(LOGIN, password)
    with connect(plain, certificates) as client, pytest.raises(IMAPClientError):
        client.login(LOGIN, "wrong")
    with RawClient(plain) as raw:
        encoded = password.encode()
        raw.send(b"a LOGIN {16}\r\n%s {%d+}\r\n%s\r\n" % (LOGIN.encode(), len(encoded), encoded))
        assert b"+ Ready" in raw.until(b"a OK")


def test_parsing_commands() -> None:
    """Atoms, quoted strings and literals are told apart, and what is none of them is refused."""
    assert parse_command(b'a LOGIN x "y \\" z"\r\n') == [b"a", b"LOGIN", b"x", b'y " z']
    assert parse_command(b"a LOGIN {3}\r\nx y {2+}\r\n{}\r\n") == [b"a", b"LOGIN", b"x y", b"{}"]
    assert parse_command(b'a LOGIN "x\r\n') == []
    assert parse_command(b"\r\n") == []


def test_pipelined_commands(plain: ScriptedImap) -> None:
    """Commands sent in one go are answered in order, IDLE and DONE among them."""
    with RawClient(plain) as raw:
        raw.send(HELLO + b"c IDLE\r\nDONE\r\nd BOGUS\r\nDONE\r\ne LOGOUT\r\n")
        tagged = re.findall(rb"(?m)^(\w|\*|\+) (OK|BAD|BYE|idling)", raw.rest())
    words = [b" ".join(pair) for pair in tagged][-7:]
    expected = "b OK, + idling, c OK, d BAD, * BAD, * BYE, e OK"
    assert b", ".join(words).decode() == expected


def test_capability_options(plain: ScriptedImap, certificates: Certificates) -> None:
    """The capabilities, and which answers carry them, are the test's choice."""
    plain.capability_code_in = ()
    plain.capabilities_after_login = ("IMAP4rev1",)
    plain.tell_uidnext = False
    with logged_in(plain, certificates) as client:
        assert not client.has_capability("IDLE")
        assert b"UIDNEXT" not in client.select_folder("INBOX", readonly=True)
        said = [line.split()[1] for _, line in plain.connections[0].commands]
        # Told neither by the greeting nor by LOGIN; some Pythons ask twice.
        asked = [command for command, _ in itertools.groupby(said)]
        assert asked == [b"CAPABILITY", b"LOGIN", b"CAPABILITY", b"EXAMINE"]
        with pytest.raises(IMAPClientError):
            client._raw_command_untagged(b"IDLE", [])


def test_a_mailbox_for_each_user(certificates: Certificates) -> None:
    """Each user has their own INBOX, and only its idlers hear of its mail."""
    boxes = {f"u{number}": Mailbox(exists=number) for number in range(3)}
    with ScriptedImap(boxes, users=dict.fromkeys(boxes, "p")) as server:
        clients = [connect(server, certificates) for _ in boxes]
        for client, name in zip(clients, boxes, strict=True):
            client.login(name, "p")
            client.select_folder("INBOX", readonly=True)
            client.idle()
        server.wait_for_idling(3)
        boxes["u1"].arrive(2)
        assert clients[1].idle_check(timeout=SECONDS) == [(3, b"EXISTS")]
        assert all(client.idle_check(timeout=0) == [] for client in (clients[0], clients[2]))
        for client in clients:
            client.shutdown()


def test_swallowed_announcements(plain: ScriptedImap, mailbox: Mailbox) -> None:
    """Mail that is not announced shows in EXAMINE only, and its arrival is on record."""
    with RawClient(plain) as raw:
        raw.idle()
        mailbox.announcing = False
        mailbox.arrive()
        mailbox.announcing = True
        mailbox.arrive(announce=False)
        raw.send(b"DONE\r\nd NOOP\r\n")
        assert b"EXISTS" not in raw.until(b"d OK")
        raw.send(b"e EXAMINE INBOX\r\n")
        assert b"* 6 EXISTS" in raw.until(b"e OK")
    assert [uid for _, uid in mailbox.arrivals] == [5, 6]
    assert mailbox.arrivals[0].at <= mailbox.arrivals[1].at <= time.monotonic()


def test_expunge_and_new_uidvalidity(plain: ScriptedImap, mailbox: Mailbox) -> None:
    """EXPUNGE is announced in order with EXISTS; news between commands wait for the next."""
    with RawClient(plain) as raw:
        raw.idle()
        mailbox.expunge(2)
        mailbox.arrive()
        raw.until(rb"\* 2 EXPUNGE\r\n\* 4 EXISTS\r\n")
        raw.send(b"DONE\r\n")
        raw.until(b"c OK")
        mailbox.arrive()
        raw.send(b"d NOOP\r\n")
        assert raw.until(b"d OK").startswith(b"* 5 EXISTS\r\n")
        mailbox.renumber(uidvalidity=7)
        raw.send(b"e EXAMINE INBOX\r\n")
        assert {b"7", b"6"} <= set(re.findall(rb"\[UID\w+ (\d+)\]", raw.until(b"e OK")))


# Scripts


def test_an_action_instead_of_the_answer(server: ScriptedImap, certificates: Certificates) -> None:
    """An answer can be replaced once, and is the default again afterwards."""
    server.on("login", lambda c: c.answer(b"NO [UNAVAILABLE] Try later"), times=1)
    with connect(server, certificates) as client:
        with pytest.raises(IMAPClientError, match="UNAVAILABLE"):
            client.login(LOGIN, PASSWORD)
        client.login(LOGIN, PASSWORD)
    server.on("greeting", b"* BYE Too many connections\r\n", instead=True)
    with pytest.raises(IMAPClientError):
        connect(server, certificates)
    server.off("greeting")
    connect(server, certificates).logout()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (lambda s: s.after("idle", b"* 5 EXISTS\r\n", glued=True), b"+ idling\r\n* 5 EXISTS\r\n"),
        (lambda s: s.on("idle", b"* 5 EXISTS\r\n", glued=True), b"* 5 EXISTS\r\n+ idling\r\n"),
        (
            lambda s: s.on("idling", lambda c: c.mailbox.arrive(), glued=True),
            b"+ idling\r\n* 5 EXISTS\r\n",
        ),
        (lambda s: s.rewrite("idle", bytes.upper), b"+ IDLING\r\n"),
        (lambda s: s.on("idle", lambda c: c.begin_idle(b"+ \r\n")), b"+ \r\n"),
    ],
)
def test_glue(
    secure: ScriptedImap,
    certificates: Certificates,
    script: Callable[[ScriptedImap], None],
    expected: bytes,
) -> None:
    """Lines can be made to leave in one TLS record, in any order, and rewritten."""
    script(secure)
    with RawClient(secure, certificates.client_context()) as raw:
        raw.send(HELLO)
        raw.until(b"b OK.*\r\n")
        raw.send(b"c IDLE\r\n")
        assert raw.recv() == expected
        secure.wait_for_idling(1)
        with secure.idling[0].glue():
            secure.idling[0].send(b"* 8 EXISTS\r\n")
            secure.idling[0].send(b"* 9 EXISTS\r\n")
        assert raw.recv() == b"* 8 EXISTS\r\n* 9 EXISTS\r\n"


def test_exists_behind_the_tagged_answer(plain: ScriptedImap) -> None:
    """What follows EXAMINE's tagged OK can share its segment."""
    plain.after("examine", b"* 6 EXISTS\r\n", glued=True)
    with RawClient(plain) as raw:
        raw.send(b"a LOGIN user@example.org secret\r\n")
        raw.until(b"a OK.*\r\n")
        raw.send(b"b EXAMINE INBOX\r\n")
        while not (segment := raw.recv()).endswith(b"* 6 EXISTS\r\n"):
            pass
        assert segment.startswith(b"b OK") or b"\r\nb OK" in segment


def test_between_done_and_its_answer(plain: ScriptedImap, certificates: Certificates) -> None:
    """A line can be put between DONE and the tagged OK."""
    plain.on("done", b"* 5 EXISTS\r\n")
    with logged_in(plain, certificates) as client:
        client.select_folder("INBOX", readonly=True)
        client.idle()
        assert client.idle_done() == (b"IDLE terminated", [(5, b"EXISTS")])


@pytest.mark.parametrize("text", [b"OK Enough", b"NO Enough", b"BAD Enough"])
def test_the_server_ends_idle(plain: ScriptedImap, text: bytes) -> None:
    """IDLE can be ended without DONE, and a new one begun."""
    with RawClient(plain) as raw:
        raw.idle()
        plain.wait_for_idling(1)
        plain.idling[0].end_idle(text)
        raw.until(b"c " + text)
        raw.send(b"d IDLE\r\n")
        raw.until(rb"\+ idling\r\n")


def test_bytes_before_tls_are_the_tests_choice(
    certificates: Certificates, mailbox: Mailbox
) -> None:
    """Plain bytes can be injected in the segment of STARTTLS's OK, and TLS works after them."""
    with ScriptedImap(mailbox, starttls_context=certificates.server_context()) as server:
        server.after("starttls", b"* 99 EXISTS\r\n", glued=True)
        with RawClient(server) as raw:
            raw.until(b"STARTTLS.*\r\n")
            raw.send(b"s STARTTLS\r\ni LOGIN injected injected\r\n")
            assert raw.recv() == b"s OK Begin TLS negotiation now\r\n* 99 EXISTS\r\n"
            raw.start_tls(certificates.client_context())
            raw.send(b"t CAPABILITY\r\n")
            assert b"STARTTLS" not in raw.until(b"t OK")
        assert b"injected" not in b"".join(line for _, line in server.connections[0].commands)


def test_garbage_instead_of_tls(secure: ScriptedImap, certificates: Certificates) -> None:
    """The handshake can be answered with bytes that are no TLS."""
    secure.on("tls-handshake", lambda c: c.send_raw(b"* OK no TLS here\r\n"))
    secure.on("tls-handshake", lambda c: c.fin())
    with pytest.raises(ssl.SSLError):
        RawClient(secure, certificates.client_context())
    secure.off("tls-handshake")
    with pytest.raises(ssl.SSLCertVerificationError):
        RawClient(secure, ssl.create_default_context())
    secure.wait_until(lambda: secure.connections[1].closed == "tls")


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
