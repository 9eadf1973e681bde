"""Which refusals park a mailbox at once, later or not at all."""

import pytest

from rebreak_idle.status import State
from tests.conftest import Run
from tests.session.conftest import Watch
from tests.session.login.conftest import BAD_PASSWORD, DISABLED, answers, every_offer, said
from tests.support.harness import Watched
from tests.support.rig import stored
from tests.support.scripted_imap import ScriptedImap
from tests.support.servers import Database

# What is no clear word of the credentials


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize("answer", [b"NO nobody knows this", b"NO", b"NO ", b"BAD what?", b"BAD"])
@every_offer
def test_words_that_nobody_knows_park_at_the_third_refusal(
    server: ScriptedImap, watch: Watch, answer: bytes
) -> None:
    """Two retries, each said with its reason, then the mailbox is parked until much later."""
    server.on("login", answers(answer))
    with watch() as watched:
        watched.wait_line("the user must act) — parked")
        refused = [line for line in watched.lines if "the server refused the login" in line]
        assert [line.partition(" — ")[2] for line in refused[:1]] == [
            "nobody knows these words: refusal 1 of 3 in a row, parked at the last"
        ]
        reconnects = [line for line in watched.lines if "reconnecting in" in line]
        assert [line[-11:] for line in reconnects] == ["(attempt 2)", "(attempt 3)"]
        assert server.connects == 3
        assert watched.worker.state is State.PARKED


def test_words_that_nobody_knows_are_tried_again_after_a_minute(
    run: Run, database: Database, server: ScriptedImap
) -> None:
    """The first retry waits exactly a minute, and does not park."""
    server.on("login", answers(b"NO nobody knows this"))
    database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
    with run() as daemon:
        daemon.wait_line("the server refused the login: nobody knows this — nobody knows these")
        daemon.wait_line("reconnecting in 60s (attempt 2)")
        assert "parked:" not in daemon.text


@pytest.mark.usefixtures("short_retries")
def test_a_parked_mailbox_is_not_tried_fast_again(server: ScriptedImap, watch: Watch) -> None:
    """After it was parked, words that nobody knows park it again, for twice as long."""
    server.on("login", answers(b"NO " + BAD_PASSWORD), times=1)
    server.on("login", answers(b"NO nobody knows this"))
    with watch(auth_retry_seconds=0.2) as watched:
        watched.wait_line("nobody knows this (the user must act) — parked")
        assert watched.count("reconnecting") == 0


@pytest.mark.usefixtures("short_retries")
def test_refusals_are_counted_over_broken_connections(server: ScriptedImap, watch: Watch) -> None:
    """A connection that breaks between two refusals does not begin the count anew."""
    for _ in range(2):
        server.on("login", answers(b"NO nobody knows this"), times=1)
        server.on("login", lambda c: c.fin(), times=1, instead=True)
    with watch() as watched:
        watched.wait_listening()
        assert watched.count("refusal 1 of 3") == 1
        assert watched.count("refusal 2 of 3") <= 1
        assert watched.count("parked:") == 0


@pytest.mark.parametrize("text", [b"NO Server Unavailable. 15", b"BAD [UNAVAILABLE] Not now"])
@every_offer
def test_trouble_that_passes_is_tried_again_soon(
    server: ScriptedImap, watch: Watch, text: bytes
) -> None:
    """It never parks, however often it comes."""
    server.on("login", answers(text), times=4)
    with watch() as watched:
        watched.wait_listening()
        assert watched.count("provider trouble: the server refuses for now: ") == 1
        assert watched.count("parked:") == 0


def test_a_user_name_is_no_reason(server: ScriptedImap, watch: Watch) -> None:
    """What a server says back of the user name does not tell what it means."""
    server.on("login", answers(b"NO Login failed for temporary@example.org"))
    with watch(login="temporary@example.org") as watched:
        watched.wait_line("the user must act) — parked")
        assert server.connects == 1


# A password that worked


def refuse_from_now_on(server: ScriptedImap, watched: Watched, times: int | None) -> int:
    """Break the session, and refuse the next logins as wrong; where the log stood."""
    server.wait_for_idling()
    mark = watched.mark()
    server.on("login", answers(b"NO " + BAD_PASSWORD), times=times)
    server.idling[0].fin()
    return mark


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize("times", [1, 2])
def test_a_password_that_worked_is_tried_again(
    server: ScriptedImap, watch: Watch, times: int
) -> None:
    """One that is refused once or twice for a while is not parked."""
    with watch() as watched:
        waits = watched.wait_listening()
        mark = refuse_from_now_on(server, watched, times)
        watched.wait_listening(since=waits)
        assert watched.count("the password has worked before: refusal", mark) >= 1
        assert watched.count("parked:") == 0


@pytest.mark.usefixtures("short_retries")
def test_a_password_that_worked_is_parked_at_the_third_refusal(
    server: ScriptedImap, watch: Watch
) -> None:
    """One that was changed is refused for good."""
    with watch() as watched:
        watched.wait_listening()
        mark = refuse_from_now_on(server, watched, None)
        watched.wait_line("the user must act) — parked", mark)
        attempts = [line[-11:] for line in watched.lines[mark:] if "reconnecting" in line]
        assert attempts == ["(attempt 2)", "(attempt 3)", "(attempt 4)"]
        assert server.connects == 4


