"""The scripted server where it behaves, and where a script bends it."""

import itertools
import re
import ssl
import time
from collections.abc import Callable

import pytest
from imapclient.exceptions import IMAPClientError

from tests.session.scripted_imap.conftest import (
    HELLO,
    LOGIN,
    PASSWORD,
    SECONDS,
    RawClient,
    connect,
    logged_in,
)
from tests.support.scripted_imap import Mailbox, ScriptedImap, parse_command
from tests.support.servers import Certificates

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
