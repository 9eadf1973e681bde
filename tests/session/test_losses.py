"""All the places where a mail can be lost, each on the whole worker and against real sockets.

Waits are so long here (IDLE renewed after 25 minutes, looked at after one) that what is found
within seconds was found because the server told of it, unless a test asks for less.
"""

import contextlib
import ctypes
import ipaddress
import itertools
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
import trustme

from rebreak_idle.idle_tries import SHORT_IDLES
from rebreak_idle.imap.connector import tls_context
from rebreak_idle.imap.renewal import Renewal
from tests.support.harness import (
    PROMPT_SECONDS,
    JudgingBackend,
    Scans,
    Watched,
    assert_promise,
    assert_stays,
    quick_config,
    unscanned,
)
from tests.support.recording_backend import Hang, answer
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, MissingProgramError, find_program, free_port, run
from tests.support.waiting import wait_for

EXISTS = b"* 5 EXISTS\r\n"
EVENT = "exists-event received (new mail)"
RENEWING = "idle renewing (0.2s threshold)"
SOON_SECONDS = 0.2  # a renewal that a test need not wait for
TIMEOUT_SECONDS = 0.5  # a time-out that a test waits for
AT_ONCE_SECONDS = 2.5  # a few milliseconds, on a machine that is busy with something else
LEAVE_SECONDS = 3.0  # what a session that is given up may take to log out

Watch = Callable[..., Watched]
Act = Callable[[Connection], object]


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(exists=4)


@pytest.fixture(params=["tls", "starttls"])
def server(
    request: pytest.FixtureRequest, certificates: Certificates, mailbox: Mailbox
) -> Iterator[ScriptedImap]:
    context = certificates.server_context()
    tls = context if request.param == "tls" else None
    starttls = context if request.param == "starttls" else None
    with ScriptedImap(mailbox, tls_context=tls, starttls_context=starttls) as scripted:
        yield scripted


@pytest.fixture
def backend() -> Iterator[JudgingBackend]:
    with JudgingBackend() as recording:
        yield recording


