"""What IMAP servers do to their clients."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.support.scripted_imap import Connection, ScriptedImap

GARBAGE = (
    b"+ still here\r\n",
    b"\r\n",
    b"* OK Still here\r\n",
    b"* 5 FETCH (FLAGS (((\\Seen)\r\n",
    b"* 1 FETCH {2000000000}\r\n",
    b"\xff\xfe\x00 what \x80\r\n",
    b"* 99999999999999999999 EXISTS\r\n",
    b"* exists\r\n",
    b"A77 OK nobody asked\r\n",
)
IDLE_ENDINGS = (b"OK that is enough", b"NO not now", b"BAD no more")
GAPS = ("examine", "idle", "done")


# A held-back answer or a drip needs a step that every session goes through.
ALL_GO_THROUGH = ("greeting", "capability", "login", "examine", "idle", "done", "logout")


def _end_idle(connection: Connection, rng: random.Random) -> None:
    connection.end_idle(rng.choice(IDLE_ENDINGS))


def _garbage(connection: Connection, rng: random.Random) -> None:
    connection.send(rng.choice(GARBAGE))


def _split_announcement(connection: Connection, rng: random.Random) -> None:
    """A mail whose announcement comes in pieces, of TLS records or of segments."""
    if mailbox := connection.mailbox:
        mailbox.arrive(announce=False)
        send = rng.choice((connection.send_split, connection.send_segments))
        send(b"* %d EXISTS\r\n" % mailbox.exists, rng.choice((1, 2, 5)), 0.005)


def _hold_an_answer(server: ScriptedImap, rng: random.Random) -> None:
    server.on(rng.choice(("tls-handshake", *ALL_GO_THROUGH)), Connection.silence, times=1)


def _drip_an_answer(server: ScriptedImap, rng: random.Random) -> None:
    server.on(rng.choice(ALL_GO_THROUGH), lambda c: c.drip(b"* OK wait\r\n", 0.1), times=1)


def _slow_greeting(server: ScriptedImap, rng: random.Random) -> None:
    seconds = rng.choice((1.0, 3.0, 6.0))
    server.on("greeting", lambda c: _only(c.pause(seconds)), times=3)


def _mail_in_a_gap(server: ScriptedImap, rng: random.Random) -> None:
    """A mail just before or after a command is answered, in one segment with that or not."""
    step, when = rng.choice(GAPS), rng.choice(("before", "after"))
    server.on(step, _mail_arrives, times=1, glued=rng.random() < 0.5, when=when)


def _only(_: object) -> None:
    """For actions whose result must not count."""


def _mail_arrives(connection: Connection) -> None:
    if connection.mailbox:
        connection.mailbox.arrive()


# To a session that idles, and to a server, which does it to the next session.
SESSION_FAULTS: dict[str, Callable[[Connection, random.Random], object]] = {
    "FIN": lambda c, _: c.end("fin"),
    "FIN without close_notify": lambda c, _: c.end("truncate"),
    "close_notify": lambda c, _: c.end("close_notify"),
    "RST": lambda c, _: c.end("rst"),
    "silence": lambda c, _: c.end("silence"),
    "BYE": lambda c, _: c.bye(b"Autologout; idle for too long"),
    "IDLE ended": _end_idle,
    "garbage": _garbage,
    "split line": _split_announcement,
}
SERVER_FAULTS: dict[str, Callable[[ScriptedImap, random.Random], object]] = {
    "no answer": _hold_an_answer,
    "drip": _drip_an_answer,
    "slow greeting": _slow_greeting,
    "mail in a gap": _mail_in_a_gap,
}
