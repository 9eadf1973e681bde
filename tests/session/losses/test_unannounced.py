"""Mail while nobody listens, and servers that do not announce it."""

import pytest

from rebreak_idle.imap.renewal import Renewal
from tests.session.conftest import Watch
from tests.session.losses.conftest import (
    RENEWING,
    SOON_SECONDS,
    arrive_and,
    idle_again,
    idles,
    tell,
)
from tests.support.harness import PROMPT_SECONDS, JudgingBackend, Watched, assert_promise
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.waiting import wait_for

# Mail while nobody listens


def test_mail_before_the_start(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Nothing is known of a mailbox at first, so a scan is owed."""
    mailbox.arrive(announce=False)
    with watch() as watched:
        assert_promise(mailbox, backend)
        watched.wait_listening()
    assert [scan.reason for scan in backend.scans] == ["catch-up"]


def test_a_start_that_takes_several_attempts(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Mail that comes between them is scanned."""
    server.on("greeting", arrive_and(mailbox, lambda c: c.bye(b"Busy")), times=2, instead=True)
    server.on("login", arrive_and(mailbox, lambda c: c.rst()), times=1)
    with watch() as watched:
        assert_promise(mailbox, backend)
        watched.wait_line("the server said BYE: Busy")
        assert server.connects == 4


@pytest.mark.parametrize("announced", [True, False])
def test_mail_between_examine_and_idle(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch, announced: bool
) -> None:
    """Scanned when IDLE begins, if the server tells of it then, and else at the renewal."""
    renew = 1500 if announced else SOON_SECONDS
    with watch(idle_renew_seconds=renew) as watched:
        watched.wait_listening()
        server.after("examine", lambda _: mailbox.arrive(announce=announced), times=1)
        if announced:
            idle_again(server)
        wait_for(lambda: mailbox.arrivals, PROMPT_SECONDS, "the renewal")
        assert_promise(mailbox, backend)
        assert server.connects == 1


@pytest.mark.parametrize("how", ["fin", "rst", "close_notify", "bye"])
@pytest.mark.parametrize("idle", ["the first", "a renewal"])
def test_the_server_closes_before_idle_begins(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    watch: Watch,
    how: str,
    idle: str,
) -> None:
    """A broken session, not a server that has no IDLE and is asked at intervals."""

    def close(connection: Connection) -> None:
        mailbox.arrive(announce=False)
        if how == "bye":
            connection.bye()
        else:
            connection.end(how)

    with watch(poll_interval_seconds=60.0) as watched:
        if idle == "a renewal":
            server.wait_for_idling()
            watched.wait_listening()
        server.on("idle", close, times=1, instead=True)
        if idle == "a renewal":
            idle_again(server)
        assert_promise(mailbox, backend)
        server.wait_for_idling()
        assert server.connects == 2
        assert "no IDLE" not in watched.text


def turned_away(server: ScriptedImap, times: int) -> None:
    """The next connections get nothing but a BYE."""
    server.on("greeting", lambda c: c.bye(b"Restarting"), times=times, instead=True)


def test_mail_while_the_session_is_down(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """Caught up by UIDNEXT, however many attempts it takes; and without mail nothing is scanned."""
    turned_away(server, 2)
    server.idling[0].fin()
    server.wait_for_connections(2)
    mailbox.arrive()
    assert_promise(mailbox, backend)
    server.wait_for_idling()
    assert server.connects == 4
    assert [scan.reason for scan in backend.scans] == ["catch-up", "catch-up"]
    before = watched.waits
    server.idling[0].fin()
    watched.wait_listening(before)
    assert len(backend.scans) == 2


def test_mail_while_down_hidden_by_a_deletion(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """The number of mails is as before, UIDNEXT is not."""
    turned_away(server, 1)
    server.idling[0].fin()
    mailbox.expunge(1)
    mailbox.arrive()
    assert_promise(mailbox, backend)


def test_new_uids_while_down(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """Another UIDVALIDITY makes UIDNEXT worthless, though it is the same number."""
    turned_away(server, 1)
    server.idling[0].fin()
    mailbox.expunge(1, announce=False)
    mailbox.arrive(announce=False)
    mailbox.renumber(uidvalidity=2)
    assert mailbox.uidnext == 5
    assert_promise(mailbox, backend)


def test_an_announced_mail_and_another_while_down(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watched: Watched
) -> None:
    """What was announced before the session ended hides nothing that came after."""
    mailbox.arrive()
    assert_promise(mailbox, backend)
    turned_away(server, 1)
    server.idling[0].fin()
    mailbox.arrive()
    assert_promise(mailbox, backend)


def test_a_server_that_does_not_tell_uidnext(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Unknown means owed: one scan at each renewal, so that no mail waits longer."""
    server.tell_uidnext = False
    mailbox.announcing = False
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        backend.wait_answered(2)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        backend.wait_answered(4)
        assert {scan.reason for scan in backend.scans} == {"catch-up"}
        assert server.connects == 1
        assert "did not announce" not in watched.text


# Servers that do not announce


def test_a_server_that_stops_announcing(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Found at the renewal; the log says so, and says when announcements come again."""
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        watched.wait_line(RENEWING)
        mailbox.announcing = False
        for _ in range(3):
            after = watched.mark()
            mailbox.arrive()
            watched.wait_line(
                "the server did not announce mail that came: idle is now renewed every 0.2s", after
            )
            assert_promise(mailbox, backend)
        mailbox.announcing = True
        after = watched.mark()
        again = "the server announces mail again: idle is renewed every 0.2s as usual"
        for _ in range(5):  # one that comes just as IDLE is ended is not announced in it
            server.wait_for_idling()
            mailbox.arrive()
            assert_promise(mailbox, backend)
            if watched.count(again, after):
                break
        watched.wait_line(again, after)
        assert_promise(mailbox, backend)
        after = watched.mark()
        watched.wait_line(RENEWING, after)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert not watched.count("as usual", after)
        assert server.connects == 1


def test_renewals_without_mail_make_no_scans(
    server: ScriptedImap, backend: JudgingBackend, watch: Watch
) -> None:
    """Where UIDNEXT stands still nothing is owed."""
    with watch(idle_renew_seconds=0.1) as watched:
        wait_for(lambda: watched.count("idle renewing (0.1s threshold)") >= 5, 10, "five renewals")
        assert len(backend.scans) == 1
        assert server.connects == 1


def test_renewals_with_announced_mail_make_one_scan_each(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """What was announced is not found once more by UIDNEXT."""
    with watch(idle_renew_seconds=SOON_SECONDS) as watched:
        for _ in range(3):
            watched.wait_line(RENEWING, watched.mark())
            watched.wait_listening(watched.waits)
            mailbox.arrive(2)
            assert_promise(mailbox, backend)
        watched.wait_line(RENEWING, watched.mark())
        watched.wait_listening(watched.waits)
        assert len(backend.scans) == 4
        assert "did not announce" not in watched.text


def test_the_intervals_of_a_server_that_does_not_announce() -> None:
    """Renewed after 5, then 2 minutes, then as before; an interval that is short stays so."""
    renewal = Renewal(1500)
    seen = [renewal.interval_seconds]
    for _ in range(3):
        renewal.unannounced()
        seen.append(renewal.interval_seconds)
    assert seen == [1500, 300, 120, 120]
    assert renewal.announced()
    assert renewal.interval_seconds == 1500
    assert not renewal.announced()
    short = Renewal(60)
    short.unannounced()
    assert short.interval_seconds == 60


def test_a_server_without_idle(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """Polled on one connection, and only mail makes a scan."""
    server.capabilities_after_login = ("IMAP4rev1",)
    mailbox.announcing = False
    with watch() as watched:
        watched.wait_line("the server has no IDLE: asking every 0.2s")
        for _ in range(2):
            backend.wait_answered(len(mailbox.arrivals) + 1)
            mailbox.arrive()
            assert_promise(mailbox, backend)
        polls = len(server.connections[0].commands)
        server.wait_until(lambda: len(server.connections[0].commands) >= polls + 3)
        assert server.connects == 1
    assert [scan.reason for scan in backend.scans] == ["catch-up", "poll", "poll"]
    assert not idles(server)


def test_a_server_without_idle_goes_away(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, watch: Watch
) -> None:
    """A dead connection is found at the next poll, and what came meanwhile is caught up."""
    server.capabilities_after_login = ("IMAP4rev1",)
    with watch() as watched:
        backend.wait_answered(1)
        tell(server.connections[0], arrive_and(mailbox, Connection.fin))
        assert_promise(mailbox, backend)
        watched.wait_line("the server closed the connection")
        assert server.connects == 2
