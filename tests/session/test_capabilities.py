"""Servers that tell their capabilities twice, or in the words of RFC 9051, over real sockets."""

import ssl

import pytest

from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.scripted_imap import Mailbox, ScriptedImap

LESS = b"* CAPABILITY IMAP4rev1 ID\r\n"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(exists=5)


def behind_first_line(out: bytes) -> bytes:
    first, end, rest = out.partition(b"\r\n")
    return first + end + LESS + rest


@pytest.mark.parametrize("first", [True, False], ids=["less first", "less last"])
@pytest.mark.parametrize("code_in", [("greeting", "login"), ("greeting",), ()], ids=str)
def test_idle_is_seen_in_any_of_several_capability_lines(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    code_in: tuple[str, ...],
    first: bool,
) -> None:
    """Whichever answer they are in: a mailbox that can be listened to is listened to."""
    server.capability_code_in = code_in
    step = "login" if "login" in code_in else "capability"
    if first:
        server.on(step, LESS)
    elif step == "capability":
        server.rewrite(step, behind_first_line)
    else:
        server.on("login", b"* CAPABILITY IMAP4rev1 IDLE\r\n")
        server.capabilities_after_login = ("IMAP4rev1", "ID")
        server.on("idle", lambda c: c.begin_idle(), instead=True)
    with Watched(server, backend, context) as watched:
        server.wait_for_idling()
        watched.wait_listening()
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert server.connects == 1


def test_a_greeting_that_tells_less_than_a_line_behind_it(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """LOGIN that was said to be disabled is no more; nobody is parked for it."""
    server.capabilities_before_login = ("IMAP4rev1", "LOGINDISABLED")
    server.capability_code_in = ("login",)
    server.rewrite("capability", lambda out: out.replace(b" LOGINDISABLED", b""))
    server.on("capability", b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n")
    with Watched(server, backend, context) as watched:
        server.wait_for_idling()
        watched.wait_listening()
        mailbox.arrive()
        assert_promise(mailbox, backend)


@pytest.mark.parametrize("code_in", [("greeting", "login"), ()], ids=str)
@pytest.mark.parametrize("named", [True, False], ids=["idle named", "idle not named"])
def test_a_server_of_imap4rev2_alone(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    named: bool,
    code_in: tuple[str, ...],
) -> None:
    """It is logged in to and listened to: IDLE is a part of IMAP4rev2 (RFC 9051, appendix E)."""
    server.capability_code_in = code_in
    server.capabilities_before_login = ("IMAP4rev2", "AUTH=PLAIN")
    server.capabilities_after_login = ("IMAP4rev2", "IDLE") if named else ("IMAP4rev2",)
    server.on("idle", lambda c: c.begin_idle(), instead=True)
    with Watched(server, backend, context) as watched:
        server.wait_for_idling()
        watched.wait_listening()
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert server.connects == 1
