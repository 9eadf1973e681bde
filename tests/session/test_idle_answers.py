"""What servers answer to IDLE and to DONE that RFC 2177 does not know: the real worker against each
of them, over real sockets.
"""

import ssl

import pytest

from tests.support.harness import JudgingBackend, Watched, assert_promise, assert_stays
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.waiting import wait_for

UNANSWERED = "the server does not answer IDLE: asking every 0.2s"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(exists=5)


def commands(server: ScriptedImap, name: bytes) -> int:
    """How often a command came."""
    got = [command.line for each in server.connections for command in each.commands]
    return sum(line.split(b" ", 1)[-1].upper().startswith(name) for line in got)


# IDLE


@pytest.mark.parametrize(
    "said",
    [b"", b"* OK Still here\r\n", b"A9 OK Whose is this\r\n", b"idling\r\n", b"* 5 EXISTS\r\n"],
    ids=["nothing", "an untagged ok", "another's tag", "no response at all", "an announcement"],
)
def test_a_server_that_never_answers_idle_is_polled(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    said: bytes,
) -> None:
    """After two sessions that failed at it, with one line; mail is found by asking."""
    server.on("idle", said, instead=True)
    with Watched(server, backend, context, imap_timeout_seconds=0.5) as watched:
        watched.wait_line(UNANSWERED)
        for _ in range(2):
            mailbox.arrive(announce=False)
            assert_promise(mailbox, backend)
        assert_stays(lambda: server.connects == 3, 1.0, "the third connection")
        assert commands(server, b"IDLE") == 2
        assert watched.count(UNANSWERED) == 1


@pytest.mark.parametrize("answer", [b"OK", b"OK IDLE completed", b"NO Not now", b"BAD What"])
def test_a_server_that_answers_idle_at_once_is_polled(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    answer: bytes,
) -> None:
    """A tagged answer in place of the continuation is an answer: nothing has to be lost first."""
    server.on("idle", lambda c: c.answer(answer), instead=True)
    with Watched(server, backend, context) as watched:
        watched.wait_line("the server has no IDLE: asking every 0.2s")
        mailbox.arrive(announce=False)
        assert_promise(mailbox, backend)
        assert server.connects == 1
        assert commands(server, b"IDLE") == 1


def test_idle_is_tried_again_after_a_time_of_polling(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """A server that answers IDLE again is listened to; one that does not costs one session."""
    server.on("idle", b"", instead=True, times=3)
    settings = {"imap_timeout_seconds": 0.5, "idle_renew_seconds": 0.6}
    with Watched(server, backend, context, **settings) as watched:
        server.wait_for_idling()
        assert server.connects == 4
        assert commands(server, b"IDLE") == 4
        watched.wait_listening()
        mailbox.arrive()
        assert_promise(mailbox, backend)


@pytest.mark.parametrize("how", ["fin", "rst", "bye"])
def test_a_connection_that_is_cut_before_idle_begins_says_nothing_of_idle(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    how: str,
) -> None:
    """However often: it reconnects, and listens as soon as it may."""
    server.on("idle", lambda c: c.bye() if how == "bye" else c.end(how), times=4, instead=True)
    with Watched(server, backend, context) as watched:
        server.wait_for_idling()
        watched.wait_listening()
        assert server.connects == 5
        assert "asking every" not in watched.text
        mailbox.arrive()
        assert_promise(mailbox, backend)


# DONE


@pytest.mark.parametrize("answer", [b"NO Not done", b"BAD What", b"NO", b"BAD [CLIENTBUG] Done"])
def test_a_refused_done_ends_idle_all_the_same(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    answer: bytes,
) -> None:
    """A tagged answer of any kind ends IDLE (RFC 2177): the session goes on, a scan is owed."""
    server.on("done", lambda c: c.end_idle(answer), instead=True)
    with Watched(server, backend, context, idle_renew_seconds=0.5) as watched:
        wait_for(lambda: commands(server, b"IDLE") >= 4, 10, "four times in IDLE")
        assert len(backend.scans) >= 3
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert server.connects == 1
        assert "trouble" not in watched.text
        assert "told of mail only" not in watched.text
        idles, scans = commands(server, b"IDLE"), len(backend.scans)
        assert_stays(
            lambda: commands(server, b"IDLE") <= idles + 3 and len(backend.scans) <= scans + 4,
            1.0,
            "a renewal each half second",
        )


def test_a_connection_that_ends_at_done_is_no_refusal(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Nor is a BYE: the session is lost, and the next one catches up."""

    def end(connection: Connection) -> None:
        mailbox.arrive(announce=False)
        connection.bye()

    server.on("done", end, instead=True, times=1)
    with Watched(server, backend, context, idle_renew_seconds=0.5) as watched:
        watched.wait_line("BYE")
        assert_promise(mailbox, backend)
        server.wait_for_idling()
        assert server.connects == 2


# Repetition


def test_that_idle_is_ended_at_once_is_said_once_an_hour(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Not at each poll interval; mail is found all the same."""
    server.after("idle", lambda c: c.end_idle(b"OK Enough"))
    with Watched(server, backend, context) as watched:
        wait_for(lambda: commands(server, b"IDLE") >= 8, 20, "eight times in IDLE")
        assert watched.count("ends IDLE at once, again and again") == 1
        mailbox.arrive(announce=False)
        assert_promise(mailbox, backend)
