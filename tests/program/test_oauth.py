"""The program with mailboxes that log in by access token: a real Dovecot, a real database."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from rebreak_idle.store import DEFAULT_QUERY
from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.harness import assert_stays
from tests.support.oauth import TokenMint
from tests.support.recording_backend import (
    Behaviour,
    Hang,
    RecordingBackend,
    Request,
    answer,
    empty,
    html,
)
from tests.support.rig import stored
from tests.support.scripted_imap import (
    GMAIL_BYE,
    OUTLOOK_NOT_CONNECTED,
    Mailbox,
    ScriptedImap,
)
from tests.support.servers import Certificates, Database, Dovecot, free_port
from tests.support.waiting import wait_for

QUERY = "SELECT * FROM mail_connections WHERE is_active"
USER = "gina@example.org"
RAN_OUT = "the access token has run out: reconnecting with a new one"


@pytest.fixture
def watch(run: Run) -> Callable[..., Daemon]:
    return lambda *arguments, **more: run(*arguments, MAIL_CONNECTIONS_QUERY=QUERY, **more)


class DovecotTokens:
    """The backend's tokens for Dovecot; what `make` returns is handed out."""

    def __init__(self, dovecot: Dovecot, backend: RecordingBackend) -> None:
        self.life_seconds = 3599.0
        self.make: Callable[[bool], str] = lambda _fresh: dovecot.token(USER, self.life_seconds)
        self._backend = backend
        backend.tokens = self._behaviour

    def _behaviour(self, request: Request) -> Behaviour:
        token = self.make(request.body["fresh"])
        return answer(200, {"accessToken": token, "expiresIn": self.life_seconds})

    @property
    def fresh(self) -> list[bool]:
        return [request.body["fresh"] for request in self._backend.token_requests]


@pytest.fixture
def tokens(dovecot: Dovecot, backend: RecordingBackend, database: Database) -> DovecotTokens:
    dovecot.add_user(USER, "no password that anybody uses")
    database.add(USER, imap_port=dovecot.imaps_port, imap_auth="oauth2", password_encrypted=None)
    return DovecotTokens(dovecot, backend)


# Dovecot


def wait_idle(daemon: Daemon, backend: RecordingBackend) -> int:
    """Wait for the first scan; how many there were."""
    daemon.wait_line("scan-triggered")
    return len(backend.scans)


def test_dovecot_takes_tokens_beside_passwords(
    watch: Callable[..., Daemon],
    database: Database,
    dovecot: Dovecot,
    backend: RecordingBackend,
    tokens: DovecotTokens,
) -> None:
    """Rows of both kinds side by side, each with its scans."""
    dovecot.add_user("paul@example.org", "secret")
    database.add(
        "paul@example.org", imap_port=dovecot.imaps_port, password_encrypted=stored("secret")
    )
    with watch() as daemon:
        for user in (USER, "paul@example.org"):
            daemon.wait_line(f"[idle/{user}] scan-triggered")
            mark = daemon.mark()
            dovecot.deliver(user)
            daemon.wait_line(f"[idle/{user}] exists-event received (new mail)", after=mark)
            daemon.wait_line(f"[idle/{user}] scan-triggered", after=mark)
        assert len(backend.token_requests) == 1
        assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["expired", "foreign", "other issuer", "other scope", "garbage"])
def test_dovecot_refuses_a_token(
    watch: Callable[..., Daemon], dovecot: Dovecot, tokens: DovecotTokens, kind: str
) -> None:
    """A fresh one is tried; if it is no better the user must act, else all is well."""
    bad: dict[str, Callable[[], str]] = {
        "expired": lambda: dovecot.token(USER, -60),
        "foreign": lambda: dovecot.token("somebody@example.org"),
        "other issuer": lambda: dovecot.token(USER, iss="https://elsewhere.example.org"),
        "other scope": lambda: dovecot.token(USER, scope="calendar"),
        "garbage": lambda: "canary-that-is-no-token",
    }
    good = tokens.make
    tokens.make = lambda _fresh: bad[kind]()
    with watch(AUTH_RETRY_SECONDS=1) as daemon:
        daemon.wait_line("the server refused the access token")
        line = daemon.wait_line("the user must act) — parked")
        assert tokens.fresh[:2] == [False, True]
        assert "canary" not in line
        tokens.make = lambda fresh: good(fresh) if fresh else bad[kind]()
        daemon.wait_line("connected (")


