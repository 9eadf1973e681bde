"""Names that lead where a test says, certificates for them, and addresses where nobody answers."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from rebreak_idle.imap.addresses import Address, Resolver
from rebreak_idle.mailbox import Mailbox as Row
from tests.support.daemon import REPOSITORY
from tests.support.rig import stored
from tests.support.servers import Database

DOMAIN = "customers.example"
EVERY_COLUMN = "SELECT * FROM mail_connections WHERE is_active"
LOGIN = "user@example.org"

# Imported by every Python that has its folder in PYTHONPATH.
SITE = """
import json, os, socket

real = socket.getaddrinfo

def getaddrinfo(host, *args, **more):
    with open(os.environ["TEST_NAMES"]) as file:
        found = json.load(file).get(host)
    if found == []:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return [entry for address in found or [host] for entry in real(address, *args, **more)]

socket.getaddrinfo = getaddrinfo
"""


class Names:
    """Names for a daemon of its own, in a folder; a certificate for all of `DOMAIN`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "names.json"
        self._led: dict[str, tuple[str, ...]] = {}
        self._authority = trustme.CA()
        (folder / "sitecustomize.py").write_text(SITE)
        self._authority.cert_pem.write_to_path(folder / "names-ca.pem")
        self.environment = {
            "PYTHONPATH": f"{folder}:{REPOSITORY}",
            "TEST_NAMES": str(self._file),
            "SSL_CERT_FILE": str(folder / "names-ca.pem"),
            "MAIL_CONNECTIONS_QUERY": EVERY_COLUMN,
        }
        self._write()

    def lead(self, name: str, *addresses: str) -> None:
        """Have a name lead to these addresses, in this order; to none, it does not resolve."""
        self._led[name] = addresses
        self._write()

    def server_context(self, *names: str) -> ssl.SSLContext:
        """What a server shows for these names; without any, for all of `DOMAIN`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(names or (f"*.{DOMAIN}",))).configure_cert(context)
        return context

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._led))
        new.replace(self._file)


def add_mailbox(database: Database, name: str, host: str, port: int, **columns: object) -> None:
    """A row `name`@example.org at a host."""
    defaults = {"imap_username": LOGIN, "password_encrypted": stored("secret")}
    database.add(f"{name}@example.org", imap_host=host, imap_port=port, **{**defaults, **columns})


def row(host: str = "h", port: int = 993, starttls: bool = False, id_: str = "1") -> Row:
    """A mailbox at a host, as the daemon knows it."""
    return Row(id_, "u", "user@example.org", host, port, "user", "", starttls)


class LocalNames(Resolver):
    """Every name leads to this machine, and nobody is asked."""

    def __init__(self) -> None:
        super().__init__(True, float)

    def at_hand(self, host: str, port: int) -> list[Address]:
        return [(socket.AF_INET, ("127.0.0.1", port))]


@contextmanager
def silent_address(host: str, port: int = 0) -> Iterator[tuple[str, int]]:
    """An address that swallows SYNs: a server whose backlog is full."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((host, port), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[:2]
