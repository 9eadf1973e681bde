"""Dovecot, pymap, Cyrus and Courier do what the tests rely on."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientAbortError, LoginError

from tests.conftest import programs_required
from tests.support.chrooted import Courier, Cyrus
from tests.support.servers import Certificates, Dovecot, Pymap, accepts_connections
from tests.support.waiting import wait_for

ANNOUNCEMENT_SECONDS = 10.0


@contextmanager
def imap(certificates: Certificates, port: int, user: str, password: str) -> Iterator[IMAPClient]:
    """A logged-in client over verified TLS."""
    context = certificates.client_context()
    with IMAPClient("localhost", port, ssl_context=context, timeout=10) as client:
        client.login(user, password)
        yield client


def exists_while_idle(client: IMAPClient) -> int:
    """The number in the next EXISTS that the server announces."""
    announced: list[int] = []

    def announcement() -> int:
        responses = client.idle_check(timeout=1)
        announced.extend(r[0] for r in responses if r[1:] == (b"EXISTS",))
        return announced[-1] if announced else 0

    return wait_for(announcement, ANNOUNCEMENT_SECONDS, "an EXISTS")


MailServer = Dovecot | Cyrus | Courier


@pytest.fixture(params=["dovecot", "cyrus", "courier"])
def mail_server(request: pytest.FixtureRequest) -> MailServer:
    """Each of the servers that people run."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, MailServer)
    return server


def test_a_mail_server_announces_delivered_mail(
    mail_server: MailServer, certificates: Certificates
) -> None:
    """A delivery reaches an IDLE session over TLS, and is counted."""
    mail_server.add_user("idle@example.org", 'pass: "word')
    port = mail_server.imaps_port
    with imap(certificates, port, "idle@example.org", 'pass: "word') as client:
        assert b"IDLE" in client.capabilities()
        client.select_folder("INBOX")
        client.idle()
        sent = mail_server.deliver("idle@example.org", subject="News")
        assert exists_while_idle(client) == 1
        client.idle_done()
        (envelope,) = [data[b"ENVELOPE"] for data in client.fetch([1], "ENVELOPE").values()]
    assert (envelope.subject, envelope.message_id) == (b"News", sent.encode())
    assert mail_server.count("idle@example.org") == 1


def test_a_mail_server_takes_a_new_password_at_once(
    mail_server: MailServer, certificates: Certificates
) -> None:
    """After `set_password` the old password is refused, at once, and the new one works."""
    port = mail_server.imaps_port
    for password in ("first", "other"):
        mail_server.set_password("turn@example.org", password)
        with imap(certificates, port, "turn@example.org", password):
            pass
    with (
        pytest.raises(LoginError, match=r"AUTHENTICATIONFAILED|(?i:login failed)"),
        imap(certificates, port, "turn@example.org", "first"),
    ):
        pass


def test_a_mail_server_kicks_a_session(mail_server: MailServer, certificates: Certificates) -> None:
    """`kick` ends an IDLE session from the server's side; Dovecot says so."""
    mail_server.add_user("kicked@example.org", "secret")
    port = mail_server.imaps_port
    with imap(certificates, port, "kicked@example.org", "secret") as client:
        client.select_folder("INBOX")
        client.idle()
        assert mail_server.sessions("kicked@example.org") == 1
        mail_server.kick("kicked@example.org")
        if isinstance(mail_server, Dovecot):
            assert client.idle_check(timeout=10)[0][0] == b"BYE"
        else:
            with pytest.raises((IMAPClientAbortError, OSError)):
                client.idle_done()
    wait_for(lambda: mail_server.sessions("kicked@example.org") == 0, 10, "the session's end")


def test_a_mail_server_comes_back_with_its_mail(mail_server: MailServer) -> None:
    """Users and mail outlive a restart; meanwhile nobody listens."""
    mail_server.add_user("kept@example.org", "secret")
    mail_server.deliver("kept@example.org")
    with mail_server.down():
        assert not accepts_connections(mail_server.imaps_port)
    assert mail_server.count("kept@example.org") == 1


def test_dovecot_wants_starttls_before_the_login(
    dovecot: Dovecot, certificates: Certificates
) -> None:
    """From outside the password is taken after STARTTLS and not before."""
    dovecot.add_user("starttls@example.org", "secret")
    with IMAPClient(dovecot.starttls_host, dovecot.starttls_port, ssl=False) as client:
        assert b"LOGINDISABLED" in client.capabilities()
        with pytest.raises(LoginError):
            client.login("starttls@example.org", "secret")
        client.starttls(certificates.client_context())
        client.login("starttls@example.org", "secret")
        assert client.select_folder("INBOX")[b"EXISTS"] == 0
    with dovecot.down():
        assert not accepts_connections(dovecot.starttls_port)


@pytest.mark.parametrize(
    ("gamin", "answer_to_done"), [(True, []), (False, [(1, b"EXISTS"), (1, b"RECENT")])]
)
def test_courier_tells_of_mail_at_done_without_gamin(
    certificates: Certificates, gamin: bool, answer_to_done: list[object]
) -> None:
    """Where it fails to get news of files, it warns once and is mute until the end of IDLE."""
    with programs_required():
        server = Courier(certificates, gamin=gamin)
    with server:
        server.add_user("mute@example.org", "secret")
        with server.client("mute@example.org") as client:
            client.select_folder("INBOX")
            client.idle()
            server.deliver("mute@example.org")
            if gamin:
                assert exists_while_idle(client) == 1
            assert client.idle_done()[1] == answer_to_done


def test_pymap_announces_appended_mail(pymap: Pymap, certificates: Certificates) -> None:
    """An append reaches an IDLE session of that user over TLS; IDLE is offered after the login."""
    with IMAPClient("localhost", pymap.port, ssl_context=certificates.client_context()) as client:
        assert b"IDLE" not in client.capabilities()
        client.login(pymap.user, pymap.password)
        assert client.has_capability("IDLE")
        before = client.select_folder("INBOX")[b"EXISTS"]
        client.idle()
        pymap.deliver()
        assert exists_while_idle(client) == before + 1
        client.idle_done()
    assert pymap.count() == before + 1


def test_pymap_keeps_its_users_apart(pymap: Pymap) -> None:
    """There are three users, each with an INBOX of their own."""
    first, second, third = pymap.users
    before = [pymap.count(user) for user in (first, second, third)]
    pymap.deliver(second)
    after = [pymap.count(user) for user in (first, second, third)]
    assert after == [before[0], before[1] + 1, before[2]]


def test_pymap_forgets_its_mail_when_it_is_stopped(certificates: Certificates) -> None:
    """After a restart the mailbox is empty and has another UIDVALIDITY."""
    with Pymap(certificates, {"solo": "secret"}) as server:
        server.deliver("solo")
        with imap(certificates, server.port, "solo", "secret") as client:
            validity = client.select_folder("INBOX")[b"UIDVALIDITY"]
        server.restart()
        with imap(certificates, server.port, "solo", "secret") as client:
            assert client.select_folder("INBOX")[b"UIDVALIDITY"] != validity
        assert server.count("solo") == 0
