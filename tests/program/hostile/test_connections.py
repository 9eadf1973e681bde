"""Where connections may lead, and TLS that somebody tampers with."""

import socket
import ssl
import warnings
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.program.hostile.conftest import (
    ALL_COLUMNS,
    EVIL,
    PROMPT_SECONDS,
    add,
    deliver,
    said,
    scripted,
    wait_reconnects,
)
from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import environment
from tests.support.scripted_imap import Action, Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

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
