"""No access token, whole or in pieces, in what the daemon writes at debug level: whoever says it
back, and wherever.
"""

import base64
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rebreak_idle.access_token import AccessToken
from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.oauth import TokenMint
from tests.support.recording_backend import RecordingBackend, Request, _Handler, answer
from tests.support.scripted_imap import (
    GMAIL_NO,
    Connection,
    Mailbox,
    ScriptedImap,
)
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

LOGIN = "evil@example.org"
QUERY = "SELECT * FROM mail_connections WHERE is_active"


@pytest.fixture
def mint() -> TokenMint:
    return TokenMint()


@pytest.fixture
def evil(
    certificates: Certificates, backend: RecordingBackend, mint: TokenMint, database: Database
) -> Iterator[ScriptedImap]:
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as scripted:
        mint.serve(backend, scripted)
        database.add(LOGIN, imap_port=scripted.port, imap_auth="oauth2", password_encrypted=None)
        yield scripted


@pytest.fixture
def watch(run: Run) -> Callable[..., Daemon]:
    return lambda **more: run(
        MAIL_CONNECTIONS_QUERY=QUERY, LOG_LEVEL="debug", RECONNECT_MAX_SECONDS="0.2", **more
    )


def forms(mint: TokenMint) -> set[str]:
    """All tokens that were handed out, and what they look like on the line."""
    found: set[str] = set()
    for token in list(mint.made):
        sasl = f"user={LOGIN}\x01auth=Bearer {token}\x01\x01"
        bearer = f"n,a={LOGIN},\x01host=localhost\x01port=1\x01auth=Bearer {token}\x01\x01"
        found |= {base64.b64encode(text.encode()).decode() for text in (token, sasl, bearer)}
        found.add(token)
    return found


def assert_no_token(daemon: Daemon, mint: TokenMint, longest: int = 7) -> None:
    """Nothing of a token that is longer than what any word may share with it."""
    output = daemon.text + daemon.stderr
    assert "canary" not in output, daemon.text
    assert mint.made
    for form in forms(mint):
        # What stands before the token in its SASL message is no secret.
        secret = form if form in mint.made else form[60:]
        pieces = {secret[at : at + longest + 1] for at in range(len(secret) - longest - 4)}
        assert not [piece for piece in pieces if piece in output], daemon.text


def echoed(connection: Connection, token: str) -> bytes:
    """What a server knows of a token, whole and in pieces."""
    said = connection.answers[0].strip() if connection.answers else b""
    alone = base64.b64encode(token.encode())
    pieces = b" ".join([said[70:95], token[5:40].encode(), alone[30:60]])
    return b" ".join([said, alone, token.encode(), pieces, token.encode()[:20]])


def say_and_end(connection: Connection, said: bytes) -> None:
    connection.send(said)
    connection.fin()


def last(mint: TokenMint) -> str:
    return mint.made[-1]


SPOKEN: dict[str, tuple[str, Callable[[Connection, bytes], object]]] = {
    "no": ("refuse", lambda c, said: c.answer(b"NO [AUTHENTICATIONFAILED] " + said)),
    "no-unavailable": ("refuse", lambda c, said: c.answer(b"NO [UNAVAILABLE] " + said)),
    "bad": ("refuse", lambda c, said: c.answer(b"BAD " + said)),
    "bye": ("refuse", lambda c, said: c.bye(said)),
    "garbage": ("refuse", lambda c, said: c.send(b"!" + said + b"\r\n")),
    "status": (
        "refuse",
        lambda c, said: (
            c.challenge(b'{"status":"' + said.split()[1][:30] + b'"}'),
            c.answer(GMAIL_NO),
        ),
    ),
    "long": ("refuse", lambda c, said: c.answer(b"NO " + b" ".join([said] * 9))),
    "examine": ("examine", lambda c, said: c.answer(b"NO " + said)),
    "long-examine": ("examine", lambda c, said: c.answer(b"NO x" + b" ".join([said] * 9))),
    "idle": ("idle", lambda c, said: c.answer(b"BAD " + said)),
    "bye-in-idle": ("idle", lambda c, said: c.send(b"+ go\r\n* BYE " + said + b"\r\n")),
    "unreadable-in-idle": (
        "idle",
        lambda c, said: say_and_end(c, b"+ go\r\n" + said + b"\r\n"),
    ),
}


