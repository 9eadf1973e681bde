"""A port where another protocol is spoken: the operator's move, and said as that."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from rebreak_idle.errors import ServerUnusable
from rebreak_idle.imap.connector import Connector
from rebreak_idle.mailbox import Mailbox as Row
from rebreak_idle.status import State
from tests.conftest import Run
from tests.support.harness import JudgingBackend, Watched, assert_promise, quick_config
from tests.support.rig import stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

# What servers of other protocols say first, or when they give up waiting for us.
OTHERS = {
    "POP3": b"+OK Dovecot ready.\r\n",
    "SMTP": b"220 mx.example.org ESMTP Postfix\r\n",
    "SMTP-lines": b"220-mx.example.org ESMTP Exim\r\n220 ready\r\n",
    "FTP": b"220 (vsFTPd 3.0.5)\r\n",
    "NNTP": b"200 news.example.org InterNetNews ready\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "HTTP-timeout": b"HTTP/1.0 408 Request Time-out\r\n\r\n",
    "HTML": b"<!DOCTYPE HTML>\r\n<title>400</title>\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "ManageSieve": b'"IMPLEMENTATION" "Dovecot Pigeonhole"\r\nOK\r\n',
}


def server(certificates: Certificates, greeting: bytes, *, starttls: bool) -> ScriptedImap:
    context = certificates.server_context()
    scripted = ScriptedImap(
        Mailbox(),
        tls_context=None if starttls else context,
        starttls_context=context if starttls else None,
    )
    scripted.on("greeting", greeting, instead=True)
    return scripted


@pytest.mark.parametrize("starttls", [False, True], ids=["tls", "starttls"])
@pytest.mark.parametrize("protocol", OTHERS)
def test_another_protocol_is_parked(
    certificates: Certificates, protocol: str, starttls: bool
) -> None:
    """It is the operator's move, with what the server says and what to look at; tried once."""
    other = server(certificates, OTHERS[protocol], starttls=starttls)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context()) as watched,
    ):
        line = watched.wait_line("parked")
        said = OTHERS[protocol].decode().splitlines()[0]
        assert f"no IMAP server answers at {other.host}:{other.port} (it says " in line
        assert f"{said[:10]}" in line
        assert "): see imap_port in the row (the operator must act) — parked" in line
        assert watched.worker.state is State.PARKED
        assert watched.count("reconnecting") == 0
        assert other.connects == 1


# What servers say, without TLS, where the row promises TLS from the start.
PLAIN = {
    "IMAP": (b"* OK Dovecot ready.\r\n", "no TLS from the start is spoken at "),
    "IMAP-code": (b"* ok [CAPABILITY IMAP4rev1] hi\r\n", "no TLS from the start is spoken at "),
    "PREAUTH": (b"* PREAUTH hi\r\n", "no TLS from the start is spoken at "),
    "POP3": (b"+OK Dovecot ready.\r\n", "no IMAP server answers at "),
    "SMTP": (b"220 mx.example.org ESMTP\r\n", "no IMAP server answers at "),
    "SSH": (b"SSH-2.0-OpenSSH_9.2p1\r\n", "no IMAP server answers at "),
}


@pytest.mark.parametrize("how", PLAIN)
@pytest.mark.parametrize("when", ["at-once", "later"])
def test_plain_text_where_the_row_says_tls(certificates: Certificates, how: str, when: str) -> None:
    """It is parked, with what is said there and which columns to look at."""
    greeting, words = PLAIN[how]

    def greet(connection: Connection) -> None:
        if when == "later":
            connection.pause(0.2)  # the handshake has begun by then
        connection.send(greeting)

    other = ScriptedImap(Mailbox())
    other.on("greeting", greet, instead=True)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context()) as watched,
    ):
        line = watched.wait_line("parked")
        assert f"{words}{other.host}:{other.port} (it says '" in line
        assert "imap_port in the row" in line
        assert ("imap_security" in line) == (b"* " in greeting)
        assert "(the operator must act) — parked: next try when the row changes, or in" in line
        assert watched.worker.state is State.PARKED
        assert when == "at-once" or other.connects == 1


@pytest.mark.parametrize(
    "said",
    [b"* BYE Too many connections\r\n", b"-ERR busy\r\n", b"HTTP/1.1 503 no\r\n\r\n", b"??\r\n"],
)
def test_plain_text_of_a_server_in_trouble(certificates: Certificates, said: bytes) -> None:
    """A server that has no time for TLS is tried again, and so is one that cuts the handshake."""
    other = ScriptedImap(Mailbox())
    other.on("greeting", lambda c: (c.pause(0.2), c.send(said)), instead=True)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context()) as watched,
    ):
        line = watched.wait_line("the server does not speak TLS on this port: see imap_port and")
        assert "parked" not in line
        watched.wait_line("reconnecting in")
        other.off("greeting")
        other.tls_context = certificates.server_context()
        watched.wait_listening()