def test_dovecot_tells_the_status(
    watch: Callable[..., Daemon], dovecot: Dovecot, tokens: DovecotTokens
) -> None:
    """Its JSON challenge is read."""
    tokens.make = lambda _fresh: dovecot.token(USER, -60)
    with watch() as daemon:
        line = daemon.wait_line("the user must act) — parked")
        assert "the server refused the access token (status " in line


class DovecotWithOauthbearer(Dovecot):
    mechanisms = "plain oauthbearer"


def test_dovecot_takes_oauthbearer(
    watch: Callable[..., Daemon],
    database: Database,
    certificates: Certificates,
    backend: RecordingBackend,
) -> None:
    """Where there is no XOAUTH2; one that it refuses has its challenge answered, too."""
    with DovecotWithOauthbearer(certificates.server) as dovecot:
        dovecot.add_user(USER, "no password that anybody uses")
        row = {"imap_auth": "oauth2", "password_encrypted": None}
        database.add(USER, imap_port=dovecot.imaps_port, **row)
        tokens = DovecotTokens(dovecot, backend)
        tokens.make = lambda fresh: dovecot.token(USER, 3599 if fresh else -60)
        with watch() as daemon:
            daemon.wait_line("the server refused the access token (status ")
            daemon.wait_line("scan-triggered")
            assert tokens.fresh == [False, True]
        with watch("check") as daemon:
            assert daemon.wait(30) == 0
            assert "login ok (OAUTHBEARER), INBOX has 0 messages, IDLE offered" in daemon.text


def test_dovecot_and_tokens_that_are_revoked(
    watch: Callable[..., Daemon],
    dovecot: Dovecot,
    tokens: DovecotTokens,
    backend: RecordingBackend,
) -> None:
    """One that is still kept is refused after the key is another, and replaced at once."""
    with watch() as daemon:
        wait_idle(daemon, backend)
        mark = daemon.mark()
        dovecot.revoke_tokens()
        daemon.wait_line("— trying once with a new one", after=mark)
        daemon.wait_line("connected (", after=mark)
        assert tokens.fresh == [False, True]


def test_dovecot_200_mails_over_ten_ends_of_tokens(
    watch: Callable[..., Daemon],
    dovecot: Dovecot,
    tokens: DovecotTokens,
    backend: RecordingBackend,
) -> None:
    """Dovecot ends no session for its token, so it is told to: the user is kicked when one ends, in
    the midst of IDLE, while mail is delivered all the time; none is left unscanned.
    """
    tokens.life_seconds = 2.0
    dovecot.count(USER)
    with watch(RECONNECT_INITIAL_SECONDS="60") as daemon:
        wait_idle(daemon, backend)
        delivered = 0
        while delivered < 200 or daemon.text.count(RAN_OUT) < 10:
            if ends_now(backend, tokens.life_seconds, daemon.text.count("connected (")):
                mark = daemon.mark()
                wait_for(lambda: is_kicked(dovecot), 20, "Dovecot to know of the session")
                daemon.wait_line("connected (", after=mark)
            dovecot.deliver(USER)
            delivered += 1
            assert delivered < 3000, daemon.text
        last = time.monotonic()
        tokens.life_seconds = 3599.0
        wait_for(lambda: backend.scans[-1].arrived > last, 30, "the scan after the last mail")
        assert "reconnecting in" not in daemon.text
        assert set(tokens.fresh) == {False}


def is_kicked(dovecot: Dovecot) -> bool:
    """Whether there was a session to end: Dovecot's list of them lags behind a little."""
    try:
        dovecot.kick(USER)
    except RuntimeError:
        return False
    return True


