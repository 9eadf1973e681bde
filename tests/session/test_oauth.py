"""Logins by access token, with a real worker, a real backend and servers that behave like Gmail's
and Outlook's.
"""

import base64
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from rebreak_idle import logins, recovery
from rebreak_idle.imap.connector import tls_context
from rebreak_idle.status import State
from tests.support.harness import (
    JudgingBackend,
    Watched,
    assert_promise,
    assert_stays,
    unscanned,
)
from tests.support.oauth import TokenMint
from tests.support.recording_backend import (
    Behaviour,
    Hang,
    answer,
    empty,
    html,
    redirect,
    reset,
)
from tests.support.rig import ADMIN_SECRET
from tests.support.scripted_imap import (
    GMAIL_BYE,
    GMAIL_ERROR,
    GMAIL_NO,
    OUTLOOK_BAD,
    OUTLOOK_BYE,
    OUTLOOK_NO,
    OUTLOOK_NOT_CONNECTED,
    Connection,
    Mailbox,
    ScriptedImap,
)
from tests.support.servers import Certificates
from tests.support.waiting import wait_for

Watch = Callable[..., Watched]
LOGIN = "gina@example.org"
RAN_OUT = "the access token has run out: reconnecting with a new one"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def mint() -> TokenMint:
    return TokenMint()


@pytest.fixture
def backend() -> Iterator[JudgingBackend]:
    with JudgingBackend() as recording:
        yield recording


@pytest.fixture
def server(
    certificates: Certificates, mailbox: Mailbox, mint: TokenMint, backend: JudgingBackend
) -> Iterator[ScriptedImap]:
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as scripted:
        mint.serve(backend, scripted)
        yield scripted


