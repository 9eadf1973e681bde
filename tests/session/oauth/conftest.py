"""Logins by access token, with a real worker, a real backend and servers that behave like Gmail's
and Outlook's.
"""

import ssl
from collections.abc import Iterator

import pytest

from tests.session.conftest import Watch
from tests.support.harness import JudgingBackend, Watched
from tests.support.oauth import TokenMint
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates

LOGIN = "gina@example.org"


@pytest.fixture
def mint() -> TokenMint:
    return TokenMint()


@pytest.fixture
def server(
    certificates: Certificates, mailbox: Mailbox, mint: TokenMint, backend: JudgingBackend
) -> Iterator[ScriptedImap]:
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as scripted:
        mint.serve(backend, scripted)
        yield scripted


@pytest.fixture
def watch(server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext) -> Watch:
    """Makes a watched mailbox, to be entered with `with`; keywords as `Watched` has them."""
    return lambda **options: Watched(
        server, backend, context, **{"login": LOGIN, "oauth2": True, **options}
    )


def fresh_flags(backend: JudgingBackend) -> list[bool]:
    return [request.body["fresh"] for request in backend.token_requests]


def logins_of(server: ScriptedImap) -> list[bytes]:
    """The login commands that came, without their tags."""
    commands = [each.line for connection in server.connections for each in connection.commands]
    return [line.split(b" ", 1)[1] for line in commands if b"AUTHENTICATE" in line]
