"""The cut in a login by token: after every single byte that the server says, no mail is lost."""

import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from rebreak_idle.imap.connector import tls_context
from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.oauth import TokenMint
from tests.support.scripted_imap import OUTLOOK_NO, CutAfter, Mailbox, ScriptedImap
from tests.support.servers import Certificates

AT_ONCE = {"fin": 12, "rst": 12, "silence": 24}
TIME_OUT_SECONDS = {"fin": 5.0, "rst": 5.0, "silence": 0.5}
WITHIN_SECONDS = 20.0


class Login:
    """One login whose server takes the token, or refuses the first one in somebody's way."""

    def __init__(self, certificates: Certificates, mechanism: str, way: str) -> None:
        self._certificates = certificates
        self._context = tls_context()
        self._mechanism = mechanism
        self._way = way

    def bytes_said(self) -> int:
        """How much the server says on its first connection, up to EXAMINE or its end."""
        return self._run(None, "fin")

    def cut_after(self, n_bytes: int, how: str) -> None:
        """Cut the first connection there.

        Raises:
            AssertionError: a mail was lost.
        """
        self._run(n_bytes, how)

    def _run(self, n_bytes: int | None, how: str) -> int:
        mailbox, mint = Mailbox(), TokenMint()
        cut = None
        if n_bytes is not None:
            cut = CutAfter(n_bytes, how, callback=lambda: mailbox.arrive(announce=False))
        with (
            JudgingBackend() as backend,
            ScriptedImap(
                mailbox, tls_context=self._certificates.server_context(), cut=cut
            ) as server,
        ):
            mint.serve(backend, server)
            self._bend(server, mint)
            said: list[int] = []
            server.on("examine", lambda c: said.append(server.connections[0].sent_bytes), times=1)
            watched = self._watched(server, backend, how)
            with watched:
                watched.wait_listening(seconds=WITHIN_SECONDS)
                if cut is not None and cut.fired.is_set():
                    assert_promise(mailbox, backend, WITHIN_SECONDS)
                assert watched.count("parked") == 0
            return said[0]

    def _watched(self, server: ScriptedImap, backend: JudgingBackend, how: str) -> Watched:
        return Watched(
            server,
            backend,
            self._context,
            login="gina@example.org",
            oauth2=True,
            imap_timeout_seconds=TIME_OUT_SECONDS[how],
        )

    def _bend(self, server: ScriptedImap, mint: TokenMint) -> None:
        server.capabilities_before_login = ("IMAP4rev1", f"AUTH={self._mechanism}")
        if self._way == "taken":
            return
        good: Callable[[str, str], bool] = server.takes_token
        refused: set[str] = set()

        def takes(login: str, token: str) -> bool:
            if not refused:
                refused.add(token)
            return token not in refused and good(login, token)

        server.takes_token = takes
        if self._way == "outlook":
            server.refuse_token = lambda c: c.answer(OUTLOOK_NO)


@pytest.fixture(autouse=True)
def trust(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    return tls_context()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", AT_ONCE)
@pytest.mark.parametrize(
    ("mechanism", "way"),
    [("XOAUTH2", "taken"), ("XOAUTH2", "gmail"), ("OAUTHBEARER", "gmail"), ("XOAUTH2", "outlook")],
)
def test_the_login_cut_after_every_byte(
    certificates: Certificates, how: str, mechanism: str, way: str
) -> None:
    """Wherever the server falls away, the next login works, and the mail is scanned."""
    login = Login(certificates, mechanism, way)
    length = login.bytes_said()
    assert length > 50
    with ThreadPoolExecutor(AT_ONCE[how]) as pool:
        list(pool.map(lambda n_bytes: login.cut_after(n_bytes, how), range(length + 1)))
