"""Hostile servers, rows, backends and networks against the whole program, over real sockets.

`SECURITY.md` says what is promised; the names of these tests are quoted there.
"""

import base64
import re
import signal
import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path

import pytest

from rebreak_idle.imap.credentials import forms as forms_over_the_line
from tests.conftest import Run
from tests.support.daemon import REPOSITORY, Daemon
from tests.support.recording_backend import RecordingBackend, answer
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY, environment, stored
from tests.support.scripted_imap import Action, Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, Dovecot
from tests.support.waiting import wait_for

EVIL, WELL = "evil@example.org", "well@example.org"
ALL_COLUMNS = "SELECT * FROM mail_connections WHERE is_active"
PROMPT_SECONDS = 10.0
LINE = b"x" * 4096

# What one hostile session may add to the peak, and what ten honest sessions that are dropped and
# made anew add besides: some 150 KiB were measured (first use of code paths, allocator, arenas).
SESSION_BYTES = 2 * 1024 * 1024
NOISE_BYTES = 256 * 1024

LINE_BOUND = "longer than 196608 bytes"
ANSWER_BOUND = "more than 262144 bytes in one answer"
RECEIVED_BOUND = "more than 4194304 bytes in one answer"
LITERAL_BOUND = "a literal of 2147483647 bytes"
# In IDLE a server that says much is read slowly, and stays.
SLOWLY = ""


@pytest.fixture
def evil(certificates: Certificates) -> Iterator[ScriptedImap]:
    """The server of the hostile mailbox; honest until a test bends it."""
    with scripted(certificates, EVIL) as server:
        yield server


@pytest.fixture
def well(certificates: Certificates) -> Iterator[ScriptedImap]:
    """The server of the mailbox that must not suffer."""
    with scripted(certificates, WELL) as server:
        yield server


def scripted(certificates: Certificates, *logins: str, starttls: bool = False) -> ScriptedImap:
    """An honest server with a mailbox for each login, all with the password `secret`."""
    context = certificates.server_context()
    return ScriptedImap(
        {login: Mailbox() for login in logins},
        users=dict.fromkeys(logins, "secret"),
        **{"starttls_context" if starttls else "tls_context": context},
    )


def add(database: Database, server: ScriptedImap, email: str, **fields: object) -> str:
    """Add the row of a mailbox on `server`; its id."""
    row = {"imap_port": server.port, "password_encrypted": stored("secret"), **fields}
    return database.add(email, **row)


def deliver(server: ScriptedImap, login: str, backend: RecordingBackend, id_: str) -> None:
    """Let mail arrive and be announced, and wait for the scan that follows it."""
    mailbox = server.mailbox_of(login)
    mailbox.arrive()
    at = mailbox.arrivals[-1].at

    def scanned() -> bool:
        return any(scan.connection_id == id_ and scan.arrived >= at for scan in backend.scans)

    wait_for(scanned, PROMPT_SECONDS, f"the scan of {login}'s mail")


def reconnects(daemon: Daemon, email: str, after: int) -> int:
    """How often the mailbox backed off since."""
    return sum(f"[idle/{email}] reconnecting in" in line for line in daemon.lines[after:])


def wait_reconnects(daemon: Daemon, email: str, number: int, after: int) -> None:
    what = f"{number} back-offs of {email}"
    wait_for(lambda: reconnects(daemon, email, after) >= number, 40, what)


def drop(server: ScriptedImap) -> None:
    """End the sessions that there are, as an honest server does."""
    for connection in server.connections:
        if connection.open:
            connection.fin()


def said(server: ScriptedImap) -> bytes:
    """All commands that the server got."""
    return b"".join(command.line for each in server.connections for command in each.commands)


# Memory


@dataclass(frozen=True)
class Hostility:
    """What a server does at a step, and the words by which the log names it."""

    name: str
    step: str
    action: Action
    bound: str
    renew_seconds: float = 1500.0

    def plant(self, server: ScriptedImap) -> None:
        """Do it from the next connection on, instead of the honest answer but for IDLE's `+`."""
        if self.step == "capability":
            server.capability_code_in = ()
        if self.step == "idle":
            server.after("idle", self.action)
        else:
            server.on(self.step, self.action, instead=True)


def flood(data: bytes, first: bytes = b"") -> Action:
    """Something first, and then `data` for as long as it is taken."""

    def act(connection: Connection) -> None:
        connection.send(first)
        connection.flood(data)

    return act


