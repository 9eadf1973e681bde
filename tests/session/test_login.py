"""What follows a login that a server refuses or breaks off, with a real worker."""

import logging
import ssl
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from rebreak_idle import recovery
from rebreak_idle.imap.connector import tls_context
from rebreak_idle.log import Logger, log
from rebreak_idle.recovery import Ending, Recovery, Remedy
from rebreak_idle.status import State
from tests.conftest import Run
from tests.support.harness import JudgingBackend, Watched, assert_stays, quick_config
from tests.support.rig import stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

Act = Callable[[Connection], object]
Watch = Callable[..., Watched]

BAD_PASSWORD = b"[AUTHENTICATIONFAILED] Invalid credentials"
DISABLED = b"IMAP access disabled for this account"
OFFERS = {
    "login": ("IMAP4rev1",),
    "plain": ("IMAP4rev1", "LOGINDISABLED", "AUTH=PLAIN"),
    "authenticate-login": ("IMAP4rev1", "LOGINDISABLED", "AUTH=LOGIN"),
}


@pytest.fixture(params=["login"])
def server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[ScriptedImap]:
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as scripted:
        scripted.capabilities_before_login = OFFERS[request.param]
        yield scripted


@pytest.fixture
def backend() -> Iterator[JudgingBackend]:
    with JudgingBackend() as recording:
        yield recording


@pytest.fixture
def context(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    return tls_context()


@pytest.fixture
def watch(server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext) -> Watch:
    """Makes a watched mailbox, to be entered with `with`; keywords as `Watched` has them."""
    return lambda **options: Watched(server, backend, context, **options)


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "REFUSED_RETRY_SECONDS", (0.05, 0.1))


every_offer = pytest.mark.parametrize("server", OFFERS, indirect=True)


def answers(text: bytes) -> Act:
    return lambda c: c.answer(text)


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


def said(*lines: bytes, end: str = "fin", tag: bool = True) -> Act:
    """Lines in one segment, `TAG` in them being the command's; then the end."""

    def act(connection: Connection) -> None:
        connection.send(
            b"".join(b"%s\r\n" % line.replace(b"TAG", connection.tag) for line in lines)
        )
        connection.end(end)

    return act


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


# Waits


@pytest.fixture
def recoveries() -> list[Recovery]:
    """Those of the mailboxes of one host."""
    log.setLevel(logging.CRITICAL)
    config = quick_config(
        reconnect_initial_seconds=5.0, reconnect_max_seconds=300.0, auth_retry_seconds=900.0
    )
    clock = partial(float, 0)
    return [Recovery(config, Logger(str(n)), clock, set()) for n in range(40)]


def waits(recoveries: list[Recovery], remedy: Remedy) -> list[float]:
    for each in recoveries:
        each.begin_attempt()
    return [each.next_try(Ending("trouble", remedy), -1.0)[1] for each in recoveries]


@pytest.mark.parametrize("good", [True, False])
def test_retries_of_refused_logins_spread(recoveries: list[Recovery], good: bool) -> None:
    """The first waits a minute, the second some five; parked ones spread from the second time on.

    Never is a parked one tried sooner than it says.
    """
    remedy = Remedy.CREDENTIALS if good else Remedy.UNCLEAR_REFUSAL
    for each in recoveries:
        each.begin_login("host", 993, "user", "secret")
        if good:
            each.logged_in()
    assert set(waits(recoveries, remedy)) == {60.0}
    second = waits(recoveries, remedy)
    assert len(set(second)) == len(second)
    assert 239 <= min(second) <= max(second) <= 300
    assert set(waits(recoveries, remedy)) == {900.0}
    for doubled in (1800, 3600, 7200, 14400):
        parked = waits(recoveries, remedy)
        assert len(set(parked)) == len(parked)
        assert doubled <= min(parked) <= max(parked) <= 1.2 * doubled
    for _ in range(80):
        longest = waits(recoveries, remedy)
        assert len(set(longest)) == len(longest)
        assert 5 * 3600 <= min(longest) <= max(longest) <= 6 * 3600