@pytest.fixture
def context(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    return tls_context()


@pytest.fixture
def watch(server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext) -> Watch:
    """Makes a watched mailbox, to be entered with `with`; keywords as `Watched` has them."""
    return lambda **options: Watched(
        server, backend, context, **{"login": LOGIN, "oauth2": True, **options}
    )


def fresh_flags(backend: JudgingBackend) -> list[bool]:
    return [request.body["fresh"] for request in backend.token_requests]


def logins_of(server: ScriptedImap) -> list[bytes]:
    """The login commands that came, without their tags."""
    commands = [each.line for connection in server.connections for each in connection.commands]
    return [line.split(b" ", 1)[1] for line in commands if b"AUTHENTICATE" in line]


# The login


def test_the_request_and_the_login_by_xoauth2(
    server: ScriptedImap, backend: JudgingBackend, mint: TokenMint, watch: Watch
) -> None:
    """The backend is asked as the contract says, and the token goes out as Google and Microsoft
    have it.
    """
    with watch() as watched:
        watched.wait_listening()
        (request,) = backend.token_requests
        assert request.headers["x-admin-secret"] == ADMIN_SECRET
        assert request.headers["content-type"] == "application/json"
        assert request.body == {
            "connectionId": watched.row.id,
            "userId": watched.row.user_id,
            "fresh": False,
        }
        (token,) = mint.ends
        (said,) = server.connections[0].answers
        assert base64.b64decode(said) == f"user={LOGIN}\x01auth=Bearer {token}\x01\x01".encode()
        assert logins_of(server) == [b"AUTHENTICATE XOAUTH2\r\n"]


def test_the_login_by_oauthbearer(server: ScriptedImap, mint: TokenMint, watch: Watch) -> None:
    """Where XOAUTH2 is not offered; commas and equals signs in the name are escaped (RFC 5801)."""
    server.capabilities_before_login = ("IMAP4rev1", "AUTH=OAUTHBEARER")
    with watch(login="a=b,c@example.org") as watched:
        watched.wait_listening()
        (token,) = mint.ends
        (said,) = server.connections[0].answers
        assert (
            base64.b64decode(said)
            == (
                f"n,a=a=3Db=2Cc@example.org,\x01host={server.host}\x01port={server.port}\x01"
                f"auth=Bearer {token}\x01\x01"
            ).encode()
        )


def test_xoauth2_goes_first(server: ScriptedImap, watch: Watch) -> None:
    """Of both mechanisms the one that all providers have is taken."""
    server.capabilities_before_login = ("IMAP4rev1", "AUTH=OAUTHBEARER", "AUTH=XOAUTH2")
    with watch() as watched:
        watched.wait_listening()
        assert logins_of(server) == [b"AUTHENTICATE XOAUTH2\r\n"]


def test_a_server_that_takes_no_token(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch
) -> None:
    """It is the operator's move; no other token is asked for, and no password is tried."""
    server.capabilities_before_login = ("IMAP4rev1", "AUTH=PLAIN")
    with watch() as watched:
        line = watched.wait_line("parked:")
        assert "takes no access token here" in line
        assert "(the operator must act)" in line
        assert fresh_flags(backend) == [False]
        assert watched.worker.state is State.PARKED


def test_the_user_name_of_the_backend(server: ScriptedImap, mint: TokenMint, watch: Watch) -> None:
    """It goes before that of the row."""
    mint.more = {"username": "shared@example.org"}
    with watch() as watched:
        watched.wait_listening()
        assert server.connections[0].login == "shared@example.org"


@pytest.mark.parametrize("name", ["a\x01auth=Bearer x", "a\r\nA1 LOGOUT", 7, ["a"]])
def test_a_user_name_that_would_break_out(
    server: ScriptedImap, mint: TokenMint, watch: Watch, name: object
) -> None:
    """The backend's is not used at all, and nothing is sent to the server."""
    mint.more = {"username": name}
    with watch() as watched:
        watched.wait_line("a user name that cannot be sent")
        assert server.connects == 0


def test_a_user_name_of_the_row_that_would_break_out(server: ScriptedImap, watch: Watch) -> None:
    """It parks the row."""
    with watch(login="a\x01auth=Bearer x") as watched:
        watched.wait_line("a control character: fix the row (the operator must act) — parked")
        assert logins_of(server) == []


# What is kept


def test_a_token_is_used_again_while_it_has_five_minutes(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch
) -> None:
    """A reconnect costs no request."""
    with watch() as watched:
        waits = watched.wait_listening()
        server.idling[0].fin()
        watched.wait_listening(since=waits)
        assert len(backend.token_requests) == 1
        assert server.connections[0].answers == server.connections[1].answers


@pytest.mark.parametrize("life", [299, None, "soon"])
def test_a_token_with_less_or_without_an_end_is_not_kept(
    server: ScriptedImap, backend: JudgingBackend, mint: TokenMint, watch: Watch, life: object
) -> None:
    """The next login asks for another."""
    mint.more = {"expiresIn": life}
    with watch() as watched:
        waits = watched.wait_listening()
        server.idling[0].fin()
        watched.wait_listening(since=waits)
        assert fresh_flags(backend) == [False, False]


# Tokens that are refused


@pytest.mark.parametrize(
    ("mechanism", "error_answer"), [("XOAUTH2", b"\r\n"), ("OAUTHBEARER", b"AQ==\r\n")]
)
def test_gmail_refuses_a_token(
    server: ScriptedImap,
    backend: JudgingBackend,
    mint: TokenMint,
    watch: Watch,
    mechanism: str,
    error_answer: bytes,
) -> None:
    """The error challenge is answered as the mechanism says, its status is shown, a fresh token is
    tried once at once, and then the user must act.
    """
    server.capabilities_before_login = ("IMAP4rev1", f"AUTH={mechanism}")
    server.takes_token = lambda _login, _token: False
    with watch() as watched:
        line = watched.wait_line("the user must act) — parked")
        said = "the server refused the access token (status 400): "
        assert said + "[AUTHENTICATIONFAILED] Invalid credentials (Failure)" in line
        assert watched.count(said) == 2
        assert watched.count("— trying once with a new one") == 1
        assert watched.count("reconnecting") == 0
        assert [connection.answers[1] for connection in server.connections] == [error_answer] * 2
        assert server.connections[0].answers[0] != server.connections[1].answers[0]
        assert fresh_flags(backend) == [False, True]


@pytest.mark.parametrize("said", [OUTLOOK_NO, OUTLOOK_BAD, b"NO nobody knows this", b"NO"])
def test_outlook_refuses_a_token(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch, said: bytes
) -> None:
    """Without a challenge; whatever the words, it is the token's trouble."""
    server.refuse_token = lambda c: c.answer(said)
    server.takes_token = lambda _login, _token: False
    with watch() as watched:
        assert "the server refused the access token: " in watched.wait_line(
            "the user must act) — parked"
        )
        assert fresh_flags(backend) == [False, True]


@pytest.mark.parametrize("how", ["gmail", "outlook"])
def test_a_fresh_token_helps(
    server: ScriptedImap, backend: JudgingBackend, mint: TokenMint, watch: Watch, how: str
) -> None:
    """A token that was revoked while it was kept costs one login more."""
    if how == "outlook":
        server.refuse_token = lambda c: c.answer(OUTLOOK_NO)
    with watch() as watched:
        waits = watched.wait_listening()
        mint.revoke_all()
        server.idling[0].fin()
        watched.wait_listening(since=waits)
        assert fresh_flags(backend) == [False, True]
        assert watched.count("parked") == 0
        # The next one that is refused is asked for anew as well.
        waits = watched.wait_listening()
        mint.revoke_all()
        server.idling[0].fin()
        watched.wait_listening(since=waits)
        assert fresh_flags(backend) == [False, True, True]


def test_a_parked_mailbox_begins_with_a_token_that_is_not_fresh(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch
) -> None:
    """When its wait is over it is tried in the same two steps."""
    server.takes_token = lambda _login, _token: False
    with watch(auth_retry_seconds=0.2) as watched:
        wait_for(lambda: len(backend.token_requests) >= 4, 10, "the second try")
        assert fresh_flags(backend)[:4] == [False, True, False, True]
        assert watched.count("parked: next try when the row changes, or in 0.2s") == 1


@pytest.mark.parametrize(
    ("challenge", "shown"),
    [
        (b'{"status":"invalid_token"}', "(status invalid_token)"),
        (b'{"status":401}', "(status 401)"),
        (b"{}", "(status unknown)"),
        (b"no json \xff", "(status unknown)"),
        (b'{"status":"' + b"x" * 5000 + b'"}', "(status unknown)"),
        (b'{"status":"a\\n[idle/x]"}', "(status unknown)"),
        (b"[" * 5000, "(status unknown)"),
    ],
)
def test_what_the_challenge_says(
    server: ScriptedImap, watch: Watch, challenge: bytes, shown: str
) -> None:
    """Its status, where it is one; nothing in it can break out of the line."""
    server.takes_token = lambda _login, _token: False

    def refuse(connection: Connection) -> bool:
        connection.challenge(challenge)
        return connection.answer(GMAIL_NO)

    server.refuse_token = refuse
    with watch() as watched:
        assert shown in watched.wait_line("the user must act) — parked")


@pytest.mark.parametrize("end", ["fin", "rst"])
def test_a_challenge_without_its_no_is_a_refusal(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch, end: str
) -> None:
    """A server that says the error and hangs up has refused the token."""
    server.takes_token = lambda _login, _token: False

    def refuse(connection: Connection) -> None:
        connection.challenge(GMAIL_ERROR)
        connection.end(end)

    server.refuse_token = refuse
    with watch() as watched:
        watched.wait_line("refused the access token (status 400) (the user must act) — parked")
        assert fresh_flags(backend) == [False, True]


def test_trouble_of_the_provider_is_no_refusal(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch
) -> None:
    """Neither words that mean it nor a status of 5xx cost a fresh token, and nothing is parked."""

    def internal(connection: Connection) -> bool:
        connection.challenge(b'{"status":"503"}')
        return connection.answer(OUTLOOK_NO)

    refusals = iter([internal, lambda c: c.answer(b"NO [UNAVAILABLE] Later")])
    server.on("login", lambda c: setattr(server, "refuse_token", next(refusals)), times=2)
    good = server.takes_token
    server.takes_token = lambda login, token: server.connects > 2 and good(login, token)
    with watch() as watched:
        watched.wait_listening()
        assert watched.count("provider trouble: the server refuse") >= 1
        assert fresh_flags(backend) == [False]


def test_a_server_that_asks_without_end(server: ScriptedImap, watch: Watch) -> None:
    """It is given up after three questions, and has said with the second that it refuses."""

    def ask(connection: Connection) -> None:
        while True:
            connection.challenge(b"{}")

    server.on("login", ask, times=1, instead=True)
    with watch() as watched:
        watched.wait_line("refused the access token (status unknown) — trying once with a new one")
        watched.wait_listening()


# The end of a token


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


# Outlook's "authenticated but not connected"


def test_not_connected_may_pass(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch
) -> None:
    """It is the provider's trouble at first."""
    server.on("examine", lambda c: c.answer(OUTLOOK_NOT_CONNECTED), times=3)
    with watch() as watched:
        watched.wait_listening()
        assert watched.count("provider trouble: the server answered 'BAD User is auth") == 1
        assert watched.count("parked") == 0
        assert fresh_flags(backend) == [False]


@pytest.mark.parametrize("oauth2", [True, False])
def test_not_connected_that_stays_is_the_operator_s_move(
    server: ScriptedImap, watch: Watch, oauth2: bool
) -> None:
    """It parks the mailbox at the sixth time, for longer each time, and until INBOX opens."""
    server.on("examine", lambda c: c.answer(OUTLOOK_NOT_CONNECTED), times=8)
    if not oauth2:
        server.capabilities_before_login = ("IMAP4rev1",)
        server.users = {LOGIN: "secret"}
    with watch(oauth2=oauth2, auth_retry_seconds=0.2) as watched:
        line = watched.wait_line("— parked: next try when the row changes, or in 0.2s")
        assert "authenticated but not connected" in line
        assert "(the operator must act)" in line
        assert server.connects == recovery.NOT_CONNECTED_TRIES
        watched.wait_listening()


# The backend's answers


UNAVAILABLE: dict[str, tuple[Behaviour, str]] = {
    "429": (answer(429, {"error": "slow"}), "429 Too Many Requests"),
    "500": (html(500), "500 Internal Server Error"),
    "503": (answer(503, b"later"), "503 Service Unavailable"),
    "302": (redirect("http://127.0.0.1:1/"), "302 Found"),
    "400": (answer(400, {"error": "x"}), "400 Bad Request"),
    "409 without error": (answer(409, {"message": "x"}), "409 Conflict"),
    "204": (empty(204), "204 without an access token"),
    "200 without": (answer(200, {"expiresIn": 5}), "200 without an access token"),
    "200 empty": (answer(200, {"accessToken": "", "expiresIn": 5}), "without an access token"),
    "200 null": (answer(200, {"accessToken": None}), "without an access token"),
    "200 blank": (answer(200, {"accessToken": "a b"}), "without an access token"),
    "200 break": (answer(200, {"accessToken": "a\x01b"}), "without an access token"),
    "200 list": (answer(200, ["token"]), "without an access token"),
    "200 html": (html(200), "without an access token"),
    "200 over": (answer(200, {"accessToken": "abc", "expiresIn": 0}), "that has run out"),
    "torn": (reset, "broke off"),
}


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_trouble_at_the_backend_backs_off(
    server: ScriptedImap, mint: TokenMint, watch: Watch, name: str
) -> None:
    """No login is tried, and the mailbox is not parked."""
    behaviour, said = UNAVAILABLE[name]
    mint.problems = [behaviour]
    with watch() as watched:
        watched.wait_listening()
        assert watched.count(said) == 1
        assert watched.count("reconnecting in") == 1
        assert watched.count("parked") == 0
        assert server.connects == 1


def test_retry_after_is_kept(
    backend: JudgingBackend, server: ScriptedImap, mint: TokenMint, watch: Watch
) -> None:
    """Where it is longer than the back-off."""
    mint.problems = [answer(429, {"error": "slow"}, {"Retry-After": "1"})]
    with watch() as watched:
        watched.wait_line("reconnecting in 1s (attempt 2)")
        watched.wait_listening()
        first, second = backend.token_requests
        assert second.arrived - (first.answered or 0.0) >= 1.0


def test_a_time_out_backs_off(
    backend: JudgingBackend, server: ScriptedImap, mint: TokenMint, watch: Watch
) -> None:
    """A request that hangs is given up within SCAN_TIMEOUT_SECONDS."""
    mint.problems = [Hang()]
    with watch(scan_timeout_seconds=0.5) as watched:
        watched.wait_line("the backend did not answer within 0.5s")
        watched.wait_listening()


PARKED: dict[str, tuple[Behaviour, str, str]] = {
    "410": (answer(410, {"error": "invalid_grant"}), "user", "anew (invalid_grant)"),
    "410 bare": (empty(410), "user", "consent is needed anew"),
    "404": (answer(404, {"error": "no such id"}), "operator", "404 Not Found to the request"),
    "409": (answer(409, {"error": {"code": 7}}), "operator", '({"code": 7})'),
    "422": (answer(422, {"error": "no token"}), "operator", "(no token)"),
}


@pytest.mark.parametrize("name", PARKED)
def test_what_parks(
    server: ScriptedImap, backend: JudgingBackend, mint: TokenMint, watch: Watch, name: str
) -> None:
    """With who must act; no login is tried, and it is tried again after AUTH_RETRY_SECONDS."""
    behaviour, who, said = PARKED[name]
    mint.problems = [behaviour]
    with watch(auth_retry_seconds=0.3) as watched:
        line = watched.wait_line("— parked: next try when the row changes, or in 0.3s")
        assert said in line
        assert f"(the {who} must act)" in line
        watched.wait_listening()
        assert server.connects == 1
        assert fresh_flags(backend) == [False, False]


OPERATOR: dict[str, tuple[Behaviour, str]] = {
    "401": (answer(401, {"error": "no"}), "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong"),
    "403": (empty(403), "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong"),
    "404 html": (html(404), "it has no /api/mail/access-token, see ACCESS_TOKEN_PATH"),
    "404 bare": (empty(404), "it has no /api/mail/access-token, see ACCESS_TOKEN_PATH"),
    "405": (answer(405, {"error": "no"}), "it has no /api/mail/access-token, see ACCESS_TOKEN"),
}


@pytest.mark.parametrize("name", OPERATOR)
def test_what_is_wrong_for_all(
    server: ScriptedImap, mint: TokenMint, watch: Watch, name: str
) -> None:
    """One line of the backend's, none of the mailbox's, and one when it is well again."""
    behaviour, said = OPERATOR[name]
    mint.problems = [behaviour] * 3
    with watch() as watched:
        watched.wait_listening()
        line = watched.wait_line("[idle/backend] no mailbox gets an access token: ")
        assert said in line
        assert "(the operator must act) — one request at a time tries again" in line
        assert watched.count("no mailbox gets an access token") == 1
        assert watched.count("the backend answers requests for access tokens again") == 1
        assert watched.count("reconnecting") == watched.count("parked") == 0


def test_a_backend_that_is_away(
    server: ScriptedImap, backend: JudgingBackend, mint: TokenMint, watch: Watch
) -> None:
    """One line; the session that runs goes on."""
    with watch() as watched:
        watched.wait_listening()
        mint.revoke_all()
        with backend.down(), watch() as other:
            other.wait_line("[idle/backend] no mailbox gets an access token: the backend at ")
            assert_stays(lambda: server.connects == 1, 0.3, "no login without a token")
            assert server.connections[0].idling
            assert other.count("reconnecting") == 0
            backend.accept()
            other.wait_listening()


def test_the_stop_waits_for_no_token(
    server: ScriptedImap, backend: JudgingBackend, mint: TokenMint, watch: Watch
) -> None:
    """A mailbox that waits in line for its turn to ask stops at once."""
    mint.problems = [empty(401)] * 100
    with watch(reconnect_initial_seconds=60.0, reconnect_max_seconds=60.0) as watched:
        watched.wait_line("no mailbox gets an access token")
        began = time.monotonic()
        watched.stop()
        assert time.monotonic() - began < 5