def ends_now(backend: RecordingBackend, life_seconds: float, sessions: int) -> bool:
    """Whether the token of the last session has just run out."""
    request = backend.token_requests[-1]
    is_in_use = len(backend.token_requests) == sessions
    return is_in_use and time.monotonic() >= request.arrived + life_seconds


# The rows


@pytest.fixture
def mint() -> TokenMint:
    return TokenMint()


@pytest.fixture
def server(
    certificates: Certificates, backend: RecordingBackend, mint: TokenMint
) -> Iterator[ScriptedImap]:
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as scripted:
        mint.serve(backend, scripted)
        yield scripted


def add(database: Database, server: ScriptedImap, email: str = USER, **fields: object) -> str:
    row = {"imap_port": server.port, "imap_auth": "oauth2", "password_encrypted": None}
    return database.add(email, **{**row, **fields})


def test_a_change_of_the_row_replaces_the_session(
    watch: Callable[..., Daemon], database: Database, server: ScriptedImap, mint: TokenMint
) -> None:
    """From token to password and back, another login name, and what stands in place of a password:
    each has its session at the next refresh.
    """
    server.users = {USER: "secret"}
    add(database, server)
    changes = [
        ("imap_auth = 'password', password_encrypted = %s", stored("secret"), b"LOGIN"),
        ("imap_auth = %s", "oauth2", b"AUTHENTICATE XOAUTH2"),
        ("password_encrypted = %s", "consent 2", b"AUTHENTICATE XOAUTH2"),
        ("imap_username = %s", "other@example.org", b"AUTHENTICATE XOAUTH2"),
    ]
    with watch() as daemon:
        daemon.wait_line("scan-triggered")
        for change, value, login in changes:
            connects, mark = server.connects, daemon.mark()
            database.execute(f"UPDATE mail_connections SET {change}", value)
            daemon.signal(signal.SIGHUP)
            daemon.wait_line("connected (", after=mark)
            assert server.connects == connects + 1
            assert server.connections[-1].commands[0].line.split(b" ", 1)[1].startswith(login)
        assert server.connections[-1].login == "other@example.org"


def test_a_parked_mailbox_is_tried_when_its_row_changes(
    watch: Callable[..., Daemon], database: Database, server: ScriptedImap, mint: TokenMint
) -> None:
    """After a new consent, by whatever the backend writes into the row."""
    mint.problems = [answer(410, {"error": "invalid_grant"})]
    add(database, server)
    with watch() as daemon:
        daemon.wait_line("the user must act) — parked: next try when the row changes, or in 15min")
        database.execute("UPDATE mail_connections SET password_encrypted = 'consent 2'")
        daemon.signal(signal.SIGHUP)
        daemon.wait_line("connected (")


def test_the_default_query_knows_no_tokens(
    run: Run, database: Database, server: ScriptedImap
) -> None:
    """A row without a password is told as such: the query must name imap_auth."""
    assert "imap_auth" not in DEFAULT_QUERY
    add(database, server)
    with run() as daemon:
        daemon.wait_line(
            "password_encrypted is NULL or empty; for OAuth2 the query must return imap_auth "
            "as well (the operator must act) — parked"
        )


# Many at once


def test_many_tokens_that_end_at_once_make_no_storm(
    watch: Callable[..., Daemon],
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
    mint: TokenMint,
) -> None:
    """Sixty sessions end in the same moment: at most SCAN_CONCURRENCY requests at once, one for
    each mailbox, and all are back.
    """
    mint.life_seconds = 20.0
    for number in range(60):
        add(database, server, f"{number}@example.org")
    with watch(SCAN_CONCURRENCY=4, HOST_LOGINS_PER_SECOND=1000) as daemon:
        server.wait_for_idling(60, 60)
        wait_for(lambda: len(backend.scans) >= 60, 60, "the first scans")
        assert len(backend.token_requests) == 60
        newest = max(mint.ends.values())
        wait_for(lambda: time.monotonic() >= newest, 30, "the end of all tokens")
        mint.life_seconds = 3599.0
        for connection in server.idling:
            connection.send(GMAIL_BYE)
            connection.fin()
        wait_for(lambda: daemon.text.count(RAN_OUT) >= 60, 30, "all to notice")
        server.wait_until(lambda: len(server.idling) == 60 and server.connects >= 120, 60)
        assert len(backend.token_requests) == 120
        assert backend.tokens_at_once_max <= 4
        assert "reconnecting in" not in daemon.text


