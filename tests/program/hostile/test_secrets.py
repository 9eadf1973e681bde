"""Secrets that are said back, and passwords that would break out."""

import base64
import re
import signal
from itertools import count
from pathlib import Path

import pytest

from rebreak_idle.imap.credentials import forms as forms_over_the_line
from tests.conftest import Run
from tests.program.hostile.conftest import ALL_COLUMNS, EVIL, add, drop, said, wait_reconnects
from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY, stored
from tests.support.scripted_imap import Action, Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, Dovecot

# Secrets


CANARY = 'canary "mailbox" \\pässwörd 100%'
OLD_CANARY = 'canary-of-ascii "quoted" \\back'
DATABASE_CANARY = "canary-database-password"


def forms(secret: str, *logins: str) -> set[str]:
    """A secret and what it looks like on the line and in a log: quoted, escaped, in base64."""
    quoted = secret.replace("\\", "\\\\").replace('"', '\\"')
    sasl = [f"\0{login}\0{secret}" for login in logins]
    encoded = [base64.b64encode(text.encode()).decode() for text in (secret, *sasl)]
    plain = {secret, quoted, ascii(secret)[1:-1], ascii(secret.encode())[2:-1]}
    return {*plain, *encoded}


def assert_no_canary(daemon: Daemon, *logins: str) -> None:
    """None of the secrets in any form, in what the daemon wrote or in its command line."""
    command_line = Path(f"/proc/{daemon.pid}/cmdline").read_bytes().decode()
    output = daemon.text + daemon.stderr + command_line
    secrets = (ADMIN_SECRET, ENCRYPTION_KEY, DATABASE_CANARY, CANARY, OLD_CANARY)
    for secret in secrets:
        for form in forms(secret, *logins):
            assert form not in output, f"{form!r}:\n{daemon.text}"
    assert "canary" not in output, daemon.text


def echoed(connection: Connection) -> bytes:
    """What a server knows of the credentials, in every form in which it got them."""
    password = connection.server.users[EVIL]
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    sasl = base64.b64encode(f"\0{EVIL}\0{password}".encode()).decode()
    alone = base64.b64encode(password.encode()).decode()
    return f'A1 LOGIN "{EVIL}" "{quoted}" {sasl} {alone} {password}'.encode()


SPOKEN: dict[str, tuple[str, Action]] = {
    "no": ("login", lambda c: c.answer(b"NO [AUTHENTICATIONFAILED] " + echoed(c))),
    "no-unavailable": ("login", lambda c: c.answer(b"NO [UNAVAILABLE] " + echoed(c))),
    "bad": ("login", lambda c: c.answer(b"BAD " + echoed(c))),
    "bye": ("login", lambda c: c.bye(echoed(c))),
    "garbage": ("login", lambda c: c.send(b"!" + echoed(c) + b"\r\n")),
    "examine": ("examine", lambda c: c.answer(b"NO " + echoed(c))),
    "untagged": ("examine", lambda c: c.send(b"* FLAGS ((" + echoed(c) + b"\r\n")),
    "idle": ("idle", lambda c: c.answer(b"BAD " + echoed(c))),
    "bye-in-idle": ("idle", lambda c: c.send(b"+ go\r\n* BYE " + echoed(c) + b"\r\n")),
    "unreadable-in-idle": ("idle", lambda c: (c.send(b"+ go\r\n" + echoed(c) + b"\r\n"), c.fin())),
    "tagged-in-idle": ("idle", lambda c: (c.send(b"+ go\r\nX NO " + echoed(c) + b"\r\n"), c.fin())),
}


@pytest.mark.parametrize("kind", SPOKEN)
@pytest.mark.parametrize("password", [CANARY, OLD_CANARY], ids=["plain", "login"])
def test_secrets_that_a_server_says_back_are_not_logged(
    run: Run, database: Database, evil: ScriptedImap, kind: str, password: str
) -> None:
    """LOGIN's line, or SASL PLAIN's message, echoed at any step is not in the log at any level."""
    step, action = SPOKEN[kind]
    evil.users = {EVIL: password}
    evil.on(step, action, instead=True)
    if kind == "untagged":
        evil.after(step, lambda c: c.answer(b"OK done"))
    add(database, evil, EVIL, password_encrypted=stored(password))
    with run(LOG_LEVEL="debug", RECONNECT_MAX_SECONDS="0.2", IMAP_TIMEOUT_SECONDS=1) as daemon:
        daemon.wait_line(re.compile(r"reconnecting in|parked|asking every"))
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("[idle/db] states")
        assert_no_canary(daemon, EVIL)