@pytest.fixture
def context(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The program's own, which trusts the tests' CA as an operator would have it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    return tls_context()


@pytest.fixture
def watch(server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext) -> Watch:
    """Makes a watched mailbox, to be entered with `with`; keywords as `Watched` has them."""
    return lambda **options: Watched(server, backend, context, **options)


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


# Announcements where they are not expected


def test_exists_glued_to_the_continuation(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """`+ idling` and `* 5 EXISTS` in one segment: scanned at once."""
    server.on("idling", lambda _: mailbox.arrive(), glued=True, times=1)
    idle_again(server)
    assert_announced(watched, backend, mailbox)
    assert server.connects == 1


@pytest.mark.parametrize("glued", [True, False])
def test_exists_between_idle_and_the_continuation(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watched: Watched,
    glued: bool,
) -> None:
    """An event, and the session goes on or is set up again."""
    server.on("idle", arrive_and(mailbox, sending(EXISTS)), glued=glued, times=1)
    idle_again(server)
    assert_announced(watched, backend, mailbox)
    server.wait_for_idling()
    assert server.connects <= 2


def test_exists_behind_examines_tagged_answer(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """`* 5 EXISTS` glued to SELECT's tagged answer: an event, and the session goes on or anew."""
    server.after("examine", arrive_and(mailbox, sending(EXISTS)), glued=True, times=1)
    idle_again(server)
    assert_announced(watched, backend, mailbox)
    server.wait_for_idling()
    assert server.connects <= 2


def further_in_answer(server: ScriptedImap, mailbox: Mailbox, uidnext: bytes) -> None:
    """A mail comes while EXAMINE is answered, after its EXISTS; UIDNEXT is told as given."""

    def change(told: bytes) -> bytes:
        mailbox.arrive(announce=False)
        lines = told.replace(b"[UIDNEXT 5]", uidnext).splitlines(keepends=True)
        return b"".join([*lines[:-1], EXISTS, lines[-1]])

    server.rewrite("examine", change, times=1)


def before_uidnext(server: ScriptedImap, mailbox: Mailbox) -> None:
    """The mail comes between the EXISTS and the UIDNEXT of one answer."""
    further_in_answer(server, mailbox, b"[UIDNEXT 6]")


def after_uidnext(server: ScriptedImap, mailbox: Mailbox) -> None:
    """The mail comes between the UIDNEXT and the end of one answer."""
    further_in_answer(server, mailbox, b"[UIDNEXT 5]")


def before_uidnext_told_in_idle(server: ScriptedImap, mailbox: Mailbox) -> None:
    """The mail comes between the EXISTS and the UIDNEXT of one answer, and IDLE announces it."""

    def change(told: bytes) -> bytes:
        mailbox.arrive()
        return told.replace(b"[UIDNEXT 5]", b"[UIDNEXT 6]")

    server.rewrite("examine", change, times=1)


def behind_the_end_of_idle(server: ScriptedImap, mailbox: Mailbox) -> None:
    """One mail is announced when IDLE has ended, a second one comes before EXAMINE's answer."""
    server.on("examine", arrive_and(mailbox, sending(EXISTS)), glued=True, times=1)
    server.on("examine", lambda _: mailbox.arrive(announce=False), times=1)


FURTHER = [before_uidnext, after_uidnext, before_uidnext_told_in_idle, behind_the_end_of_idle]


@pytest.mark.parametrize("further", FURTHER)
def test_mail_while_examine_is_answered(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watched: Watched,
    further: Callable[[ScriptedImap, Mailbox], None],
) -> None:
    """It is scanned at once, and the session goes on."""
    further(server, mailbox)
    idle_again(server)
    assert_at_once(mailbox, backend)
    assert server.connects == 1


@pytest.mark.parametrize("session", ["goes on", "dies"])
@pytest.mark.parametrize("further", FURTHER)
def test_the_mail_after_one_that_came_while_examine_was_answered(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watched: Watched,
    further: Callable[[ScriptedImap, Mailbox], None],
    session: str,
) -> None:
    """It is not announced, and not taken for the other one, which was."""
    before = watched.waits
    further(server, mailbox)
    idle_again(server)
    assert_promise(mailbox, backend)
    watched.wait_listening(before)
    mailbox.arrive(announce=False)
    if session == "dies":
        server.idling[0].fin()
    else:
        idle_again(server)
    assert_promise(mailbox, backend)


@pytest.mark.parametrize(
    "end",
    [b"OK Done", b"NO Not done", b"BAD Not done", b"NO"],
)
def test_exists_between_done_and_its_answer(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch, end: bytes
) -> None:
    """An event, whatever the answer is."""

    def ending(connection: Connection) -> bool:
        connection.send(EXISTS)
        return connection.end_idle(end)

    server.on("done", arrive_and(mailbox, ending), times=1)
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        watched.wait_line(RENEWING)
        assert_announced(watched, backend, mailbox)
        watched.wait_line(RENEWING, after=watched.mark())
        assert "did not announce" not in watched.text
        assert server.connects <= 2


@pytest.mark.parametrize(
    "between",
    [b"+ still here\r\n", b"\r\n", b"* 1 FETCH (BODY {3}\r\nabc)\r\n", b"\xff\0(\r\n", b"* X\r\n"],
)
@pytest.mark.parametrize("exists_first", [True, False])
@only_tls
def test_something_else_between_done_and_its_answer(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watch: Watch,
    between: bytes,
    exists_first: bool,
) -> None:
    """The announcement beside it is not lost."""
    said = EXISTS + between if exists_first else between + EXISTS
    server.on("done", arrive_and(mailbox, sending(said)), times=1)
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        watched.wait_line(RENEWING)
        assert_promise(mailbox, backend)
        watched.wait_line(RENEWING, after=watched.mark())
        assert server.connects <= 2


def test_exists_glued_behind_dones_answer(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """An announcement that follows DONE's tagged answer in its segment counts."""
    server.after("done", arrive_and(mailbox, sending(EXISTS)), glued=True, times=1)
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        watched.wait_line(RENEWING)
        assert_promise(mailbox, backend)
        assert server.connects == 1


# Ends of the connection


@pytest.mark.parametrize("how", ["fin", "truncate", "close_notify", "rst"])
def test_the_server_closes_during_idle(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched, how: str
) -> None:
    """Noticed at once and reconnected; nothing spins on the dead connection."""
    before = watched.waits
    tell(server.idling[0], arrive_and(mailbox, lambda c: c.end(how)))
    server.wait_for_connections(2)
    assert watched.waits <= before + 3
    assert_promise(mailbox, backend)
    reset = "connection lost (Connection reset by peer)"
    watched.wait_line(reset if how == "rst" else "the server closed the connection")
    server.wait_for_idling()
    assert server.connects == 2


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("words", [b"Overloaded", b'(half "said', b"caf\xe9 \0", b""])
def test_bye_during_idle(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watched: Watched,
    words: bytes,
    closes: bool,
) -> None:
    """A disconnect, closed by the server or not, with the server's words in the log."""
    before = watched.waits
    bye = b"* BYE " + words + b"\r\n"
    tell(server.idling[0], arrive_and(mailbox, sending(bye)), *[Connection.fin] * closes)
    line = watched.wait_line("the server said BYE: ")
    shown = words.decode("utf-8", "replace").replace("\0", "\\x00").strip() or "without a reason"
    assert line.endswith(f"BYE: {shown}")
    server.wait_for_connections(2)
    assert watched.waits <= before + 3
    assert_promise(mailbox, backend)
    server.wait_for_idling()
    assert server.connects == 2


@pytest.mark.parametrize(
    "bytes_",
    [b"\x15\x03\x03\x00\x02\x02\x28", b"* 5 EXISTS\r\n", bytes(64)],
    ids=["alert", "plain text", "zeros"],
)
def test_broken_tls_during_idle(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watched: Watched,
    bytes_: bytes,
) -> None:
    """An alert, or bytes that are no TLS: reconnected."""
    before = watched.waits
    tell(server.idling[0], arrive_and(mailbox, lambda c: c.send_raw(bytes_)))
    server.wait_for_connections(2)
    assert watched.waits <= before + 3
    assert_promise(mailbox, backend)
    watched.wait_line("connection lost (")


def end_bye(connection: Connection) -> None:
    connection.bye(b"Overloaded")


def end_truncate(connection: Connection) -> None:
    connection.fin(notify=False)


@pytest.mark.parametrize(
    "end",
    [Connection.fin, end_truncate, Connection.rst, end_bye],
    ids=["fin", "truncate", "rst", "bye"],
)
def test_exists_and_the_end_in_one_segment(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch, end: Act
) -> None:
    """Scanned at once, although the session dies and the next is a minute away."""
    with watch(reconnect_initial_seconds=60, reconnect_max_seconds=60) as watched:
        watched.wait_listening()
        tell(server.idling[0], arrive_and(mailbox, sending(EXISTS)), end)
        assert_announced(watched, backend, mailbox)
        watched.wait_line("reconnecting in 60s (attempt 2)")
        assert server.connects == 1


def test_a_session_that_is_cut_from_outside_is_set_up_again(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """The last net: whoever finds a thread hanging frees it, and nothing is lost."""
    server.idling[0].silence()
    mailbox.arrive()
    watched.worker.abort()
    assert_promise(mailbox, backend)
    assert server.connects == 2


# The server ends IDLE by itself


@pytest.mark.parametrize("end", [b"OK Enough", b"NO Enough", b"BAD Enough"])
@pytest.mark.parametrize("exists", ["before", "after", "none"])
def test_the_server_ends_idle(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watched: Watched,
    end: bytes,
    exists: str,
) -> None:
    """An event if there was one beside it in its segment, and IDLE again on the same connection."""
    acts: list[Act] = [lambda c: c.end_idle(end)]
    if exists != "none":
        acts.insert(0 if exists == "before" else 1, arrive_and(mailbox, sending(EXISTS)))
    before = watched.waits
    tell(server.idling[0], *acts)
    watched.wait_listening(before)
    server.wait_for_idling()
    assert watched.waits <= before + 4
    if exists == "before":
        assert_announced(watched, backend, mailbox)
    elif exists == "after":
        assert_at_once(mailbox, backend)
    mailbox.arrive()
    assert_promise(mailbox, backend)
    assert server.connects == 1
    assert not watched.count("renew")


@pytest.mark.parametrize("end", [b"OK Enough", b"BAD Enough"])
def test_a_server_that_ends_idle_again_and_again(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch, end: bytes
) -> None:
    """It is not asked in a rush, and the mail is found all the same."""
    server.after("idle", lambda c: c.end_idle(end))
    pause = 0.3
    with watch(poll_interval_seconds=pause) as watched:
        for _ in range(2):
            watched.wait_line("ends IDLE at once, again and again: next IDLE in 0.3s")
            mailbox.arrive(announce=False)
            assert_promise(mailbox, backend)
        server.wait_until(lambda: len(idles(server)) >= SHORT_IDLES + 2)
        assert server.connects == 1
    began = idles(server)[SHORT_IDLES - 1 :]
    assert all(b - a >= pause for a, b in itertools.pairwise(began))


def test_mail_behind_the_end_of_idle_does_not_wait_with_it(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Where IDLE ends again and again, what is announced in one piece with the end is scanned."""
    ends = itertools.count(1)

    def end(connection: Connection) -> None:
        acts: list[Act] = [lambda c: c.end_idle(b"OK Enough")]
        if next(ends) == SHORT_IDLES:
            acts.append(arrive_and(mailbox, sending(EXISTS)))
        tell(connection, *acts)

    server.after("idle", end)
    with watch(poll_interval_seconds=600.0) as watched:
        watched.wait_line("ends IDLE at once, again and again: next IDLE in 10min")
        assert_announced(watched, backend, mailbox)


def idles(server: ScriptedImap) -> list[float]:
    """When each IDLE began."""
    commands = [each for connection in server.connections for each in connection.commands]
    return [at for at, line in commands if line.upper().endswith(b" IDLE\r\n")]


# Lines in pieces, and lines of all kinds


@pytest.mark.parametrize("size", [1, 2, 5, 6, 11])
@pytest.mark.parametrize("way", [Connection.send_split, Connection.send_segments])
def test_a_line_in_pieces(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watched: Watched,
    way: Callable[..., None],
    size: int,
) -> None:
    """Nothing lost, whether TLS records or TCP segments cut it up, and nothing is broken off."""
    mailbox.arrive(announce=False)
    way(server.idling[0], EXISTS, size=size, pause_seconds=0.005)
    assert_announced(watched, backend, mailbox)
    assert watched.count(EVENT) == 1
    assert server.connects == 1
    assert len(backend.scans) == 2


def test_a_piece_that_contains_eof(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """The word EOF in half a line is a word like any other."""
    before = watched.waits
    server.idling[0].send(b"* 4 EXISTS\r\n* OK this is no EOF")
    watched.wait_listening(before)
    mailbox.arrive(announce=False)
    server.idling[0].send(b" at all\r\n" + EXISTS)
    assert_promise(mailbox, backend)
    wait_for(lambda: watched.count(EVENT) == 2, PROMPT_SECONDS, "the second event")
    assert server.connects == 1


def test_half_a_tls_record(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """It is neither an end nor a reason to spin, and its other half is an event."""
    before = watched.waits
    connection = server.idling[0]
    rest = connection.send_partial_record(EXISTS)
    watched.wait_listening(before)
    assert_stays(lambda: watched.waits <= before + 2, 0.3, "the worker waits")
    mailbox.arrive(announce=False)
    connection.send_raw(rest)
    assert_announced(watched, backend, mailbox)
    assert server.connects == 1


ODD_LINES = {
    "continuation": b"+ still here\r\n",
    "bare continuation": b"+\r\n",
    "empty line": b"\r\n",
    "blanks": b"  \r\n",
    "bare line feed": b"* OK Still here\n",
    "8-bit": b"* OK caf\xe9 \xff\xfe\r\n",
    "8-bit garbage": b"\xff\xfe\x80\r\n",
    "NUL": b"* 5 EX\0ISTS\r\n",
    "only NUL": b"\0\r\n",
    "open parenthesis": b"* OK (((\r\n",
    "open FETCH": b"* 1 FETCH (FLAGS (\\Seen\r\n",
    "many parentheses": b"* 1 FETCH " + b"(" * 5000 + b"\r\n",
    "closing parentheses": b"* OK ))))\r\n",
    "open quote": b'* OK "\r\n',
    "open quote in FETCH": b'* 1 FETCH (ENVELOPE ("\r\n',
    "literal": b"* 1 FETCH (BODY {6}\r\nabcd\r\n)\r\n",
    "literal that never comes": b"* 1 FETCH (BODY {10}\r\n",
    "huge literal": b"* 1 FETCH (BODY {2147483647}\r\n",
    "endless literal": b"* 1 FETCH (BODY {20000000000000000000000}\r\n",
    "bare star": b"*\r\n",
    "star and blank": b"* \r\n",
    "no keyword": b"* 5\r\n",
    "unknown keyword": b"* 5 WIBBLE\r\n",
    "huge number": b"* 99999999999999999999 EXISTS\r\n",
    "negative number": b"* -1 EXISTS\r\n",
    "foreign tag": b"A001 OK not yours\r\n",
    "words": b"what is this\r\n",
    "long line": b"* OK " + b"x" * 8000 + b"\r\n",
}


@only_tls
@pytest.mark.parametrize("name", ODD_LINES)
def test_an_odd_line(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched, name: str
) -> None:
    """What is announced beside it in its segment is not lost, and the session goes on for ever."""
    odd = ODD_LINES[name]
    for announcement in (odd + b"* 5 EXISTS\r\n", b"* 6 EXISTS\r\n" + odd, odd + b"* 7 EXISTS\r\n"):
        after = watched.mark()
        tell(server.idling[0], arrive_and(mailbox, sending(announcement)))
        assert_promise(mailbox, backend)
        watched.wait_line(EVENT, after)
    for _ in range(20):
        before = watched.waits
        server.idling[0].send(odd)
        watched.wait_listening(before)
    mailbox.arrive()
    assert_promise(mailbox, backend)
    assert server.connects == 1
    assert not watched.count("reconnecting")


@pytest.mark.parametrize("name", ["8-bit garbage", "NUL", "unknown keyword", "words"])
def test_a_line_that_cannot_be_understood_may_have_been_mail(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched, name: str
) -> None:
    """A scan is made, and the log shows the line, also when another came with it."""
    odd = ODD_LINES[name]
    mailbox.arrive(announce=False)
    server.idling[0].send(odd + b"* 1 EXPUNGE\r\n")
    assert_promise(mailbox, backend)
    line = watched.wait_line("cannot be understood")
    assert ascii(odd.strip().split()[-1])[2:-1] in line
    assert server.connects == 1


@pytest.mark.parametrize(
    "line", [b"* 5 exists\r\n", b"* 05 EXISTS\r\n", b"*  5  Exists\r\n", b"* 5 EXISTS\n"]
)
def test_an_announcement_in_another_spelling(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched, line: bytes
) -> None:
    """An event."""
    mailbox.arrive(announce=False)
    server.idling[0].send(line)
    assert_announced(watched, backend, mailbox)
    assert server.connects == 1


@pytest.mark.parametrize(
    "line",
    [
        b"* OK Still here\r\n",
        b"* ok still here\r\n",
        b"* 1 EXPUNGE\r\n",
        b"* 2 FETCH (FLAGS (\\Seen))\r\n",
        b"* 0 RECENT\r\n",
        b"* FLAGS (\\Seen)\r\n",
        b"* NO The disk is nearly full\r\n",
        b"\r\n",
    ],
)
def test_what_is_no_news(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched, line: bytes
) -> None:
    """Keep-alives and the traces of our own deletions start no scan, break nothing, log nothing."""
    lines = watched.lines
    for _ in range(4):
        before = watched.waits
        server.idling[0].send(line)
        watched.wait_listening(before)
        assert watched.waits <= before + 2
    assert len(backend.scans) == 1
    assert watched.lines == lines
    mailbox.arrive(announce=False)
    server.idling[0].send(b"* 9 EXISTS\r\n")
    assert_announced(watched, backend, mailbox)
    assert len(backend.scans) == 2
    assert server.connects == 1


def test_mail_after_our_own_deletions(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """A mail that was deleted and one that came leave the number as it was: scanned once."""
    mailbox.expunge(1)
    mailbox.arrive()
    assert_announced(watched, backend, mailbox)
    idle_again(server)
    watched.wait_listening(watched.waits)
    assert len(backend.scans) == 2


@only_tls
def test_a_flood_of_announcements(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """A hundred kilobytes at once are read in portions, and what comes at their end counts."""
    connection = server.idling[0]
    mailbox.arrive(announce=False)
    connection.flood(b"* OK Still here\r\n" * 100, max_bytes=100_000)
    connection.send(EXISTS)
    assert_announced(watched, backend, mailbox)
    assert server.connects == 1


# Mail while nobody listens


def test_mail_before_the_start(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Nothing is known of a mailbox at first, so a scan is owed."""
    mailbox.arrive(announce=False)
    with watch() as watched:
        assert_promise(mailbox, backend)
        watched.wait_listening()
    assert [scan.reason for scan in backend.scans] == ["catch-up"]


def test_a_start_that_takes_several_attempts(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Mail that comes between them is scanned."""
    server.on("greeting", arrive_and(mailbox, lambda c: c.bye(b"Busy")), times=2, instead=True)
    server.on("login", arrive_and(mailbox, lambda c: c.rst()), times=1)
    with watch() as watched:
        assert_promise(mailbox, backend)
        watched.wait_line("the server said BYE: Busy")
        assert server.connects == 4


@pytest.mark.parametrize("announced", [True, False])
def test_mail_between_examine_and_idle(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch, announced: bool
) -> None:
    """Scanned when IDLE begins, if the server tells of it then, and else at the renewal."""
    renew = 1500 if announced else SOON_SECONDS
    with watch(idle_renew_seconds=renew) as watched:
        watched.wait_listening()
        server.after("examine", lambda _: mailbox.arrive(announce=announced), times=1)
        if announced:
            idle_again(server)
        wait_for(lambda: mailbox.arrivals, PROMPT_SECONDS, "the renewal")
        assert_promise(mailbox, backend)
        assert server.connects == 1


@pytest.mark.parametrize("how", ["fin", "rst", "close_notify", "bye"])
@pytest.mark.parametrize("idle", ["the first", "a renewal"])
def test_the_server_closes_before_idle_begins(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watch: Watch,
    how: str,
    idle: str,
) -> None:
    """A broken session, not a server that has no IDLE and is asked at intervals."""

    def close(connection: Connection) -> None:
        mailbox.arrive(announce=False)
        if how == "bye":
            connection.bye()
        else:
            connection.end(how)

    with watch(poll_interval_seconds=60.0) as watched:
        if idle == "a renewal":
            server.wait_for_idling()
            watched.wait_listening()
        server.on("idle", close, times=1, instead=True)
        if idle == "a renewal":
            idle_again(server)
        assert_promise(mailbox, backend)
        server.wait_for_idling()
        assert server.connects == 2
        assert "no IDLE" not in watched.text


def turned_away(server: ScriptedImap, times: int) -> None:
    """The next connections get nothing but a BYE."""
    server.on("greeting", lambda c: c.bye(b"Restarting"), times=times, instead=True)


def test_mail_while_the_session_is_down(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """Caught up by UIDNEXT, however many attempts it takes; and without mail nothing is scanned."""
    turned_away(server, 2)
    server.idling[0].fin()
    server.wait_for_connections(2)
    mailbox.arrive()
    assert_promise(mailbox, backend)
    server.wait_for_idling()
    assert server.connects == 4
    assert [scan.reason for scan in backend.scans] == ["catch-up", "catch-up"]
    before = watched.waits
    server.idling[0].fin()
    watched.wait_listening(before)
    assert len(backend.scans) == 2


def test_mail_while_down_hidden_by_a_deletion(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """The number of mails is as before, UIDNEXT is not."""
    turned_away(server, 1)
    server.idling[0].fin()
    mailbox.expunge(1)
    mailbox.arrive()
    assert_promise(mailbox, backend)


def test_new_uids_while_down(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """Another UIDVALIDITY makes UIDNEXT worthless, though it is the same number."""
    turned_away(server, 1)
    server.idling[0].fin()
    mailbox.expunge(1, announce=False)
    mailbox.arrive(announce=False)
    mailbox.renumber(uidvalidity=2)
    assert mailbox.uidnext == 5
    assert_promise(mailbox, backend)


def test_an_announced_mail_and_another_while_down(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """What was announced before the session ended hides nothing that came after."""
    mailbox.arrive()
    assert_promise(mailbox, backend)
    turned_away(server, 1)
    server.idling[0].fin()
    mailbox.arrive()
    assert_promise(mailbox, backend)


def test_a_server_that_does_not_tell_uidnext(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Unknown means owed: one scan at each renewal, so that no mail waits longer."""
    server.tell_uidnext = False
    mailbox.announcing = False
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        backend.wait_answered(2)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        backend.wait_answered(4)
        assert {scan.reason for scan in backend.scans} == {"catch-up"}
        assert server.connects == 1
        assert "did not announce" not in watched.text


# Servers that do not announce


def test_a_server_that_stops_announcing(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Found at the renewal; the log says so, and says when announcements come again."""
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        watched.wait_line(RENEWING)
        mailbox.announcing = False
        for _ in range(3):
            after = watched.mark()
            mailbox.arrive()
            watched.wait_line(
                "the server did not announce mail that came: idle is now renewed every 0.2s", after
            )
            assert_promise(mailbox, backend)
        mailbox.announcing = True
        after = watched.mark()
        again = "the server announces mail again: idle is renewed every 0.2s as usual"
        for _ in range(5):  # one that comes just as IDLE is ended is not announced in it
            server.wait_for_idling()
            mailbox.arrive()
            assert_promise(mailbox, backend)
            if watched.count(again, after):
                break
        watched.wait_line(again, after)
        assert_promise(mailbox, backend)
        after = watched.mark()
        watched.wait_line(RENEWING, after)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert not watched.count("as usual", after)
        assert server.connects == 1


def test_renewals_without_mail_make_no_scans(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch
) -> None:
    """Where UIDNEXT stands still nothing is owed."""
    with watch(idle_renew_seconds=0.1) as watched:
        wait_for(lambda: watched.count("idle renewing (0.1s threshold)") >= 5, 10, "five renewals")
        assert len(backend.scans) == 1
        assert server.connects == 1


def test_renewals_with_announced_mail_make_one_scan_each(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """What was announced is not found once more by UIDNEXT."""
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        for _ in range(3):
            watched.wait_line(RENEWING, watched.mark())
            watched.wait_listening(watched.waits)
            mailbox.arrive(2)
            assert_promise(mailbox, backend)
        watched.wait_line(RENEWING, watched.mark())
        watched.wait_listening(watched.waits)
        assert len(backend.scans) == 4
        assert "did not announce" not in watched.text


def test_the_intervals_of_a_server_that_does_not_announce() -> None:
    """Renewed after 5, then 2 minutes, then as before; an interval that is short stays so."""
    renewal = Renewal(1500)
    seen = [renewal.interval_seconds]
    for _ in range(3):
        renewal.unannounced()
        seen.append(renewal.interval_seconds)
    assert seen == [1500, 300, 120, 120]
    assert renewal.announced()
    assert renewal.interval_seconds == 1500
    assert not renewal.announced()
    short = Renewal(60)
    short.unannounced()
    assert short.interval_seconds == 60


def test_a_server_without_idle(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Polled on one connection, and only mail makes a scan."""
    server.capabilities_after_login = ("IMAP4rev1",)
    mailbox.announcing = False
    with watch() as watched:
        watched.wait_line("the server has no IDLE: asking every 0.2s")
        for _ in range(2):
            backend.wait_answered(len(mailbox.arrivals) + 1)
            mailbox.arrive()
            assert_promise(mailbox, backend)
        polls = len(server.connections[0].commands)
        server.wait_until(lambda: len(server.connections[0].commands) >= polls + 3)
        assert server.connects == 1
    assert [scan.reason for scan in backend.scans] == ["catch-up", "poll", "poll"]
    assert not idles(server)


def test_a_server_without_idle_goes_away(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """A dead connection is found at the next poll, and what came meanwhile is caught up."""
    server.capabilities_after_login = ("IMAP4rev1",)
    with watch() as watched:
        backend.wait_answered(1)
        tell(server.connections[0], arrive_and(mailbox, Connection.fin))
        assert_promise(mailbox, backend)
        watched.wait_line("the server closed the connection")
        assert server.connects == 2


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


# The backend's side; more of it in test_backend_trouble.py


@only_tls
def test_retry_after_as_a_date(mailbox: Mailbox, backend: JudgingBackend, watched: Watched) -> None:
    """The date is waited for, not longer, and the scan is made."""
    backend.script = [
        lambda handler: answer(503, {}, {"Retry-After": formatdate(time.time() + 4, usegmt=True)})(
            handler
        )
    ]
    mailbox.arrive()
    assert_promise(mailbox, backend, PROMPT_SECONDS + 4)
    first, second = backend.scans[1:]
    assert second.arrived - first.answered >= 2.9


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("1000000000000", "300s"),
        ("9" * 400, "300s"),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "300s"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "1s"),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "1s"),
        ("soon", "1s"),
        ("-5", "1s"),
        ("", "1s"),
    ],
)
@only_tls
def test_an_absurd_retry_after(
    mailbox: Mailbox, backend: JudgingBackend, watched: Watched, value: str, wait: str
) -> None:
    """No backend is waited for longer than five minutes, and none in the past."""
    backend.script = [answer(429, {}, {"Retry-After": value})]
    mailbox.arrive()
    line = watched.wait_line("scan failed: the backend answered 429")
    assert line.endswith(f"it is still owed, next try in {wait}")


@only_tls
def test_what_many_mailboxes_owe_is_sent_through_the_gate(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """When the backend returns one request probes it, then SCAN_CONCURRENCY are under way."""
    with contextlib.ExitStack() as stack:
        scans = Scans(quick_config(backend_url=backend.url, scan_concurrency=2))
        stack.callback(scans.close)
        many = [stack.enter_context(watch(scans=scans)) for _ in range(6)]
        for watched in many:
            watched.wait_listening()
        backend.script = [probe := Hang()]
        backend.default = hang = Hang()
        with backend.down():
            mailbox.arrive()
            many[0].wait_line("the backend is away: ")
        wait_for(lambda: len(backend.hanging) == 1, PROMPT_SECONDS, "the probe")
        assert_stays(lambda: len(backend.hanging) == 1, 0.3, "one probe under way")
        probe.release()
        wait_for(lambda: len(backend.hanging) == 3, PROMPT_SECONDS, "two requests more")
        assert_stays(lambda: len(backend.hanging) == 3, 0.3, "two requests under way")
        hang.release()
        for watched in many:
            watched.wait_line("scan-triggered", after=len(watched.lines) - 1)
            wait_for(lambda w=watched: not w.worker.scanner.owed, PROMPT_SECONDS, "nothing owed")
        assert not unscanned(mailbox, backend)
        assert server.connects == 6
    assert max(backend.concurrent_max_by_connection.values()) == 1


@only_tls
def test_the_session_is_renewed_while_the_backend_fails(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """The scan stays owed, the IMAP session lives on, and mail that comes meanwhile is covered."""
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        watched.wait_listening()
        backend.default = answer(500)
        mailbox.arrive()
        watched.wait_line("scan failed: the backend answered 500")
        after = watched.mark()
        wait_for(lambda: watched.count(RENEWING, after) >= 3, PROMPT_SECONDS, "three renewals")
        mailbox.arrive()
        backend.default = answer()
        assert_promise(mailbox, backend, PROMPT_SECONDS + 5)
        assert server.connects == 1


@only_tls
def test_mail_during_a_scan(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """A request that began before the mail came does not count for it."""
    backend.script = [hang := Hang()]
    mailbox.arrive()
    backend.wait_for(2)
    mailbox.arrive(3)
    server.idling[0].fin()
    hang.release()
    assert_promise(mailbox, backend)
    assert len(backend.scans) <= 4


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