def test_a_host_that_is_down_makes_no_storm_of_token_requests(
    watch: Callable[..., Daemon], database: Database, backend: RecordingBackend
) -> None:
    """Where no token is kept and the backend has none, each mailbox waits before it asks again."""
    port = free_port()
    for number in range(6):
        name = f"u{number}@example.org"
        database.add(name, imap_port=port, imap_auth="oauth2", password_encrypted=None)
    asked: Counter[str | None] = Counter()

    def tokens(request: Request) -> Behaviour:
        asked[request.connection_id] += 1
        if asked[request.connection_id] == 1:
            return answer(200, {"accessToken": "ya29-abcdefgh"})  # without expiresIn: never kept
        return answer(500, {"error": "not now"})

    backend.tokens = tokens
    with watch() as daemon:
        daemon.wait_line("is down")
        mark, before = daemon.mark(), len(backend.token_requests)
        for _ in range(3):
            daemon.wait_line("reconnecting in", after=mark)
            mark = daemon.mark()
        waits = sum("reconnecting in" in line for line in daemon.lines)
        assert len(backend.token_requests) - before <= waits + 2 * 6
        assert not [line for line in daemon.lines if "answered 500" in line and "is down" in line]


def test_an_absent_backend_is_asked_by_one_at_a_time(
    watch: Callable[..., Daemon],
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
    mint: TokenMint,
) -> None:
    """Forty mailboxes, an endpoint that answers 503, and mailboxes with passwords that go on."""
    mint.problems = [answer(503, b"")] * 1000
    server.users = {"paul@example.org": "secret"}
    for number in range(40):
        add(database, server, f"{number}@example.org")
    row = {"imap_auth": None, "password_encrypted": stored("secret")}
    add(database, server, "paul@example.org", **row)
    with watch(RECONNECT_INITIAL_SECONDS="5") as daemon:
        daemon.wait_line("[idle/paul@example.org] connected")
        daemon.wait_line("[idle/backend] no mailbox gets an access token: the backend answered 503")
        began = len(backend.token_requests)
        wait_for(lambda: len(backend.token_requests) >= began + 2, 30, "two probes")
        assert len(backend.token_requests) < 40
        assert daemon.text.count("no mailbox gets an access token") == 1
        mint.problems = []
        server.wait_for_idling(41, 60)
        assert daemon.text.count("answers requests for access tokens again") == 1
        assert "parked" not in daemon.text


def test_the_stop_does_not_wait_for_a_token(
    watch: Callable[..., Daemon], database: Database, server: ScriptedImap, mint: TokenMint
) -> None:
    """Requests that hang, and mailboxes in line for theirs, hold the daemon up no longer."""
    mint.problems = [Hang() for _ in range(40)]
    for number in range(40):
        add(database, server, f"{number}@example.org")
    with watch(SCAN_CONCURRENCY=4) as daemon:
        daemon.wait_line("refreshed — 40")
        wait_for(lambda: len(mint.problems) <= 36, 20, "four requests")
        began = time.monotonic()
        assert daemon.stop() == 0
        # Sessions that hang have seven seconds; there is none here.
        assert time.monotonic() - began < 5


def test_a_request_that_is_left_keeps_its_turn(
    watch: Callable[..., Daemon],
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
    mint: TokenMint,
) -> None:
    """A row changes while its request hangs: there are no more at once than are allowed."""
    hang = Hang()
    mint.problems = [hang]
    add(database, server)
    with watch(SCAN_CONCURRENCY=1) as daemon:
        wait_for(lambda: len(backend.token_requests) == 1, 20, "the request")
        database.execute("UPDATE mail_connections SET user_id = gen_random_uuid()")
        for _ in range(2):  # the first may be part of the start
            before = daemon.mark()
            daemon.signal(signal.SIGHUP)
            daemon.wait_line("refreshed — 1 active connections, 1 sessions", after=before)
        assert_stays(lambda: len(backend.token_requests) == 1, 0.5, "one request")
        hang.release()
        server.wait_for_idling(1, 30)
        assert len(backend.token_requests) == 2
        assert backend.tokens_at_once_max == 1