@pytest.mark.parametrize("password", ["secret", "canary-1", "pässwörd", 'a"\\bc', "four"])
def test_no_base64_shows_the_password(password: str) -> None:
    """Whatever stands before and behind it in what a server says back, and without padding."""
    for before in (b"", b"\0user@x\0", b"user\0", b"a", b"ab", b"abc"):
        for behind in (b"", b"1", b"12", b"123"):
            said_back = base64.b64encode(before + password.encode() + behind).decode()
            for text in (said_back, said_back.rstrip("=")):
                redacted = text
                for form in forms_over_the_line("user@x", password):
                    redacted = redacted.replace(form, "***")
                assert "***" in redacted
                left = len(redacted.replace("***", "").rstrip("="))
                around = len(base64.b64encode(before)) + len(base64.b64encode(behind))
                assert left <= around + 2  # characters that it shares with its neighbours


def test_secrets_that_a_greeting_says_back_are_not_logged(
    run: Run, database: Database, evil: ScriptedImap
) -> None:
    """A server that remembers the password from the last session cannot make the log show it."""
    evil.users = {EVIL: CANARY}
    add(database, evil, EVIL, password_encrypted=stored(CANARY))
    with run(LOG_LEVEL="debug", RECONNECT_MAX_SECONDS="0.2") as daemon:
        evil.wait_for_idling()
        forms_sent = (CANARY, f"\0{EVIL}\0{CANARY}")
        spoken = [base64.b64encode(each.encode()) for each in forms_sent]
        spoken += [CANARY.encode(), echoed(evil.connections[0])]
        numbers = count()
        evil.on(
            "greeting",
            lambda c: c.bye(spoken[next(numbers) % len(spoken)]),
            instead=True,
        )
        drop(evil)
        wait_reconnects(daemon, EVIL, 2 + len(spoken), 0)
        assert_no_canary(daemon, EVIL)


def test_secrets_that_the_backend_says_back_are_not_logged(
    run: Run, database: Database, backend: RecordingBackend, evil: ScriptedImap
) -> None:
    """A backend that shows the request's headers in its error page, wherever in it."""

    def echo(handler: object) -> None:
        page = b"x" * next(paddings) + str(handler.headers).encode()
        handler.send(500, page, {"Content-Type": "text/plain"})

    paddings = iter([0, 60, 100])
    backend.script = [echo] * 3
    add(database, evil, EVIL)
    with run(LOG_LEVEL="debug") as daemon:
        daemon.wait_line("scan failed")
        backend.wait_answered(4, 30)
        assert_no_canary(daemon)


def test_secrets_of_the_database_are_not_logged(
    run: Run, database: Database, evil: ScriptedImap
) -> None:
    """Neither errors of the connection nor those of the query show the connection string."""
    place = database.url.partition("@")[2]
    url = f"postgresql://postgres:{DATABASE_CANARY}@{place}"
    query = f"SELECT '{DATABASE_CANARY} {ADMIN_SECRET}'::integer"
    cases = [
        {"DATABASE_URL": f"postgresql://postgres:{DATABASE_CANARY}@127.0.0.1:1/x"},
        {"DATABASE_URL": f"postgresql://{DATABASE_CANARY}:{DATABASE_CANARY}@{place}x"},
        {"DATABASE_URL": url, "MAIL_CONNECTIONS_QUERY": query},
    ]
    for variables in cases:
        with run(LOG_LEVEL="debug", **variables) as daemon:
            daemon.wait_line("cannot read the mail connections")
            assert_no_canary(daemon)
    add(database, evil, "sealed@x", password_encrypted=stored(CANARY, key="x" * 32))
    add(database, evil, "raw@x", password_encrypted=CANARY)
    with run(LOG_LEVEL="debug", DATABASE_URL=url) as daemon:
        for name in ("sealed", "raw"):
            daemon.wait_line(re.compile(rf"\[idle/{name}@x\] .*parked"))
        assert_no_canary(daemon)


