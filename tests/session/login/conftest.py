"""What follows a login that a server refuses or breaks off, with a real worker."""

from collections.abc import Callable, Iterator

import pytest

from rebreak_idle import recovery
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates

Act = Callable[[Connection], object]

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
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "REFUSED_RETRY_SECONDS", (0.05, 0.1))


every_offer = pytest.mark.parametrize("server", OFFERS, indirect=True)


def answers(text: bytes) -> Act:
    return lambda c: c.answer(text)


def said(*lines: bytes, end: str = "fin", tag: bool = True) -> Act:
    """Lines in one segment, `TAG` in them being the command's; then the end."""

    def act(connection: Connection) -> None:
        connection.send(
            b"".join(b"%s\r\n" % line.replace(b"TAG", connection.tag) for line in lines)
        )
        connection.end(end)

    return act