EXISTS, NESTED = b"* 5 EXISTS\r\n", b"(" * 60000
ENDLESS, LITERAL = flood(LINE), b"{2147483647}\r\n"
HOSTILITIES = [
    Hostility("huge-greeting", "greeting", flood(LINE, b"* OK "), LINE_BOUND),
    Hostility("greetings-without-end", "greeting", flood(b"\r\n"), ""),
    Hostility("huge-capability", "capability", flood(LINE, b"* CAPABILITY IMAP4rev1 "), LINE_BOUND),
    Hostility("capabilities-without-end", "capability", flood(b"* CAPABILITY X\r\n"), ANSWER_BOUND),
    Hostility("line-without-end-at-login", "login", ENDLESS, LINE_BOUND),
    Hostility("line-without-end-at-examine", "examine", ENDLESS, LINE_BOUND),
    Hostility("line-without-end-in-idle", "idle", ENDLESS, LINE_BOUND),
    Hostility("line-without-end-at-done", "done", ENDLESS, LINE_BOUND, 0.3),
    Hostility("literal-at-examine", "examine", flood(LINE, b"* LIST () " + LITERAL), LITERAL_BOUND),
    Hostility("literal-in-idle", "idle", flood(LINE, b"* 1 FETCH (BODY " + LITERAL), LINE_BOUND),
    Hostility("literals-at-login", "login", flood(b"* X {200000}\r\n" + LINE * 50), ANSWER_BOUND),
    Hostility("untagged-at-login", "login", flood(EXISTS), RECEIVED_BOUND),
    Hostility("untagged-at-examine", "examine", flood(EXISTS), RECEIVED_BOUND),
    Hostility("untagged-before-idle", "idle-before", flood(b"* OK wait\r\n"), RECEIVED_BOUND),
    Hostility("exists-before-idle", "idle-before", flood(EXISTS), RECEIVED_BOUND),
    Hostility("untagged-at-done", "done", flood(EXISTS), RECEIVED_BOUND, 0.3),
    Hostility(
        "unreadable-at-done", "done", flood(EXISTS + b"%" * 999 + b"\r\n"), ANSWER_BOUND, 0.3
    ),
    Hostility(
        "pairs-at-done", "done", flood(b"* 6 EXISTS\r\n* 1 EXPUNGE\r\n"), RECEIVED_BOUND, 0.3
    ),
    Hostility("refusals-at-login", "login", flood(b"* NO [X] wait\r\n"), ANSWER_BOUND),
    Hostility("untagged-in-idle", "idle", flood(EXISTS), SLOWLY),
    Hostility("unreadable-in-idle", "idle", flood(b"%\r\n"), SLOWLY),
    Hostility("parentheses-at-examine", "examine", flood(LINE, b"* FLAGS " + NESTED), LINE_BOUND),
    Hostility("parentheses-in-idle", "idle", flood(b"* 1 FETCH " + NESTED + b"\r\n"), SLOWLY),
    Hostility("fetches-at-examine", "examine", flood(b"* 1 FETCH (UID 1)\r\n"), RECEIVED_BOUND),
    Hostility("expunges-at-done", "done", flood(b"* 1 EXPUNGE\r\n"), RECEIVED_BOUND, 0.3),
]


def peak_bytes(daemon: Daemon) -> int:
    """The most memory that the daemon ever held, or since `forget_peak`."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def forget_peak(daemon: Daemon) -> None:
    """Let the peak begin at what the daemon holds now (proc(5), clear_refs)."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("hostility", HOSTILITIES, ids=lambda hostility: hostility.name)
def test_memory_of_a_hostile_session_is_bounded(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    evil: ScriptedImap,
    well: ScriptedImap,
    hostility: Hostility,
) -> None:
    """The peak grows by less than 2 MiB, the log names the bound, and the others are scanned."""
    add(database, evil, EVIL)
    id_ = add(database, well, WELL)
    with run(RECONNECT_MAX_SECONDS="0.2", IDLE_RENEW_SECONDS=hostility.renew_seconds) as daemon:
        backend.wait_answered(2)
        evil.wait_for_idling()
        well.wait_for_idling()
        forget_peak(daemon)
        before, mark = peak_bytes(daemon), daemon.mark()
        if hostility.step == "idle-before":
            evil.on("idle", hostility.action, instead=True)
        else:
            hostility.plant(evil)
        drop(evil)
        deliver(well, WELL, backend, id_)
        if hostility.bound == SLOWLY and hostility.step == "idle":
            evil.wait_for_connections(2)
            hostile = evil.connections[-1]
            evil.wait_until(lambda: hostile.sent_bytes > 1 << 20 or not hostile.open, 20)
            assert hostile.open
        else:
            wait_reconnects(daemon, EVIL, 4, mark)  # the drop, and three hostile sessions
        deliver(well, WELL, backend, id_)
        grown = peak_bytes(daemon) - before
        assert hostility.bound in "\n".join(line for line in daemon.lines[mark:] if EVIL in line)
        assert "unexpected error" not in daemon.text
    print(f"{hostility.name}: {grown // 1024} KiB")
    assert grown < SESSION_BYTES + NOISE_BYTES


