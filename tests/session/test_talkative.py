"""Servers that say very much before they answer: read to the end, and their sessions stay."""

import ssl
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.waiting import wait_for

MESSAGES = 60_000


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(exists=MESSAGES)


def idles(server: ScriptedImap) -> list[Connection]:
    """The connections on which IDLE was begun, each as often as it was."""
    return [
        connection
        for connection in server.connections
        for command in connection.commands
        if command.line.upper().endswith(b" IDLE\r\n")
    ]


def one_by_one() -> bytes:
    first = MESSAGES - 30_000
    return b"".join(b"* %d EXISTS\r\n" % number for number in range(first + 1, MESSAGES + 1))


def coming_and_going() -> bytes:
    return b"* %d EXISTS\r\n* 1 EXPUNGE\r\n" % (MESSAGES + 1) * 20_000


def lowered() -> bytes:
    return b"".join(b"* %d EXISTS\r\n" % number for number in range(MESSAGES + 5000, MESSAGES, -1))


def keep_alives() -> bytes:
    return b"* OK Still looking through your mail\r\n" * 12_000


def unasked() -> bytes:
    return b"* NO The disk is nearly full\r\n* X-PROGRESS 30\r\n* LIST () NIL Junk\r\n" * 6_000


SAYINGS = [
    *((one_by_one, step) for step in ("examine", "idle", "done")),
    *((coming_and_going, step) for step in ("examine", "idle", "done")),
    *((lowered, step) for step in ("examine", "idle", "done")),
    *((keep_alives, step) for step in ("login", "id", "examine", "idle", "done")),
    *((unasked, step) for step in ("capability", "login", "examine", "idle", "done")),
]


@pytest.mark.parametrize(("say", "step"), SAYINGS)
def test_much_before_an_answer(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    say: Callable[[], bytes],
    step: str,
) -> None:
    """Hundreds of kilobytes cost no session, once at each step; mail is scanned."""
    said = say()
    server.capability_code_in = ()
    server.on(step, lambda c: c.send(said), times=1)
    with Watched(
        server, backend, context, idle_renew_seconds=1.0, imap_timeout_seconds=20.0
    ) as watched:
        wait_for(lambda: len(idles(server)) >= 3, 30, "three times in IDLE")
        mailbox.arrive()
        assert_promise(mailbox, backend, 20)
        assert server.connects == 1
        assert "trouble" not in watched.text
        assert "did not announce" not in watched.text


def test_mail_among_thousands_that_come_and_go(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """What is said of it before DONE's answer counts, though more was said than is kept."""

    def arrive(connection: Connection) -> None:
        mailbox.arrive(announce=False)
        connection.send(coming_and_going())

    server.on("done", arrive, times=1)
    with Watched(server, backend, context, idle_renew_seconds=1.0, imap_timeout_seconds=20.0):
        wait_for(lambda: mailbox.arrivals, 10, "the renewal")
        assert_promise(mailbox, backend, 20)
        wait_for(lambda: len(idles(server)) >= 3, 30, "three times in IDLE")
        assert server.connects == 1


def test_an_answer_that_is_very_long_is_read_slowly(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Beyond a megabyte the server gets half a megabyte a second, which is not its own time."""
    server.on("examine", b"* OK Still here\r\n" * 120_000, times=1)
    with Watched(server, backend, context, imap_timeout_seconds=1.0):
        server.wait_for_idling(seconds=30)
        assert server.connects == 1
        received = [command.at for command in server.connections[0].commands]
        assert max(b - a for a, b in pairwise(received)) > 1.5
        mailbox.arrive()
        assert_promise(mailbox, backend)
