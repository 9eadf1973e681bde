"""Announcements where they are not expected, in pieces, and among lines of all kinds."""

from collections.abc import Callable

import pytest

from tests.session.conftest import Watch
from tests.session.losses.conftest import (
    EVENT,
    EXISTS,
    RENEWING,
    SOON_SECONDS,
    arrive_and,
    assert_announced,
    assert_at_once,
    idle_again,
    only_tls,
    sending,
    tell,
)
from tests.support.harness import (
    PROMPT_SECONDS,
    JudgingBackend,
    Watched,
    assert_promise,
    assert_stays,
)
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.waiting import wait_for

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