def test_retries_after_a_provider_s_trouble_spread(recoveries: list[Recovery]) -> None:
    """Six mailboxes that a limit refused must not try in step, and never do after the first."""
    assert set(waits(recoveries, Remedy.RECONNECT)) == {5.0}
    for doubled in (10, 20, 40, 80, 160, 300, 300):
        spread = sorted(waits(recoveries, Remedy.RECONNECT))
        assert 0.8 * doubled - 1 <= spread[0] <= spread[-1] <= doubled
        assert len(set(spread)) == len(spread)
        assert len({round(wait) for wait in spread}) > 1


def test_a_changed_password_has_yet_to_work(recoveries: list[Recovery]) -> None:
    """Only the login that worked is tried again; the same at another host is another."""
    for login, state in (
        (("host", 993, "user", "secret"), State.BACKING_OFF),
        (("host", 993, "user", "other"), State.PARKED),
        (("elsewhere", 993, "user", "secret"), State.PARKED),
        (("host", 993, "somebody", "secret"), State.PARKED),
    ):
        each = recoveries.pop()
        each.begin_login("host", 993, "user", "secret")
        each.logged_in()
        each.begin_login(*login)
        assert each.next_try(Ending("no", Remedy.CREDENTIALS), -1.0)[0] is state


# What is said


def at_least(watched: Watched, part: str, number: int) -> bool:
    return watched.count(part) >= number


MISSING = {
    "no-inbox": (answers(b"NO [NONEXISTENT] No such mailbox"), "[NONEXISTENT]"),
    "no-right": (answers(b"NO [NOPERM] Permission denied"), "[NOPERM]"),
    "maintenance": (said(b"* BYE Down for maintenance"), "Down for maintenance"),
}


@pytest.mark.parametrize("how", MISSING)
def test_trouble_after_the_login_is_said_once(server: ScriptedImap, watch: Watch, how: str) -> None:
    """Not at each of the attempts, although each logs in."""
    act, words = MISSING[how]
    server.on("examine", act, instead=True)
    with watch() as watched:
        server.wait_for_connections(6)
        assert watched.count(words) == 1
        server.off("examine")
        watched.wait_listening()
        assert watched.worker.status().trouble == ""


@pytest.mark.parametrize(("worked_seconds", "said_again"), [(0.0, True), (60.0, False)])
def test_trouble_is_news_again_after_a_session_that_worked(
    server: ScriptedImap,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    worked_seconds: float,
    said_again: bool,
) -> None:
    """A session that held for a minute is such a one, one that broke at once is not."""
    monkeypatch.setattr(recovery, "WORKED_SECONDS", worked_seconds)
    with watch() as watched:
        for number in range(1, 4):
            wait_for(partial(at_least, watched, "connected (", number), 8.0, "a session")
            server.wait_for_idling()
            server.idling[0].bye(b"See you")
            server.wait_for_connections(number + 1)
        assert watched.count("the server said BYE: See you") == (3 if said_again else 1)


