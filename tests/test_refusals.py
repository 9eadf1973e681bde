"""What refusals mean, on the table and on the whole program."""

import pytest
from conftest import Run
from recording_backend import RecordingBackend
from rig import stored
from scripted_imap import Mailbox, ScriptedImap
from servers import Certificates, Database

from rebreak_idle.imap.refusals import CODES, TEXTS, Blame, classify_refusal

USER = [
    "[AUTHENTICATIONFAILED] Invalid credentials (Failure)",
    "[AUTHORIZATIONFAILED] No",
    "[EXPIRED] Password expired",
    "[PRIVACYREQUIRED] Not like this",
    "LOGIN failed",
    "without a reason",
    "[ALERT] Application-specific password required: https://support.google.com/ (Failure)",
    "[authenticationfailed] lower case",
]
PROVIDER = [
    "[UNAVAILABLE] Temporary authentication failure.",
    "[LIMIT] Enough",
    "[INUSE] Locked",
    "[OVERQUOTA] Full",
    "[SERVERBUG] Internal error occurred",
    "[ALERT] Too many simultaneous connections. (Failure)",
    "Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
    "User is authenticated but not connected.",
]


@pytest.mark.parametrize("text", USER)
def test_the_users_move(text: str) -> None:
    """Wrong credentials, said in a code or in no way at all, need a person."""
    assert classify_refusal(text) is Blame.USER


@pytest.mark.parametrize("text", PROVIDER)
def test_the_providers_move(text: str) -> None:
    """What passes by itself is tried again."""
    assert classify_refusal(text) is Blame.PROVIDER


def test_every_entry_names_its_source() -> None:
    """The table can be checked against where it comes from."""
    assert all(entry.source for entry in (*CODES, *TEXTS))


@pytest.mark.parametrize("text", PROVIDER)
def test_the_providers_trouble_is_an_ordinary_back_off(
    run: Run,
    database: Database,
    certificates: Certificates,
    backend: RecordingBackend,
    text: str,
) -> None:
    """A provider that cannot for now is said to be that, and asked again soon."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        server.on("login", lambda c: c.answer(b"NO " + text.encode()), times=1)
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            line = daemon.wait_line("provider trouble: the server refuses for now:")
            assert text in line
            daemon.wait_line("reconnecting in 0.2s (attempt 2)")
            daemon.wait_line("connected")


def test_a_refused_password_is_parked_and_waits_double(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """Each refusal doubles the wait; said once; a changed row is tried at once."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("wrong"))
        with run(AUTH_RETRY_SECONDS="0.3") as daemon:
            daemon.wait_line("the server refused the login: [AUTHENTICATIONFAILED]")
            server.wait_for_connections(4)
            at = [connection.accepted_at for connection in server.connections]
            assert at[1] - at[0] >= 0.3
            assert at[2] - at[1] >= 0.6
            assert at[3] - at[2] >= 1.2
            assert daemon.text.count("refused the login") == 1
            assert "reconnecting" not in daemon.text
        database.execute("UPDATE mail_connections SET password_encrypted = %s", stored("wrong"))
        with run() as daemon:
            daemon.wait_line("parked: next try when the row changes, or in 15min")
            statement = "UPDATE mail_connections SET password_encrypted = %s"
            database.execute(statement, stored("secret"))
            daemon.signal(1)
            daemon.wait_line("connected")


def test_a_farewell_at_login_is_the_providers_trouble(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """BYE instead of an answer parks nobody."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        server.on("login", lambda c: c.bye(b"[UNAVAILABLE] Overloaded"), times=1)
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            daemon.wait_line("provider trouble: the server said BYE: [UNAVAILABLE] Overloaded")
            daemon.wait_line("connected")


LOGIN, PLAIN = b"LOGIN", b"AUTHENTICATE"


@pytest.mark.parametrize(("password", "log_in"), [("secret", LOGIN), ("pässwörd", PLAIN)])
@pytest.mark.parametrize("volunteered", [True, False])
def test_the_fewest_round_trips(
    run: Run,
    database: Database,
    certificates: Certificates,
    password: str,
    log_in: bytes,
    volunteered: bool,
) -> None:
    """The login, ID with EXAMINE, IDLE: three waits where the server volunteers its capabilities.

    Where it does so in its greeting only, they are asked for once after the login, not twice.
    """
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        server.users = {"user@example.org": password}
        if not volunteered:
            server.capability_code_in = ("greeting",)
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored(password))
        server.password = password
        with run() as daemon:
            daemon.wait_line("connected")
            said = [command.line.split()[1] for command in server.connections[0].commands]
            asked = [] if volunteered else [b"CAPABILITY"]
            assert said == [log_in, *asked, b"ID", b"EXAMINE", b"IDLE"]
            (introduced,) = [c.line for c in server.connections[0].commands if b" ID " in c.line]
            assert b'"rebreak_idle"' in introduced
