"""What refusals mean, on the table and on the whole program."""

import pytest

from rebreak_idle.imap.refusals import CODES, TEXTS, Blame, classify_bad, classify_refusal
from tests.conftest import Run
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

USER = [
    "[AUTHENTICATIONFAILED] Invalid credentials (Failure)",
    "[AUTHENTICATIONFAILED] Authentication failed - Too many login failures",
    "[AUTHENTICATIONFAILED] LOGIN invalid credentials or IMAP is disabled sc=ebI8JB0ug4Y1",
    "[AUTHORIZATIONFAILED] No",
    "[EXPIRED] Password expired",
    "[PRIVACYREQUIRED] Not like this",
    "[authenticationfailed] lower case",
    "[ALERT] Application-specific password required: https://support.google.com/ (Failure)",
    "[ALERT] Please log in via your web browser: https://support.google.com/ (Failure)",
    "[ALERT] Your account is not enabled for IMAP use. Please visit your Gmail settings page",
    "[ALERT] IMAP access is disabled for your domain. Please contact your domain administrator",
    "[ALERT] You are yet to enable IMAP for your account. Please contact your administrator",
    "NEOBHODIM parol prilozheniya https://help.mail.ru / Aplication password is REQUIRED",
    "IMAP access disabled for this account",
    "LOGIN failed",
    "LOGIN failed. Account is blocked. Login to your account via a web browser",
    "AUTHENTICATE failed.",
    "Basic authentication is disabled.",
    "Login failed.",
    "authentication failed",
    "Authentication failed.",
    "authentication failure",
    "Login failed: authentication failure",
    "Login failed: user not found",
    "Login failed: account disabled",
    "Re-Authentication Failure",
    "Invalid login or password",
    "Authentication credentials invalid",
    "Invalid user name or password.",
    "Login incorrect",
    "Incorrect email or password",
    "(#MBR1212) Incorrect username or password.",
    "Incorrect username or password. Please try again.",
    "authentication unsuccessful",
    "Authentication unsuccessful.",
    "ERR.LOGIN.PASSERR",
    "460 ERR.LOGIN.PASSERR",
    "ERR.LOGIN.USERNOTEXIST",
    "LOGIN Login error or password error",
    "Login fail. Account is abnormal, service is not open, password is incorrect",
    "[ALERT] Login failure. Incrrect passowd or your account is not enabled for IMAP.",
    "Password mismatch",
    "Bad username or password",
    "User unknown",
    "The account does not exist",
    "EXAMINE Unsafe Login. Please contact kefu@188.com for help",
    "SELECT Unsafe Login. Please contact kefu@188.com for help",
    "Please enable IMAP access in your mailbox settings",
    "Please activate IMAP",
    "IMAP is disabled",
    "IMAP is turned off",
    "user is locked",
]
PROVIDER = [
    "[UNAVAILABLE] Temporary authentication failure.",
    "[UNAVAILABLE] LOGIN Service is temporarily not available",
    "[LIMIT] Enough",
    "[INUSE] Locked",
    "[OVERQUOTA] Full",
    "[SERVERBUG] Internal error occurred",
    "[TEMPFAIL] Not now",
    "[ALERT] Too many simultaneous connections. (Failure)",
    "[ALERT] Account exceeded command or bandwidth limits. (Failure)",
    "System Error (Failure)",
    "Maximum number of connections from user+IP exceeded (mail_max_userip_connections=10)",
    "Temporary authentication failure. [host:2026-01-01 10:00:00]",
    "Account is temporarily unavailable.",
    "Internal login failure. Refer to server log for more information.",
    "User is authenticated but not connected.",
    "Server Unavailable. 15",
    "Request is throttled. Suggested Backoff Time: 92415 milliseconds",
    "Too many open connections (2 of 2 for plain)",
    "Too many open connections (3 of 3 from 127.0.0.1)",
    "Login failed: generic failure",
    "generic failure",
    "Login failed: remote authentication server unavailable",
    "User over connection limit",
    "Temporary server problem, try again later",
    "Temporary problem, please try again later",
    "LOGIN Rate limit hit",
    "LOGIN Server error - Please try again later",
    "Temporary authentication failure (rate-limit)",
    "Server is down for maintenance",
    "Login failed, server busy",
    "ERR.LOGIN.SYSTEMBUSY",
]
UNKNOWN = [
    "without a reason",
    "[ALERT] country blocked",
    "[CANNOT] Unsupported mechanism",
    "Login failed: no mechanism available",
    "Lookup failed f26mb392779289eda",
    "Zugriff verweigert",
    "Unknown authentication mechanism",
    "unknown login command",
]
# What names the account, and what passes by itself as well.
DOUBTFUL = [
    "Authentication failed due to timeout",
    "Authentication failed because the connection to the backend was lost, connection error",
    "Login failed, cannot connect to LDAP",
    "Login failed. Please wait",
    "user is locked by another process",
    "User locked, try again later",
    "Login failed, password error or system busy",
    "Login fail. Account is abnormal, service is not open, password is incorrect, login frequency "
    "limited, or system is busy.",
    "Invalid credentials or too many connections",
    "Invalid login or password, or internal server error",
    "Account is temporarily disabled",
    "IMAP is disabled during maintenance",
    "Authentication failed, too many failed attempts",
]


@pytest.mark.parametrize("text", USER)
def test_the_users_move(text: str) -> None:
    """Wrong credentials, and accounts that are closed to us, need a person."""
    assert classify_refusal(text) is Blame.USER


@pytest.mark.parametrize("text", PROVIDER)
def test_the_providers_move(text: str) -> None:
    """What passes by itself is tried again."""
    assert classify_refusal(text) is Blame.PROVIDER
    assert classify_bad(text) is Blame.PROVIDER


@pytest.mark.parametrize("text", [*UNKNOWN, *DOUBTFUL])
def test_nobody_knows(text: str) -> None:
    """Neither is assumed of words that are not in the table, nor of those that name both."""
    assert classify_refusal(text) is Blame.UNKNOWN


def test_bad_is_about_the_command() -> None:
    """Words of a wrong password in it tell nothing, a code does."""
    assert classify_bad("Login failed.") is Blame.UNKNOWN
    assert classify_bad("[AUTHENTICATIONFAILED] no") is Blame.USER


def test_every_entry_names_its_source() -> None:
    """The table can be checked against where it comes from."""
    assert all(entry.source for entry in (*CODES, *TEXTS))


@pytest.mark.parametrize("text", PROVIDER[:1] + PROVIDER[-8:])
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
