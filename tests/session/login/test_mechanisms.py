"""Mechanisms that are refused, and accounts that are not let in after the login."""

import pytest

from rebreak_idle.status import State
from tests.session.conftest import Watch
from tests.session.login.conftest import BAD_PASSWORD, answers, said
from tests.support.scripted_imap import Connection, ScriptedImap

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
