"""pymap's memory backend."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imapclient import IMAPClient

from tests.support.servers.base import Server, accepts_connections, free_port
from tests.support.servers.certificates import Certificates
from tests.support.servers.mail import message

PYMAP_PROGRAM = Path(__file__).parents[1] / "serve_pymap.py"


class Pymap(Server):
    """pymap with its memory backend, over TLS from the first byte.

    The `pymap` command knows one user and STARTTLS only, so its parts are put together in
    `serve_pymap.py`, in a process of its own. Stopping it loses all mail, and it comes back with
    another UIDVALIDITY.
    """

    name = "pymap"

    def __init__(self, certificates: Certificates, users: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.users = dict(users or {f"box{n}@example.org": f"secret {n}" for n in (1, 2, 3)})
        self.user, self.password = next(iter(self.users.items()))
        self.port = free_port()
        self._certificates = certificates

    def deliver(
        self,
        user: str | None = None,
        subject: str = "Hello",
        sender: str = "sender@example.org",
        body: str = "Hello there.",
    ) -> str:
        """Append a new message to the user's INBOX over IMAP; its Message-ID."""
        user = user or self.user
        mail = message(user, subject, sender, body)
        self._as_user(user, lambda client: client.append("INBOX", mail.as_bytes()))
        return str(mail["Message-ID"])

    def count(self, user: str | None = None) -> int:
        """How many messages the user's INBOX holds."""
        status = self._as_user(
            user or self.user, lambda client: client.folder_status("INBOX", ["MESSAGES"])
        )
        return int(status[b"MESSAGES"])

    def _as_user(self, user: str, action: Callable[[IMAPClient], Any]) -> Any:
        context = self._certificates.client_context()
        with IMAPClient("127.0.0.1", self.port, ssl_context=context, timeout=10) as client:
            client.login(user, self.users[user])
            return action(client)

    def _command(self) -> Sequence[str | Path]:
        certificate = self._certificates.server
        users = [f"{name}:{password}" for name, password in self.users.items()]
        files = (certificate.cert_pem, certificate.key_pem)
        return [sys.executable, PYMAP_PROGRAM, str(self.port), *files, *users]

    def _ready(self) -> bool:
        return accepts_connections(self.port)
