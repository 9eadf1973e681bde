"""Everything that runs, started and ended in order."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError

from scripts.tools import console
from scripts.tools.child import Program
from scripts.tools.console import BOLD, Failure, painted, pause
from scripts.tools.demo.daemons import Daemons
from scripts.tools.demo.inbox import Inbox
from scripts.tools.demo.watch import Watch
from scripts.tools.servers import ROOT, OwnPostgres, OwnPymap, base_environment
from tests.support.rig import stored
from tests.support.servers import Certificates, Database, name_of_postgres, server_folder

READY_WITHIN_SECONDS = 30.0
BACKEND = ("-m", "scripts.tools.stand_in_backend", "--port", "0")
LISTENING = "listening on "


def say(text: str) -> None:
    """A line of the demo's own."""
    console.show(f"{painted('[demo]', BOLD)} {text}")


class Stage:
    """Everything that runs. To be used as `with stage(…) as …`."""

    def __init__(
        self, daemons: Daemons, backend: Program, inboxes: Sequence[Inbox], watch: Watch
    ) -> None:
        self.daemons = daemons
        self.inboxes = inboxes
        self.watch = watch
        self._backend = backend

    def wait_for(self, happened: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until it has happened.

        Raises:
            Failure: it has not within ``seconds``, or a program has ended.
            Stopped: somebody asked for it.
        """

        def look() -> bool:
            self._backend.check()
            self.daemons.check()
            return happened()

        if not console.wait_until(look, seconds):
            raise Failure(f"waited {seconds:g} s in vain: {what}")


@contextmanager
def stage(addresses: Sequence[str], instances: int, problems: list[str]) -> Iterator[Stage]:
    """Start everything, with so many daemons; end it in order, the daemons first.

    What is wrong with their ends goes to ``problems``.

    Raises:
        Stopped: somebody asked for it during the start.
    """
    with ExitStack() as parts:
        folder = parts.enter_context(server_folder())
        certificates = Certificates(folder)
        pause(0)
        say(f"starting PostgreSQL ({name_of_postgres()}, for this run only)")
        database = parts.enter_context(Database(parts.enter_context(OwnPostgres())))
        pause(0)
        say(f"starting an IMAP server over TLS with {_mailboxes(addresses)}")
        users = {address: secrets.token_urlsafe() for address in addresses}
        mail_server = parts.enter_context(OwnPymap(certificates, users))
        environment = _environment(database, certificates)
        _add_rows(database, mail_server, environment["ENCRYPTION_KEY"])
        pause(0)
        say("starting the stand-in for the backend")
        backend = _start_backend(parts, environment, folder)
        inboxes = [_open_inbox(parts, certificates, mail_server, address) for address in addresses]
        pause(0)
        several = instances > 1
        who = f"{instances} daemons" if several else "the daemon"
        whose = "their own logs, after their names" if several else "its own log"
        say(f"starting {who}; from here on, the [idle/…] lines are {whose}")
        watch = Watch()
        daemons = Daemons(instances, database, watch.take)
        parts.callback(lambda: _end_daemons(daemons, problems))
        daemons.start(environment, folder)
        yield Stage(daemons, backend, inboxes, watch)


def _mailboxes(addresses: Sequence[str]) -> str:
    if len(addresses) > 3:
        return f"{len(addresses)} mailboxes, {addresses[0]} to {addresses[-1]}"
    return f"the mailbox{'es' if len(addresses) > 1 else ''} {', '.join(addresses)}"


def _environment(database: Database, certificates: Certificates) -> dict[str, str]:
    """What the daemon and the backend run with."""
    return {
        **base_environment(),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": database.url,
        "ADMIN_SECRET": secrets.token_urlsafe(),
        "ENCRYPTION_KEY": secrets.token_urlsafe(32),
        "SSL_CERT_FILE": str(certificates.ca_pem),
        "IMAP_ALLOW_PRIVATE_HOSTS": "true",
    }


def _add_rows(database: Database, mail_server: OwnPymap, key: str) -> None:
    for address, password in mail_server.users.items():
        sealed = stored(password, key)
        database.add(address, imap_port=mail_server.port, password_encrypted=sealed)


def _start_backend(parts: ExitStack, environment: dict[str, str], folder: Path) -> Program:
    """Start the stand-in, and put its address into ``environment``."""
    urls: list[str] = []

    def read(line: str) -> None:
        if LISTENING in line:
            urls.append(line.partition(LISTENING)[2])

    name = "the stand-in backend"
    backend = Program(name, *BACKEND, environment=environment, folder=folder, on_line=read)
    parts.callback(backend.end_in_order)

    def listening() -> bool:
        backend.check()
        return bool(urls)

    if not console.wait_until(listening, READY_WITHIN_SECONDS):
        raise Failure(f"{name} does not listen")
    environment["BACKEND_URL"] = urls[0]
    return backend


def _open_inbox(
    parts: ExitStack, certificates: Certificates, mail_server: OwnPymap, address: str
) -> Inbox:
    context = certificates.client_context()
    client = IMAPClient("localhost", mail_server.port, ssl_context=context, timeout=10)
    parts.callback(_close, client)
    # imaplib ends an APPEND with a write of its own, which Nagle's algorithm would hold back.
    client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.login(address, mail_server.users[address])
    return Inbox(address, client)


def _close(client: IMAPClient) -> None:
    with suppress(IMAPClientError, OSError):
        client.logout()


def _end_daemons(daemons: Daemons, problems: list[str]) -> None:
    say(f"stopping the daemon{'s' if daemons.are_several else ''}, then the rest")
    problems += daemons.end()