@pytest.mark.parametrize("kind", SPOKEN)
@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_tokens_that_a_server_says_back(
    watch: Callable[..., Daemon], evil: ScriptedImap, mint: TokenMint, kind: str, mechanism: str
) -> None:
    """At any step, and in the answer to SIGUSR1."""
    step, say = SPOKEN[kind]
    evil.capabilities_before_login = ("IMAP4rev1", f"AUTH={mechanism}")

    def act(connection: Connection) -> object:
        return say(connection, echoed(connection, last(mint)))

    if step == "refuse":
        evil.takes_token = lambda _login, _token: False
        evil.refuse_token = act
    else:
        evil.on(step, act, instead=True)
    with watch(IMAP_TIMEOUT_SECONDS=1) as daemon:
        daemon.wait_line(re.compile(r"reconnecting in|parked:|asking every"))
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("[idle/db] states")
        assert_no_token(daemon, mint)
        command_line = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
        assert b"canary" not in command_line


def test_tokens_that_a_greeting_says_back(
    watch: Callable[..., Daemon], evil: ScriptedImap, mint: TokenMint
) -> None:
    """A server that remembers the last session's."""
    with watch() as daemon:
        evil.wait_for_idling()
        first = evil.connections[0]
        evil.on("greeting", lambda c: c.bye(echoed(first, last(mint))), times=4, instead=True)
        first.fin()
        evil.wait_for_connections(6)
        assert_no_token(daemon, mint)


def scan_error(status: int, mint: TokenMint, repeat: int) -> Callable[[_Handler], None]:
    return lambda handler: answer(status, " ".join([last(mint)] * repeat).encode())(handler)


@pytest.mark.parametrize("status", [400, 500, 502, 503])
@pytest.mark.parametrize("repeat", [1, 12])
def test_tokens_that_a_scan_s_answer_says_back(
    watch: Callable[..., Daemon],
    evil: ScriptedImap,
    backend: RecordingBackend,
    mint: TokenMint,
    status: int,
    repeat: int,
) -> None:
    """In the mailbox's line as in the backend's."""
    backend.script = [scan_error(status, mint, repeat)] * 3
    with watch() as daemon:
        backend.wait_answered(4, 30)
        daemon.wait_line(re.compile("scan failed|the backend is away"))
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("[idle/db] states")
        assert_no_token(daemon, mint)


@pytest.mark.parametrize("status", [200, 401, 404, 409, 410, 429, 500, 503])
@pytest.mark.parametrize("fresh", [True, False])
def test_tokens_that_the_backend_says_back(
    watch: Callable[..., Daemon],
    evil: ScriptedImap,
    backend: RecordingBackend,
    mint: TokenMint,
    status: int,
    fresh: bool,
) -> None:
    """In what it answers to the next request, after a refusal and after a token's end."""
    mint.life_seconds = 299  # it is not kept
    hand_out = mint.behaviour

    def behaviour(request: Request) -> Callable[[_Handler], None]:
        if len(backend.token_requests) in (2, 3):
            said = f"{last(mint)} {base64.b64encode(last(mint).encode()).decode()}"
            return answer(status, {"error": said, "token": said})
        return hand_out(request)

    backend.tokens = behaviour
    if fresh:
        evil.takes_token = lambda _login, _token: len(backend.token_requests) > 3
    with watch(AUTH_RETRY_SECONDS="0.2") as daemon:
        if not fresh:
            evil.wait_for_idling()
            evil.idling[0].fin()
        wait_for(lambda: len(backend.token_requests) >= 4, 20, "four requests")
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("[idle/db] states")
        assert_no_token(daemon, mint)


def test_a_fault_of_ours_shows_none(evil: ScriptedImap, mint: TokenMint) -> None:
    """Neither the repr of a token nor its text in a traceback has it."""
    token = AccessToken(mint.make(), 1.0, 1.0)
    assert "canary" not in repr(token) + str(token)
    assert token.hide(f"ValueError: {token.value!r} at {token.value[3:30]}") == (
        "ValueError: '***' at ***"
    )


@pytest.mark.parametrize("cut", range(9))
def test_no_base64_shows_a_token(mint: TokenMint, cut: int) -> None:
    """Whatever stands before and behind it, wherever the text is cut."""
    value = mint.make()
    token = AccessToken(value, 1.0, 1.0)
    for before in (b"", b"a", b"ab", b"abc", b"user=x\x01auth=Bearer "):
        for behind in (b"", b"\x01\x01", b"123"):
            said = base64.b64encode(before + value.encode() + behind).decode()
            hidden = token.hide(said[: len(said) - 40 - cut])
            assert hidden.count("***") == 1
            around = len(base64.b64encode(before)) + 3
            assert len(hidden) <= around + 2
