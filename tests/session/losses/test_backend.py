"""The backend's side; more of it in tests/program/test_backend_trouble.py."""

import contextlib
import time
from email.utils import formatdate

import pytest

from tests.session.conftest import Watch
from tests.session.losses.conftest import RENEWING, SOON_SECONDS, only_tls
from tests.support.harness import (
    PROMPT_SECONDS,
    JudgingBackend,
    Scans,
    Watched,
    assert_promise,
    assert_stays,
    quick_config,
    unscanned,
)
from tests.support.recording_backend import Hang, answer
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.waiting import wait_for


@only_tls
def test_retry_after_as_a_date(mailbox: Mailbox, backend: JudgingBackend, watched: Watched) -> None:
    """The date is waited for, not longer, and the scan is made."""
    backend.script = [
        lambda handler: answer(503, {}, {"Retry-After": formatdate(time.time() + 4, usegmt=True)})(
            handler
        )
    ]
    mailbox.arrive()
    assert_promise(mailbox, backend, PROMPT_SECONDS + 4)
    first, second = backend.scans[1:]
    assert second.arrived - first.answered >= 2.9


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("1000000000000", "300s"),
        ("9" * 400, "300s"),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "300s"),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "1s"),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "1s"),
        ("soon", "1s"),
        ("-5", "1s"),
        ("", "1s"),
    ],
)
@only_tls
def test_an_absurd_retry_after(
    mailbox: Mailbox, backend: JudgingBackend, watched: Watched, value: str, wait: str
) -> None:
    """No backend is waited for longer than five minutes, and none in the past."""
    backend.script = [answer(429, {}, {"Retry-After": value})]
    mailbox.arrive()
    line = watched.wait_line("scan failed: the backend answered 429")
    assert line.endswith(f"it is still owed, next try in {wait}")


@only_tls
def test_what_many_mailboxes_owe_is_sent_through_the_gate(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """When the backend returns one request probes it, then SCAN_CONCURRENCY are under way."""
    with contextlib.ExitStack() as stack:
        scans = Scans(quick_config(backend_url=backend.url, scan_concurrency=2))
        stack.callback(scans.close)
        many = [stack.enter_context(watch(scans=scans)) for _ in range(6)]
        for watched in many:
            watched.wait_listening()
        backend.script = [probe := Hang()]
        backend.default = hang = Hang()
        with backend.down():
            mailbox.arrive()
            many[0].wait_line("the backend is away: ")
        wait_for(lambda: len(backend.hanging) == 1, PROMPT_SECONDS, "the probe")
        assert_stays(lambda: len(backend.hanging) == 1, 0.3, "one probe under way")
        probe.release()
        wait_for(lambda: len(backend.hanging) == 3, PROMPT_SECONDS, "two requests more")
        assert_stays(lambda: len(backend.hanging) == 3, 0.3, "two requests under way")
        hang.release()
        for watched in many:
            watched.wait_line("scan-triggered", after=len(watched.lines) - 1)
            wait_for(lambda w=watched: not w.worker.scanner.owed, PROMPT_SECONDS, "nothing owed")
        assert not unscanned(mailbox, backend)
        assert server.connects == 6
    assert max(backend.concurrent_max_by_connection.values()) == 1


@only_tls
def test_the_session_is_renewed_while_the_backend_fails(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """The scan stays owed, the IMAP session lives on, and mail that comes meanwhile is covered."""
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        watched.wait_listening()
        backend.default = answer(500)
        mailbox.arrive()
        watched.wait_line("scan failed: the backend answered 500")
        after = watched.mark()
        wait_for(lambda: watched.count(RENEWING, after) >= 3, PROMPT_SECONDS, "three renewals")
        mailbox.arrive()
        backend.default = answer()
        assert_promise(mailbox, backend, PROMPT_SECONDS + 5)
        assert server.connects == 1


@only_tls
def test_mail_during_a_scan(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """A request that began before the mail came does not count for it."""
    backend.script = [hang := Hang()]
    mailbox.arrive()
    backend.wait_for(2)
    mailbox.arrive(3)
    server.idling[0].fin()
    hang.release()
    assert_promise(mailbox, backend)
    assert len(backend.scans) <= 4