def test_memory_of_honest_sessions_that_are_dropped(
    run: Run, database: Database, backend: RecordingBackend, evil: ScriptedImap
) -> None:
    """The yardstick of the bound above: what ten honest sessions add is the allowance for noise."""
    add(database, evil, EVIL)
    with run(RECONNECT_MAX_SECONDS="0.2") as daemon:
        backend.wait_answered(1)
        evil.wait_for_idling()
        forget_peak(daemon)
        before, mark = peak_bytes(daemon), daemon.mark()
        for number in range(1, 11):
            drop(evil)
            wait_reconnects(daemon, EVIL, number, mark)
            evil.wait_for_idling()
        grown = peak_bytes(daemon) - before
    print(f"honest: {grown // 1024} KiB")
    assert grown < NOISE_BYTES


# CPU


FLOODS: dict[str, Action] = {
    "exists": flood(EXISTS),
    "expunge": flood(b"* 1 EXPUNGE\r\n"),
    "expunge and exists": flood(b"* 1 EXPUNGE\r\n* 5 EXISTS\r\n"),
    "one-byte-at-a-time": lambda c: c.drip(EXISTS, every_seconds=0),
    "keep-alives": lambda c: c.drip(b"* OK Still here\r\n", 0, size=100),
    "keep-alives-in-bulk": flood(b"* OK Still here\r\n"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_cpu_a_flooding_session_does_not_starve_the_others(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    evil: ScriptedImap,
    kind: str,
) -> None:
    """The flooder is read slowly and keeps its session, and all other mail is scanned."""
    names = [f"{number}@example.org" for number in range(5)]
    evil.on("idling", FLOODS[kind])
    with scripted(certificates, *names) as server:
        ids = {name: add(database, server, name) for name in names}
        with run(RECONNECT_MAX_SECONDS="0.2") as daemon:
            server.wait_for_idling(5)
            add(database, evil, EVIL)
            daemon.signal(signal.SIGHUP)
            evil.wait_for_idling()
            for _ in range(10):
                for name in names:
                    deliver(server, name, backend, ids[name])
            assert evil.connections[0].open
            assert f"[idle/{EVIL}] provider trouble" not in daemon.text
        assert len(server.connections) == 5


# Where connections may lead


INWARD = [
    *("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"),
    *("0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:7f00:1"),
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "::ffff:a9fe:a9fe"),
    *("100.64.0.1", "fe80::1", "fd00::1", "fec0::1", "224.0.0.1", "ff02::1", "240.0.0.1"),
    *("2002:7f00:1::1", "2002:a9fe:a9fe::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::a00:1", "255.255.255.255"),
]


def test_where_connections_may_lead(
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """Hosts inside our own network, however written, get one clear line each and no connection."""
    variables = environment(database.url, backend.url, certificates, RECONNECT_MAX_SECONDS="0.2")
    del variables["IMAP_ALLOW_PRIVATE_HOSTS"]
    with ScriptedImap(
        Mailbox(), tls_context=certificates.server_context(), host="0.0.0.0"
    ) as inside:
        for number, host in enumerate(INWARD):
            add(database, inside, f"{number}@example.org", imap_host=host)
        with Daemon(variables, tmp_path) as daemon:
            for number, host in enumerate(INWARD):
                name = f"[idle/{number}@example.org]"
                wait_reconnects(daemon, f"{number}@example.org", 3, 0)
                refusals = [each for each in daemon.lines if each.startswith(name)]
                (line,) = [each for each in refusals if "reconnecting" not in each]
                assert f"the host {host!a} leads to" in line
                assert "not a public address: fix the row, or set IMAP_ALLOW_PRIVATE_HOST" in line
        assert inside.connects == 0


# TLS


def test_tls_older_than_1_2_is_refused(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """A server that speaks TLS 1.1 at best gets no command."""
    context = certificates.server_context()
    old = certificates.client_context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for each in (context, old):
            each.minimum_version = ssl.TLSVersion.TLSv1
            each.maximum_version = ssl.TLSVersion.TLSv1_1
            each.set_ciphers("DEFAULT:@SECLEVEL=0")
    with ScriptedImap(Mailbox(), tls_context=context) as server:
        with (
            socket.create_connection((server.host, server.port), PROMPT_SECONDS) as tcp,
            old.wrap_socket(tcp, server_hostname="localhost") as secured,
        ):
            assert secured.version() == "TLSv1.1"  # the server does speak it
        add(database, server, EVIL)
        with run() as daemon:
            assert "TLS" in daemon.wait_line(f"[idle/{EVIL}] TLS")
            wait_reconnects(daemon, EVIL, 2, 0)
        assert said(server) == b""


def stripped(connection: Connection) -> None:
    connection.send(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] no TLS here\r\n")


DOWNGRADES: dict[str, tuple[str, Action]] = {
    "stripped": ("greeting", stripped),
    "refused-with-no": ("starttls", lambda c: c.answer(b"NO not now")),
    "refused-with-bad": ("starttls", lambda c: c.answer(b"BAD what?")),
    "agreed-but-plain": (
        "tls-handshake",
        lambda c: c.send_raw(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] go on\r\n" * 20),
    ),
    "preauth": ("greeting", b"* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS IDLE] welcome\r\n"),
    "preauth-after": ("starttls", lambda c: c.answer(b"OK go\r\n* PREAUTH welcome")),
}


@pytest.mark.parametrize("kind", DOWNGRADES)
def test_tls_is_not_given_up_for_starttls_that_is_stripped_or_refused(
    run: Run, database: Database, certificates: Certificates, kind: str
) -> None:
    """Where STARTTLS does not come about, whatever the server says, no credentials are sent."""
    step, action = DOWNGRADES[kind]
    with scripted(certificates, EVIL, starttls=True) as server:
        server.on(step, action, instead=True)
        add(database, server, EVIL, imap_security="starttls")
        with run(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as daemon:
            wait_reconnects(daemon, EVIL, 3, 0)
        assert b"LOGIN" not in said(server)
        assert b"AUTHENTICATE" not in said(server)


def test_tls_a_preauth_greeting_is_refused(
    run: Run, database: Database, evil: ScriptedImap
) -> None:
    """A server that greets as logged in already is not believed, within TLS either."""
    evil.on("greeting", b"* PREAUTH [CAPABILITY IMAP4rev1 IDLE] welcome\r\n", instead=True)
    add(database, evil, EVIL)
    with run() as daemon:
        assert "PREAUTH" in daemon.wait_line("not trusted")
        wait_reconnects(daemon, EVIL, 2, 0)
    assert b"EXAMINE" not in said(evil)


INJECTED = {
    "exists": b"* 99 EXISTS\r\n",
    "ok": b"* OK Still here\r\n",
    "capability": b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n",
    "capability-code": b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n",
    "half-a-line": b"* 99 EXI",
}


@pytest.mark.parametrize("kind", INJECTED)
def test_tls_bytes_behind_starttls_ok_count_for_nothing(
    run: Run, database: Database, certificates: Certificates, kind: str
) -> None:
    """What comes in one segment with STARTTLS's OK ends the connection before the credentials."""
    with scripted(certificates, EVIL, starttls=True) as server:
        server.after("starttls", INJECTED[kind], glued=True, times=2)
        add(database, server, EVIL, imap_security="starttls")
        with run(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as daemon:
            assert "before the TLS handshake" in daemon.wait_line(f"[idle/{EVIL}] network trouble")
            daemon.wait_line(f"[idle/{EVIL}] connected")
            assert "exists-event" not in daemon.text
        for connection in server.connections[:2]:
            assert b"LOGIN" not in b"".join(command.line for command in connection.commands)


@pytest.mark.parametrize("kind", ["exists", "ok", "capability", "capability-code"])
def test_tls_bytes_before_starttls_ok_count_for_nothing(
    run: Run,
    database: Database,
    certificates: Certificates,
    backend: RecordingBackend,
    kind: str,
) -> None:
    """What was said before the handshake is forgotten: no event, and capabilities asked anew."""
    with scripted(certificates, EVIL, starttls=True) as server:
        server.capabilities_before_login = ("IMAP4rev1", "LOGINDISABLED", "AUTH=PLAIN")
        server.on("starttls", INJECTED[kind], glued=True)
        id_ = add(database, server, EVIL, imap_security="starttls")
        with run(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as daemon:
            daemon.wait_line(f"[idle/{EVIL}] connected")
            server.wait_for_idling()
            backend.wait_answered(1)
            assert "exists-event" not in daemon.text
            assert b" LOGIN " not in said(server)  # LOGINDISABLED was told within TLS
            deliver(server, EVIL, backend, id_)


# Text


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


# What SECURITY.md says


def test_security_md_names_the_bounds_of_the_code() -> None:
    """Each bound is what the code has, and each test that is named there exists."""
    text = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    bounds = re.findall(r"\| ([\d.]+) \| `(\w+)\.([\w.]+)` \|", text)
    bounds += re.findall(r"(\d+) characters \(`(\w+)\.(\w+)`\)", text)
    assert len(bounds) == 11
    import_module("rebreak_idle.__main__")  # and with it all the others
    for value, module, path in bounds:
        found: object = import_module(f"rebreak_idle.{module}")
        for name in path.split("."):
            found = getattr(found, name)
        assert found == float(value), path
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in sources, name
