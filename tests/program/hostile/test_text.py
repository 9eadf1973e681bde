"""Text from servers, rows and the backend that would break out of its line."""

import re
import signal

import pytest

from tests.conftest import Run
from tests.program.hostile.conftest import ALL_COLUMNS, EVIL, PROMPT_SECONDS, add
from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend, answer
from tests.support.scripted_imap import Action, Mailbox, ScriptedImap
from tests.support.servers import Database

NASTY = (
    b"\x1b[2J\x1b]0;title\x07 \xc2\x9b31m \x00\x08\x7f \xe2\x80\xae\xe2\x81\xa6 bidi \xff\xfe \xe4"
    b"\r[idle/db] forged \x0b\x0c\xe2\x80\xa8[idle/db] forged " + b"long " * 1000
)
NASTY_TEXT = "\x1b[2J \x9b31m \u202e\u2066 ] \r\n[idle/db] forged\u2028\x85[idle/db] forged"
TEXTS: dict[str, tuple[str, Action]] = {
    "greeting-bye": ("greeting", b"* BYE " + NASTY + b"\r\n"),
    "login-no": ("login", lambda c: c.answer(b"NO [UNAVAILABLE] " + NASTY)),
    "login-refused": ("login", lambda c: c.answer(b"NO " + NASTY)),
    "examine-bad": ("examine", lambda c: c.answer(b"BAD " + NASTY)),
    "bye-in-idle": ("idle", b"+ idling\r\n* BYE " + NASTY + b"\r\n"),
    "unreadable-in-idle": ("idle", lambda c: (c.send(b"+ idling\r\n" + NASTY + b"\r\n"), c.fin())),
}
# The longest of our own words in one line, prefix not counted.
FIXED_CHARACTERS = 200


def assert_one_line_each(daemon: Daemon, longest: int = 300 + FIXED_CHARACTERS) -> None:
    """Every line has its prefix, is printable, and carries no more than 300 foreign characters."""
    for line in daemon.lines:
        assert re.match(r"\[idle/[^\]]*\] ", line), line
        assert line.isprintable(), ascii(line)
        # An escape stands for one character of the 300.
        text = re.sub(r"\\+(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt])", "?", line)
        assert len(text.partition("] ")[2]) <= longest, line
        assert not line.startswith("[idle/db] forged")
    assert daemon.stderr == ""


@pytest.mark.parametrize("kind", TEXTS)
def test_text_of_a_server_is_one_harmless_line(
    run: Run, database: Database, evil: ScriptedImap, kind: str
) -> None:
    """Escapes, bidi, NUL, 8-bit and 5,000 characters from a server stay within their line."""
    step, action = TEXTS[kind]
    evil.on(step, action, instead=True)
    add(database, evil, EVIL)
    with run(LOG_LEVEL="debug", RECONNECT_MAX_SECONDS="0.2") as daemon:
        daemon.wait_line(re.compile(r"\\x1b\[2J"))
        daemon.wait_line(re.compile(r"reconnecting in|parked"))
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("[idle/db] states")
        assert_one_line_each(daemon)


def test_text_of_a_row_is_one_harmless_line(
    run: Run, database: Database, evil: ScriptedImap
) -> None:
    """So does what users typed: the address, the host, the login name, the stored password."""
    login = "name" + NASTY_TEXT.replace("\r\n", "")
    database.execute(  # another schema may check nothing
        "ALTER TABLE mail_connections DROP CONSTRAINT mail_connections_imap_security_check"
    )
    evil.users = {login: "secret", "n": "secret"}
    evil.mailboxes = Mailbox()
    add(database, evil, "row" + NASTY_TEXT + "x" * 5000, imap_username="n")
    add(database, evil, "host@x", imap_host="host" + NASTY_TEXT + "x" * 5000)
    add(database, evil, "idna@x", imap_host="\u202e.\x1b" + "ä" * 80)
    add(database, evil, "name@x", imap_username=login)
    add(database, evil, "lines@x", imap_username="name" + NASTY_TEXT)
    add(database, evil, "sealed@x", password_encrypted=NASTY_TEXT * 20)
    add(database, evil, "security@x", imap_security=NASTY_TEXT)
    with run(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS, LOG_LEVEL="debug") as daemon:
        daemon.wait_line(re.compile(r"\[idle/row\\x1b\[2J \\x9b31m .*\] connected"))
        for name in ("host", "idna"):
            daemon.wait_line(re.compile(rf"\[idle/{name}@x\] .*imap_host is '.*parked"))
        daemon.wait_line("[idle/name@x] connected")
        for name in ("lines", "sealed", "security"):
            daemon.wait_line(re.compile(rf"\[idle/{name}@x\] .*parked"))
        daemon.signal(signal.SIGUSR1)
        daemon.wait_line("[idle/db] states")
        assert_one_line_each(daemon)


BACKEND_ANSWERS = {
    "500": answer(500, NASTY),
    "headers": answer(503, NASTY, {"Retry-After": "9" * 400, "X": "\x1b[2J"}),
    "retry-after-date": answer(503, b"", {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +" + "9" * 20}),
    "no-json": answer(200, NASTY),
    "long-numbers": answer(200, b'{"scanned": %s, "blocked": -1}' % (b"7" * 4000)),
    "deep": answer(200, b"[" * 60000),
}


@pytest.mark.parametrize("kind", BACKEND_ANSWERS)
def test_text_of_the_backend_is_one_harmless_line(
    run: Run, database: Database, backend: RecordingBackend, evil: ScriptedImap, kind: str
) -> None:
    """So does what the backend answers, and it ends no session."""
    backend.script = [BACKEND_ANSWERS[kind]]
    add(database, evil, EVIL)
    with run(LOG_LEVEL="debug") as daemon:
        daemon.wait_line(re.compile(r"scan failed|scan-triggered|unexpected"))
        evil.wait_for_idling()
        assert "unexpected error" not in daemon.text
        assert_one_line_each(daemon)
    assert evil.connects == 1


def test_a_bye_behind_another_line_ends_the_session(
    run: Run, database: Database, backend: RecordingBackend, evil: ScriptedImap
) -> None:
    """A server that says BYE with other news, and does not hang up itself, is left at once."""
    evil.on("idle", b"+ idling\r\n* 5 EXISTS\r\n* BYE enough\r\n", instead=True)
    add(database, evil, EVIL)
    with run() as daemon:
        daemon.wait_line("exists-event received")
        daemon.wait_line("reconnecting in", timeout_seconds=PROMPT_SECONDS)
