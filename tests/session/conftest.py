"""One mailbox, a scripted server, a backend, and what watches the one and scans at the other."""

import ssl
from collections.abc import Callable, Iterator

import pytest

from rebreak_idle.imap.connector import tls_context
from tests.support.harness import JudgingBackend, Watched
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates

Watch = Callable[..., Watched]


def secured(mailbox: Mailbox, certificates: Certificates, how: str) -> ScriptedImap:
    """A server with TLS from the first byte ("tls"), with STARTTLS ("starttls"), or neither."""
    context = certificates.server_context()
    tls = context if how == "tls" else None
    starttls = context if how == "starttls" else None
    return ScriptedImap(mailbox, tls_context=tls, starttls_context=starttls)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(exists=4)


@pytest.fixture
def server(mailbox: Mailbox, certificates: Certificates) -> Iterator[ScriptedImap]:
    with secured(mailbox, certificates, "tls") as scripted:
        yield scripted


@pytest.fixture
def backend() -> Iterator[JudgingBackend]:
    with JudgingBackend() as judging:
        yield judging


@pytest.fixture
def context(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The program's own, which trusts the tests' CA as an operator would have it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    return tls_context()


@pytest.fixture
def watch(server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext) -> Watch:
    """Makes a watched mailbox, to be entered with `with`; keywords as `Watched` has them."""
    return lambda **options: Watched(server, backend, context, **options)
