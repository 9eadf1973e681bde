"""Faults of our own: whose they are called, and that they leak nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rebreak_idle.errors import SessionLost
from rebreak_idle.imap.connector import Connector
from rebreak_idle.imap.session import Session
from rebreak_idle.mailbox import Mailbox as Row
from tests.support.harness import quick_config
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates

PASSWORD = "secret"


@pytest.fixture
def session(certificates: Certificates) -> Iterator[Session]:
    """A session that is still to be opened, and closed by the test."""
    name = "user@example.org"
    connector = Connector(certificates.client_context(), quick_config())
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        row = Row("1", "u", name, "localhost", server.port, name, "")
        yield connector.session(row, lambda: False)


def test_an_error_in_the_close_of_a_session_leaks_no_socket(session: Session) -> None:
    """Whatever goes wrong in the log-out, the connection is closed."""
    session.open(PASSWORD)
    sock = session._stream.sock
    assert sock is not None
    session._client.transport.log_out = None  # as a fault of ours would have it
    with pytest.raises(TypeError):
        session.close()
    assert sock.fileno() == -1


def test_a_fault_of_ours_is_not_called_the_provider_s(session: Session) -> None:
    """An error that our own code raises leaves the session as what it is."""
    session._mailbox = None  # type: ignore[assignment]  # as a fault of ours would have it
    with pytest.raises(AttributeError):
        session.connect()
    session.close()


def test_what_imaplib_raises_at_a_server_s_words_is_the_server_s(
    certificates: Certificates,
) -> None:
    """8-bit capabilities make imaplib raise a UnicodeDecodeError, which is no fault of ours."""
    name = "user@example.org"
    connector = Connector(certificates.client_context(), quick_config())
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        server.on("greeting", b"* OK [CAPABILITY IMAP4rev1 \xff] hello\r\n", instead=True)
        row = Row("1", "u", name, "localhost", server.port, name, "")
        session = connector.session(row, lambda: False)
        with pytest.raises(SessionLost, match="provider trouble"):
            session.open(PASSWORD)
        session.close()