def test_secrets_in_a_bad_environment_are_not_told(run: Run) -> None:
    """What is wrong with a secret is said without its value."""
    bad = {
        "DATABASE_URL": f"mysql://x:{DATABASE_CANARY}@h/d",
        "ADMIN_SECRET": f"{ADMIN_SECRET}\n{ADMIN_SECRET}",
        "ENCRYPTION_KEY": "canary-short",
        "BACKEND_URL": "http://user:canary-in-a-url@localhost",
    }
    with run(LOG_LEVEL="debug", **bad) as daemon:
        assert daemon.wait() == 78
        assert "canary" not in daemon.text + daemon.stderr
        for name in bad:
            assert name in daemon.stderr


def test_secrets_reach_no_core_file_and_no_command_line(
    run: Run, database: Database, evil: ScriptedImap
) -> None:
    """RLIMIT_CORE is 0, soft and hard, and the command line names the program only."""
    evil.users = {EVIL: CANARY}
    add(database, evil, EVIL, password_encrypted=stored(CANARY))
    with run(LOG_LEVEL="debug") as daemon:
        evil.wait_for_idling()
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("[idle/db] states")
        assert_no_canary(daemon, EVIL)


# Passwords


PASSWORDS = [
    *('quo"te', "back\\slash", '\\"', "with space", " around ", "{5}", "{5+}", "100% %s %(x)s"),
    *("pässwörd", "пароль", "🎰 {5}", 'ä"\\ %', "*", "(paren)", "~!@#$^&*[]|;:'<>,.?/`"),
]
OFFERS = {
    "login-only": ("IMAP4rev1",),
    "both": ("IMAP4rev1", "AUTH=PLAIN"),
    "both-with-sasl-ir": ("IMAP4rev1", "SASL-IR", "AUTH=PLAIN"),
    "plain-only": ("IMAP4rev1", "LOGINDISABLED", "AUTH=PLAIN"),
}


@pytest.mark.parametrize("offer", OFFERS)
def test_passwords_of_all_kinds_log_in(
    run: Run, database: Database, certificates: Certificates, offer: str
) -> None:
    """Whatever is in a password gets to the server as it is, by LOGIN and by SASL PLAIN."""
    users = {f"{number}@example.org": each for number, each in enumerate(PASSWORDS)}
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context(), users=users) as server:
        server.capabilities_before_login = OFFERS[offer]
        for login, password in users.items():
            add(database, server, login, password_encrypted=stored(password))
        with run() as daemon:
            for login in users:
                daemon.wait_line(re.compile(rf"\[idle/{login}\] (connected|the server)"))
            assert "refused" not in daemon.text
        commands = said(server)
    if offer == "login-only":
        assert b"AUTHENTICATE" not in commands
    if offer == "plain-only":
        assert b" LOGIN " not in commands


@pytest.mark.parametrize("password", ['asc"ii \\ %s {5}', 'pässwörd "🎰" \\ {5}'])
def test_passwords_log_in_at_dovecot(
    run: Run, database: Database, dovecot: Dovecot, password: str
) -> None:
    """A real server takes them too."""
    login = f"odd{len(password)}@example.org"
    dovecot.add_user(login, password)
    database.add(login, imap_port=dovecot.imaps_port, password_encrypted=stored(password))
    with run() as daemon:
        daemon.wait_line(f"[idle/{login}] connected")


def test_passwords_that_would_break_out_are_refused(
    run: Run, database: Database, evil: ScriptedImap
) -> None:
    """CR, LF and NUL in a password or a user name park the mailbox before anything is sent."""
    for number, character in enumerate("\r\n\0"):
        broken = stored(f"canary{character}A1 LOGOUT")
        add(database, evil, f"password{number}@x", password_encrypted=broken)
    for number, character in enumerate("\r\n"):  # PostgreSQL's text holds no NUL
        add(database, evil, f"name{number}@x", imap_username=f"a{character}b")
    with run(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as daemon:
        for name in ("password0", "password1", "password2", "name0", "name1"):
            line = daemon.wait_line(re.compile(rf"\[idle/{name}@x\] .*parked"))
            assert "contains a line break or NUL: fix the row" in line
        assert "canary" not in daemon.text
    assert evil.connects == 0
