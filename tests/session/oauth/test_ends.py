"""Sessions whose token runs out."""

import base64
import time

import pytest

from rebreak_idle import logins
from tests.session.conftest import Watch
from tests.session.oauth.conftest import fresh_flags
from tests.support.harness import JudgingBackend, assert_promise, unscanned
from tests.support.oauth import TokenMint
from tests.support.scripted_imap import (
    GMAIL_BYE,
    OUTLOOK_BYE,
    OUTLOOK_NOT_CONNECTED,
    Connection,
    Mailbox,
    ScriptedImap,
)
from tests.support.waiting import wait_for

RAN_OUT = "the access token has run out: reconnecting with a new one"


def short_lived(monkeypatch: pytest.MonkeyPatch, mint: TokenMint, seconds: float = 2.0) -> None:
    """Tokens of so many seconds, and sessions that need not last a second to end with them."""
    mint.life_seconds = seconds
    monkeypatch.setattr(logins, "SHORTEST_SESSION_SECONDS", 0.0)
    monkeypatch.setattr(logins, "RENEWED_AFTER_SECONDS", 0.1)


def pass_seconds(seconds: float) -> None:
    """Let mail come at a pace."""
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= until, seconds + 5, "a moment")


def token_of(connection: Connection) -> str:
    return base64.b64decode(connection.answers[0]).decode().split("Bearer ")[1].rstrip("\x01")


@pytest.mark.parametrize("early", [0.0, 0.1])
def test_gmail_ends_the_session_with_its_token(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    mint: TokenMint,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    early: float,
) -> None:
    """BYE in IDLE, by the server's clock: one line, no back-off, a new token, and what came
    meanwhile is scanned.
    """
    short_lived(monkeypatch, mint)

    def expire(connection: Connection) -> None:
        wait_until = mint.ends[token_of(connection)] - early
        connection.pause(max(0.0, wait_until - time.monotonic()))
        mailbox.arrive(announce=False)
        connection.send(GMAIL_BYE)
        connection.fin()

    server.on("idling", expire, times=1)
    with watch(reconnect_initial_seconds=60.0) as watched:
        watched.wait_line(RAN_OUT)
        mint.life_seconds = 3599.0
        assert_promise(mailbox, backend)
        server.wait_until(lambda: server.connects == 2)
        assert watched.count(RAN_OUT) == 1
        assert watched.count("reconnecting in") == watched.count("provider trouble") == 0
        assert fresh_flags(backend) == [False, False]


@pytest.mark.parametrize("step", ["done", "examine"])
@pytest.mark.parametrize(
    "said", [OUTLOOK_BYE, b"%s NO Session expired\r\n", b"%s " + OUTLOOK_NOT_CONNECTED + b"\r\n"]
)
def test_outlook_ends_the_session_at_the_next_command(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    mint: TokenMint,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    said: bytes,
) -> None:
    """IDLE is renewed just after the token's end, so that the server says so at once."""
    short_lived(monkeypatch, mint)

    def invalidated(connection: Connection) -> bool | None:
        if mint.is_good(token_of(connection)):
            return None
        mailbox.arrive(announce=False)
        connection.send(said % connection.tag if b"%s" in said else said)
        if said is OUTLOOK_BYE:
            connection.fin()
        return False

    server.on(step, invalidated)
    with watch(reconnect_initial_seconds=60.0) as watched:
        watched.wait_line("idle renewing (")
        watched.wait_line(RAN_OUT)
        mint.life_seconds = 3599.0
        assert_promise(mailbox, backend)
        assert watched.count("reconnecting in") == watched.count("trouble") == 0


def test_a_server_that_does_not_mind(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    mint: TokenMint,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The session goes on after the renewal; a BYE later on is trouble like any other."""
    short_lived(monkeypatch, mint, 1.0)
    with watch() as watched:
        waits = watched.wait_listening()
        watched.wait_line("idle renewing (")
        watched.wait_listening(since=waits)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert server.connects == 1
        assert watched.count("idle renewing") == 1
        server.idling[0].bye(b"Server shutting down")
        watched.wait_line("provider trouble: the server said BYE: Server shutting down")
        assert watched.count(RAN_OUT) == 0


def test_a_bye_long_before_the_end_is_a_failure(server: ScriptedImap, watch: Watch) -> None:
    """However it is worded."""
    with watch() as watched:
        watched.wait_listening()
        server.idling[0].bye(b"Session expired, please login again.")
        watched.wait_line("reconnecting in")
        assert watched.count(RAN_OUT) == 0


def test_a_broken_connection_at_the_end_is_a_failure(
    server: ScriptedImap, mint: TokenMint, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the server says itself is expected."""
    short_lived(monkeypatch, mint, 1.0)
    server.on("done", lambda c: c.rst(), times=1, instead=True)
    with watch() as watched:
        watched.wait_line("reconnecting in")
        assert watched.count(RAN_OUT) == 0


def test_200_mails_over_ten_ends_of_tokens(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    mint: TokenMint,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every second one ended in Gmail's way, the others in Outlook's; mail comes all the time, also
    between the sessions and unannounced, and none is left unscanned.
    """
    short_lived(monkeypatch, mint, 1.0)

    def expire(connection: Connection) -> None:
        if connection.number % 2:
            return
        connection.pause(max(0.0, mint.ends[token_of(connection)] - time.monotonic()))
        connection.send(GMAIL_BYE)
        connection.fin()

    def invalidated(connection: Connection) -> bool | None:
        if mint.is_good(token_of(connection)):
            return None
        connection.send(OUTLOOK_BYE)
        connection.fin()
        return False

    server.on("idling", expire)
    server.on("done", invalidated)
    with watch(reconnect_initial_seconds=60.0) as watched:
        watched.wait_listening()
        number = 0
        while number < 200 or watched.count(RAN_OUT) < 10:
            number += 1
            mailbox.arrive(announce=number % 3 > 0)
            pass_seconds(0.05)
            assert number < 2000, watched.text
        mint.life_seconds = 3599.0
        assert_promise(mailbox, backend)
        assert not unscanned(mailbox, backend)
        assert watched.count("reconnecting in") == 0
        assert set(fresh_flags(backend)) == {False}
