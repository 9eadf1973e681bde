"""Connections that end, and servers that end IDLE by themselves."""

import itertools

import pytest

from rebreak_idle.idle_tries import SHORT_IDLES
from tests.session.conftest import Watch
from tests.session.losses.conftest import (
    EXISTS,
    Act,
    arrive_and,
    assert_announced,
    assert_at_once,
    idles,
    sending,
    tell,
)
from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap

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