@every_offer
def test_a_password_that_never_worked_is_parked_at_once(server: ScriptedImap, watch: Watch) -> None:
    """Where the server says that it is wrong."""
    server.users = {}
    with watch() as watched:
        watched.wait_line("Invalid credentials (the user must act) — parked")
        assert watched.count("reconnecting") == 0


def test_that_a_password_worked_outlives_its_thread(
    run: Run, database: Database, server: ScriptedImap
) -> None:
    """A row that changed in something else keeps it; another password has yet to work."""
    database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
    with run() as daemon:
        server.wait_for_idling()
        server.on("login", answers(b"NO " + BAD_PASSWORD))
        database.execute("UPDATE mail_connections SET user_id = gen_random_uuid()")
        daemon.signal(1)
        daemon.wait_line("the password has worked before: refusal 1 of 3")
        daemon.wait_line("reconnecting in 60s (attempt 2)")
        update = "UPDATE mail_connections SET password_encrypted = %s"
        database.execute(update, stored("another"))
        daemon.signal(1)
        daemon.wait_line("(the user must act) — parked")


# Refusals with BYE, and connections that break


BYE_BEFORE = (b"* BYE Too many errors", b"TAG NO " + BAD_PASSWORD)
REFUSALS = {
    "bye-before": said(*BYE_BEFORE),
    "bye-after": said(*reversed(BYE_BEFORE)),
    "bye-before-then-silence": said(*BYE_BEFORE, end="silence"),
    "bye-with-a-pause": lambda c: (c.send(b"* BYE\r\n"), c.pause(0.2), said(BYE_BEFORE[1])(c)),
    "bye-alone": said(b"* BYE " + BAD_PASSWORD),
    "bye-alone-then-silence": said(b"* BYE [EXPIRED] Old", end="silence"),
    "bye-before-a-bad": said(b"* BYE " + BAD_PASSWORD, b"TAG BAD no"),
    "untagged-no": said(b"* NO " + BAD_PASSWORD),
    "untagged-no-then-silence": said(b"* NO " + BAD_PASSWORD, end="silence"),
    "untagged-no-then-bye": said(b"* NO " + BAD_PASSWORD, b"* BYE closing"),
    "untagged-no-then-unknown": said(b"* NO " + BAD_PASSWORD, b"TAG NO see above"),
    "disabled-no": said(b"TAG NO " + DISABLED),
    "disabled-bye": said(b"* BYE " + DISABLED),
    "disabled-bye-then-silence": said(b"* BYE " + DISABLED, end="silence"),
    "disabled-bye-and-no": said(b"* BYE " + DISABLED, b"TAG NO sorry"),
    "tagged-bye": said(b"TAG BYE Invalid credentials"),
    "tagged-bye-with-a-code": said(b"TAG bye\t[AUTHENTICATIONFAILED] No"),
    "tagged-bye-then-silence": said(b"TAG BYE " + DISABLED, end="silence"),
}


@pytest.mark.parametrize("how", REFUSALS)
@every_offer
def test_a_refusal_is_one_however_it_is_said(server: ScriptedImap, watch: Watch, how: str) -> None:
    """By BYE before, with or after the answer, or by a code: parked, and not tried on and on."""
    server.on("login", REFUSALS[how], instead=True)
    with watch(imap_timeout_seconds=1.0) as watched:
        line = watched.wait_line("the user must act) — parked")
        assert "the server refused the login: " in line
        assert server.connects == 1
        assert watched.count("reconnecting") == 0


GOING_DOWN = b"* NO [ALERT] Going down in a minute"
BROKEN = {
    **{how: said(GOING_DOWN, end=how) for how in ("fin", "rst", "silence")},
    "nothing": said(),
    "bye": said(b"* BYE Server shutting down"),
    "bye-of-nobody-knows-what": said(b"* BYE so long", end="silence"),
    "tagged-bye-of-trouble": said(b"TAG BYE Temporary problem, please try again later"),
    "bye-of-trouble": said(b"* BYE Temporary problem, please try again later"),
    "bye-unavailable": said(b"* BYE [UNAVAILABLE] Overloaded"),
    "untagged-text": said(b"* NO Login failed."),
    "untagged-bad": said(b"* BAD internal server error"),
    "untagged-trouble": said(b"* NO [UNAVAILABLE] Later"),
    "another-tag": said(b"XTAG NO " + BAD_PASSWORD),
    "a-tag-to-come": said(b"TAG9 NO " + BAD_PASSWORD),
    "half-an-answer": lambda c: (c.send(c.tag + b" NO [AUTHENTICATIONFAILED"), c.fin()),
    "trouble-explained": said(b"* BYE [UNAVAILABLE] Overloaded", b"TAG NO see above"),
}


@pytest.mark.parametrize("how", BROKEN)
@every_offer
def test_a_connection_that_breaks_at_login_is_tried_again(
    server: ScriptedImap, watch: Watch, how: str
) -> None:
    """Whatever was said besides, nobody was refused."""
    server.on("login", BROKEN[how], instead=True, times=3)
    with watch(imap_timeout_seconds=1.0) as watched:
        watched.wait_listening(seconds=20)
        assert watched.count("parked:") == watched.count("refused the login") == 0
        assert watched.count("reconnecting in") == 3