def test_tls_where_the_row_says_starttls(certificates: Certificates) -> None:
    """A server that waits for TLS is asked by that when the time for a greeting is over."""
    other = server(certificates, b"", starttls=True)
    other.tls_context = other.starttls_context
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context(), imap_timeout_seconds=1.0) as watched,
    ):
        line = watched.wait_line("parked")
        assert f"TLS from the start is spoken at {other.host}:{other.port}: see imap_sec" in line
        assert "imap_port in the row, 143 is the port for starttls (the operator must act)" in line
        assert other.connects == 1


def test_a_web_server_where_the_row_says_starttls(certificates: Certificates) -> None:
    """What it answers to the question for TLS is shown."""
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"

    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.recv(3)[:2] == b"\x16\x03"
            accepted.sendall(answer)
            while accepted.recv(65536):
                pass

    connector = Connector(certificates.client_context(), quick_config(imap_timeout_seconds=0.5))
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve, listening)
        port = listening.getsockname()[1]
        row = Row("1", "u", "user", "localhost", port, "user", "", starttls=True)
        with (
            closing(connector.session(row, lambda: False)) as session,
            pytest.raises(ServerUnusable, match=r"it says 'HTTP/1.1 400 Bad Request'"),
        ):
            session.open("secret")
        serving.result(10)


def test_a_server_that_waits_to_be_asked(certificates: Certificates) -> None:
    """HTTPS says nothing of its own accord: it is asked when the time for a greeting is over."""
    other = server(certificates, b"", starttls=False)
    other.on("noop", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", instead=True)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context(), imap_timeout_seconds=1.0) as watched,
    ):
        assert "(it says 'HTTP/1.1 400 Bad Request')" in watched.wait_line("parked")
        assert other.connects == 1


@pytest.mark.parametrize("starttls", [False, True], ids=["tls", "starttls"])
def test_an_imap_server_that_is_slow_to_greet_is_tried_again(
    certificates: Certificates, starttls: bool
) -> None:
    """A greeting that comes only when we ask is late, and no other protocol."""
    other = server(certificates, b"", starttls=starttls)
    other.on("noop", b"* OK Ready now\r\n", instead=True, times=1)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context(), imap_timeout_seconds=1.0) as watched,
    ):
        watched.wait_line("no answer in time")
        other.off("greeting")
        watched.wait_listening()


@pytest.mark.parametrize(
    "greeting",
    [
        b"\r\n",
        b"\x00\x01\x02\r\n",
        b"OK ready\r\n",
        b"* WHAT\r\n",
        b"+ OK\r\n",
        b"-ERR Too many connections\r\n",
        b"421 4.3.2 Service not available\r\n",
        b"554 Too many connections from your IP\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
    ],
)
def test_a_server_in_trouble_is_tried_again(certificates: Certificates, greeting: bytes) -> None:
    """What is no other protocol's greeting may pass, and no mailbox is given up for it."""
    other = server(certificates, greeting, starttls=False)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context()) as watched,
    ):
        watched.wait_line("reconnecting in")
        other.off("greeting")
        watched.wait_listening()
        assert isinstance(other.mailboxes, Mailbox)
        other.mailboxes.arrive()
        assert_promise(other.mailboxes, backend)


def test_what_it_says_is_one_harmless_line(certificates: Certificates) -> None:
    """Escapes are shown as such, a long text is shortened, and what to do still stands there."""
    greeting = b"+OK \x1b[2J\xe2\x80\xae" + b"long " * 1000 + b"\r\n"
    other = server(certificates, greeting, starttls=False)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context()) as watched,
    ):
        line = watched.wait_line("parked")
        assert "\\x1b[2J\\u202elong " in line
        assert line.isprintable()
        assert "see imap_port in the row" in line
        assert len(line) < 300


def test_another_protocol_that_passes(certificates: Certificates) -> None:
    """What stands before a server may say so for a while: it is looked at again, but seldom."""
    other = server(certificates, OTHERS["HTTP"], starttls=False)
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context(), auth_retry_seconds=0.5) as watched,
    ):
        watched.wait_line("parked: next try when the row changes, or in 0.5s")
        other.off("greeting")
        watched.wait_listening()


def test_it_does_not_say_the_password_back(certificates: Certificates) -> None:
    """A hostile server that knows the password from before cannot have the log show it."""
    other = server(certificates, b"+OK hunter2-canary\r\n", starttls=False)
    other.users = {"anna": "hunter2-canary"}
    with (
        other,
        JudgingBackend() as backend,
        Watched(other, backend, certificates.client_context(), login="anna") as watched,
    ):
        assert "(it says '+OK ***')" in watched.wait_line("parked")
        assert "canary" not in watched.text


def test_check_says_so_too(run: Run, database: Database, certificates: Certificates) -> None:
    """The preflight names the port as well."""
    with server(certificates, OTHERS["POP3"], starttls=False) as other:
        database.add(
            "anna@example.org",
            imap_host=other.host,
            imap_port=other.port,
            password_encrypted=stored("secret"),
        )
        with run("check") as daemon:
            assert daemon.wait(30) == 1
    assert re.search(
        rf"no IMAP server answers at \S+:{other.port} \(it says '\+OK Dovecot ready\.'\): "
        r"see imap_port in the row \(the operator must act\)",
        daemon.text,
    )
