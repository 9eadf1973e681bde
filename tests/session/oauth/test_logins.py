"""Logins by access token, which tokens are kept, and tokens that are refused."""

import base64

import pytest

from rebreak_idle.status import State
from tests.session.conftest import Watch
from tests.session.oauth.conftest import LOGIN, fresh_flags, logins_of
from tests.support.harness import JudgingBackend
from tests.support.oauth import TokenMint
from tests.support.rig import ADMIN_SECRET
from tests.support.scripted_imap import (
    GMAIL_ERROR,
    GMAIL_NO,
    OUTLOOK_BAD,
    OUTLOOK_NO,
    Connection,
    ScriptedImap,
)
from tests.support.waiting import wait_for

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