def test_the_reason_is_said_with_each_long_wait(
    server: ScriptedImap, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the last lines learns why, within the hour too."""
    monkeypatch.setattr(recovery, "LONG_WAIT_SECONDS", 0.05)
    server.on("examine", answers(b"NO [NONEXISTENT] No such mailbox"))
    with watch() as watched:
        wait_for(lambda: watched.count("reconnecting") >= 4, 8.0, "four attempts")
        pairs = [line for line in watched.lines if "NONEXISTENT" in line or "reconnecting" in line]
        assert all("NONEXISTENT" in line for line in pairs[0:8:2])
        assert all("reconnecting" in line for line in pairs[1:8:2])


def test_a_parked_mailbox_is_said_with_each_long_wait(
    server: ScriptedImap, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is when the password is refused again."""
    monkeypatch.setattr(recovery, "LONG_WAIT_SECONDS", 0.05)
    server.users = {}
    with watch(auth_retry_seconds=0.1) as watched:
        server.wait_for_connections(3)
        wait_for(lambda: watched.count("parked:") >= 3, 8.0, "three lines")


# Mechanisms


@pytest.mark.parametrize(
    ("mechanisms", "offers"),
    [
        (("AUTH=CRAM-MD5",), "AUTH=CRAM-MD5"),
        (("AUTH=XOAUTH2", "AUTH=CRAM-MD5"), "AUTH=CRAM-MD5, AUTH=XOAUTH2"),
        ((), "no mechanism"),
    ],
)
def test_where_no_password_is_taken(
    server: ScriptedImap, watch: Watch, mechanisms: tuple[str, ...], offers: str
) -> None:
    """Nothing that could be tried is offered: nothing goes out, and no user is blamed."""
    server.capabilities_before_login = ("IMAP4rev1", "LOGINDISABLED", *mechanisms)
    with watch() as watched:
        line = watched.wait_line("the server takes no password here")
        assert f"it offers {offers} (the operator must act) — parked" in line
        assert not [c for c in server.connections[0].commands if b"AUTHENTICATE" in c.line]


COMMAND_REFUSED = [
    b"BAD what?",
    b"BAD Unknown command",
    b"BAD Login failed.",
    b"NO [CANNOT] not like this",
    b"NO [PRIVACYREQUIRED] Plaintext authentication disallowed",
    b"NO LOGIN command is disabled, use AUTHENTICATE",
    b"NO Unsupported command",
]


def refuse_first(connection: Connection, answer: bytes, refused: list[bytes]) -> None:
    """Refuse each kind of login of which the command begins so, once."""
    command = connection.commands[-1].line.split(b" ", 1)[1]
    if any(command.startswith(begin) for begin in refused):
        connection.answer(answer)
    elif command.startswith(b"LOGIN"):
        connection._login()
    else:
        connection._authenticate()


@pytest.mark.parametrize("answer", COMMAND_REFUSED)
@pytest.mark.parametrize(
    "offered", [("AUTH=PLAIN",), ("AUTH=LOGIN",), ("AUTH=PLAIN", "AUTH=LOGIN")]
)
def test_where_only_the_command_is_refused(
    server: ScriptedImap, watch: Watch, answer: bytes, offered: tuple[str, ...]
) -> None:
    """Another way that the server offers is tried at once, before anybody is blamed."""
    server.capabilities_before_login = ("IMAP4rev1", *offered)
    server.on("login", lambda c: refuse_first(c, answer, [b"LOGIN"]), instead=True)
    with watch() as watched:
        watched.wait_listening()
        assert server.connects == 1
        assert watched.count("refuse") == 0


def test_where_two_commands_are_refused(server: ScriptedImap, watch: Watch) -> None:
    """The third may do."""
    server.capabilities_before_login = ("IMAP4rev1", "AUTH=PLAIN", "AUTH=LOGIN")
    refused = [b"LOGIN", b"AUTHENTICATE PLAIN"]
    server.on("login", lambda c: refuse_first(c, b"NO [CANNOT] No", refused), instead=True)
    with watch() as watched:
        watched.wait_listening()
        assert server.connects == 1


def test_a_wrong_password_is_not_sent_twice(server: ScriptedImap, watch: Watch) -> None:
    """What refuses the credentials, or has trouble, has no other way tried: accounts get locked."""
    server.capabilities_before_login = ("IMAP4rev1", "AUTH=PLAIN", "AUTH=LOGIN")
    server.on("login", answers(b"BAD [UNAVAILABLE] Not now"), times=1)
    server.on("login", answers(b"NO " + BAD_PASSWORD))
    with watch() as watched:
        watched.wait_line("the user must act) — parked")
        lines = [command.line for each in server.connections for command in each.commands]
        logins = [line for line in lines if b" LOGIN " in line or b" AUTHENTICATE " in line]
        assert len(logins) == server.connects == 2


@pytest.mark.usefixtures("short_retries")
def test_a_server_that_closes_after_it_refused_the_command(
    server: ScriptedImap, watch: Watch
) -> None:
    """What it said before is what counts."""
    server.capabilities_before_login = ("IMAP4rev1", "AUTH=PLAIN")
    server.on("login", said(b"TAG BAD no such thing"), instead=True)
    with watch() as watched:
        line = watched.wait_line("the user must act) — parked")
        assert "the server refused the login: no such thing" in line
        assert server.connects == 3


# An account that is not let in after the login


NOT_LET_IN = {
    "163": answers(b"NO EXAMINE Unsafe Login. Please contact kefu@188.com for help"),
    "interia": answers(b"NO Please enable IMAP in your mailbox settings"),
    "disabled": answers(b"NO IMAP is disabled"),
    "code": answers(b"NO [AUTHORIZATIONFAILED] not yours"),
    "bye": said(b"* BYE IMAP is disabled"),
    "tagged-bye": said(b"TAG BYE IMAP is disabled"),
    "no-and-bye": said(b"TAG NO IMAP is disabled", b"* BYE closing"),
    "untagged": said(b"* NO [AUTHENTICATIONFAILED] no IMAP here"),
}


@pytest.mark.parametrize("how", NOT_LET_IN)
def test_an_account_that_is_not_let_in_is_parked(
    server: ScriptedImap, watch: Watch, how: str
) -> None:
    """Although its password is right: it is said who must act, and tried as seldom."""
    server.on("examine", NOT_LET_IN[how], instead=True)
    with watch() as watched:
        line = watched.wait_line(
            "the user must act) — parked: next try when the row changes, or in"
        )
        assert "the server refused INBOX: " in line
        assert server.connects == 1
        assert watched.worker.state is State.PARKED


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize("times", [2, None])
def test_an_account_that_was_let_in_before(
    server: ScriptedImap, watch: Watch, times: int | None
) -> None:
    """It is tried again twice, and parked at the third refusal, though each login works."""
    with watch() as watched:
        waits = watched.wait_listening()
        server.wait_for_idling()
        mark = watched.mark()
        server.on("examine", answers(b"NO IMAP is disabled"), times=times)
        server.idling[0].fin()
        if times:
            watched.wait_listening(since=waits)
            assert watched.count("parked:", mark) == 0
        else:
            watched.wait_line("the user must act) — parked", mark)
            assert server.connects == 4


def test_an_account_that_is_let_in_again(server: ScriptedImap, watch: Watch) -> None:
    """The parked mailbox is tried after a while, and works."""
    server.on("examine", answers(b"NO IMAP is disabled"), times=2)
    with watch(auth_retry_seconds=0.1) as watched:
        watched.wait_listening()
        assert server.connects == 3


@pytest.mark.parametrize("server", ["authenticate-login"], indirect=True)
@pytest.mark.parametrize("password", ["secret", "pässwörd", 'a"\\ {5}', "p" * 200])
def test_authenticate_login(server: ScriptedImap, watch: Watch, password: str) -> None:
    """Where nothing else is offered, and with any password."""
    server.users = {"user@example.org": password}
    with watch() as watched:
        watched.wait_listening()
        commands = [command.line.split()[1:] for command in server.connections[0].commands]
        assert commands[0] == [b"AUTHENTICATE", b"LOGIN"]


@pytest.mark.parametrize("server", ["authenticate-login"], indirect=True)
def test_authenticate_login_with_one_question_too_many(server: ScriptedImap, watch: Watch) -> None:
    """The exchange is cancelled, and the server's answer is what counts."""

    def ask_on(connection: Connection) -> None:
        asked = [connection._ask(b"Who?"), connection._ask(b"What?")]
        assert asked == [b"user@example.org", b"secret"]
        connection.send(b"+ \r\n")
        assert connection._read_line() == b"*\r\n"
        connection.answer(b"BAD cancelled")

    server.on("login", ask_on, instead=True)
    with watch() as watched:
        watched.wait_line("the server refused the login: cancelled — nobody knows these words")


def test_nothing_happens_while_parked(server: ScriptedImap, watch: Watch) -> None:
    """No storm: one connection, and no other for as long as one cares to watch."""
    server.on("login", said(b"* BYE " + DISABLED), instead=True)
    with watch() as watched:
        watched.wait_line("parked:")
        assert_stays(lambda: server.connects == 1, 1.0, "one connection")
