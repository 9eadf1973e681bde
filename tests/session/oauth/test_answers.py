"""What the backend may answer to a request for a token, and an INBOX that stays shut."""

import time

import pytest

from rebreak_idle import recovery
from tests.session.conftest import Watch
from tests.session.oauth.conftest import LOGIN, fresh_flags
from tests.support.harness import JudgingBackend, assert_stays
from tests.support.oauth import TokenMint
from tests.support.recording_backend import Behaviour, Hang, answer, empty, html, redirect, reset
from tests.support.scripted_imap import OUTLOOK_NOT_CONNECTED, ScriptedImap

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