# The preflight


def checked(watch: Callable[..., Daemon]) -> tuple[int, str]:
    """Status and output of a check."""
    with watch("check") as daemon:
        return daemon.wait(60), daemon.text


def test_check_tells_of_tokens(
    watch: Callable[..., Daemon],
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
) -> None:
    """How long the token is valid, and how it was taken; no scan is sent."""
    add(database, server)
    status, text = checked(watch)
    assert status == 0
    assert (
        f"[idle/{USER}] access token from the backend, valid for 59min, localhost:{server.port} "
        "reached over TLS, login ok (XOAUTH2), INBOX has 4 messages, IDLE offered\n"
    ) in text
    assert backend.scans == []
    assert [request.body["fresh"] for request in backend.token_requests] == [False]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (
            answer(410, {"error": "x"}),
            "consent is needed anew (x); localhost:PORT reached over TLS",
        ),
        (answer(410, {"error": "x"}), "no login tried (the user must act)"),
        (answer(404, {"error": "no id"}), "(no id); localhost:PORT reached over TLS, no login tri"),
        (answer(404, {"error": "no id"}), "no login tried (the operator must act)"),
        (html(404), "it has no /api/mail/access-token, see ACCESS_TOKEN_PATH and BACKEND_URL"),
        (empty(405), "no login tried (the operator must act)"),
        (empty(401), "(ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong); localhost:PORT reached"),
        (answer(200, {}), "200 without an access token; localhost:PORT reached over TLS, no login"),
        (answer(500, b"oops"), "500 Internal Server Error to the request for an access token (oop"),
    ],
)
def test_check_says_whose_move_it_is(
    watch: Callable[..., Daemon],
    database: Database,
    server: ScriptedImap,
    mint: TokenMint,
    behaviour: Behaviour,
    said: str,
) -> None:
    """With what the backend answered; the host was reached all the same."""
    mint.problems = [behaviour]
    add(database, server)
    status, text = checked(watch)
    assert status == 1
    assert said.replace("PORT", str(server.port)) in text
    assert "must act)" in text
    assert "0 of 1 mailboxes ready" in text


def test_check_asks_anew_for_a_token_that_is_refused(
    watch: Callable[..., Daemon],
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
) -> None:
    """Once, as the daemon does; then the user must act."""
    add(database, server)
    server.takes_token = lambda _login, _token: len(backend.token_requests) > 1
    assert checked(watch)[0] == 0
    server.takes_token = lambda _login, _token: False
    status, text = checked(watch)
    assert status == 1
    assert (
        "(status 400): [AUTHENTICATIONFAILED] Invalid credentials (Failure) (the user must" in text
    )
    assert [request.body["fresh"] for request in backend.token_requests] == [False, True] * 2


def test_check_where_inbox_does_not_open(
    watch: Callable[..., Daemon], database: Database, server: ScriptedImap
) -> None:
    """Outlook's words are the provider's trouble, and the operator's when they stay."""
    add(database, server)
    server.on("examine", lambda c: c.answer(OUTLOOK_NOT_CONNECTED))
    status, text = checked(watch)
    assert status == 1
    assert "provider trouble: the server answered 'BAD User is authenticated but not" in text
    assert "(the operator must act if it stays)" in text


def test_check_gives_a_dead_backend_up(
    watch: Callable[..., Daemon],
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
    mint: TokenMint,
) -> None:
    """It does not ask for each of many mailboxes."""
    mint.problems = [empty(401)] * 1000
    for number in range(100):
        add(database, server, f"{number}@example.org")
    status, text = checked(watch)
    assert status == 1
    assert text.count("no access token asked for: the backend failed five times") > 50
    assert len(backend.token_requests) < 50
