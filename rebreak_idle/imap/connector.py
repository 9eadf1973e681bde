"""What all sessions share, and where they come from."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable

from ..config import Config
from ..mailbox import Mailbox
from .addresses import Resolver
from .network import Resumption, TlsSocket
from .session import Session
from .stream import Stream


def tls_context() -> ssl.SSLContext:
    """The one context that all sessions share: TLS 1.2 or newer, chains and names verified.

    OpenSSL's SSL_CERT_FILE and SSL_CERT_DIR name a private CA. A context for each connection would
    cost about 900 KiB of memory each.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Connector:
    """Makes sessions; one for the whole program, shared by all threads."""

    def __init__(self, context: ssl.SSLContext, config: Config) -> None:
        self._context = context
        self._context.sslsocket_class = TlsSocket
        self._config = config
        self.resolver = Resolver(config.imap_allow_private_hosts, time.monotonic)
        self._resumptions: dict[tuple[str, int], Resumption] = {}

    def session(self, mailbox: Mailbox, is_stopping: Callable[[], bool]) -> Session:
        """A session that is still to be opened; its waits end when ``is_stopping`` says so."""
        server = (mailbox.host.lower(), mailbox.port)
        resumption = self._resumptions.setdefault(server, Resumption())
        stream = Stream(is_stopping, self._config.imap_timeout_seconds, resumption)
        return Session(mailbox, stream, self._context, self.resolver)

    def forget_all_but(self, mailboxes: list[Mailbox]) -> None:
        """Let go of what is kept of servers that none of these mailboxes leads to."""
        named = {(mailbox.host.lower(), mailbox.port) for mailbox in mailboxes}
        for server in set(self._resumptions) - named:
            self._resumptions.pop(server, None)
