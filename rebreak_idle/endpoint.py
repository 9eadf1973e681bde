"""The port of METRICS_LISTEN: /metrics and /healthz."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any, NamedTuple

from .errors import ConfigError
from .faults import UnexpectedErrors
from .log import database_logger as logger
from .values import Listen

# One that is slow does not keep the others waiting.
THREADS = 4
REQUEST_SECONDS = 5.0
PLAIN = "text/plain; charset=utf-8"
_WHY = {
    errno.EADDRINUSE: "another program listens there already: give a free port",
    errno.EACCES: "it takes privileges: give a port from 1024 on",
    errno.EADDRNOTAVAIL: "this machine has no such address: give one of its own",
}


class Page(NamedTuple):
    """What is answered."""

    status: HTTPStatus
    kind: str
    content: bytes


# Makes a page for what the asker accepts.
Pages = dict[str, Callable[[str], Page]]


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; the connection is closed after it (HTTP/1.0)."""

    server: Endpoint
    server_version = "rebreak_idle"
    sys_version = ""
    timeout = REQUEST_SECONDS
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """The whole request is bounded: a byte a second would keep a thread for ever."""
        super().setup()
        self._cut = threading.Timer(REQUEST_SECONDS, self._shut)
        self._cut.daemon = True
        self._cut.start()

    def finish(self) -> None:
        self._cut.cancel()
        super().finish()

    def _shut(self) -> None:
        with suppress(OSError):  # it is over
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        make = self.server.pages.get(self.path.partition("?")[0], _not_found)
        page = make(self.headers.get("accept", ""))
        self.send_response(page.status)
        self.send_header("content-type", page.kind)
        self.send_header("content-length", str(len(page.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.content)

    do_HEAD = do_GET  # noqa: N815  # the name of http.server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it is asked every few seconds."""


def _not_found(_accepted: str) -> Page:
    return Page(HTTPStatus.NOT_FOUND, PLAIN, b"there is /metrics and /healthz\n")


class Endpoint(TCPServer):
    """Listens from its making on, and answers from `start` on.

    Raises:
        ConfigError: nothing can listen there.
    """

    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, listen: Listen) -> None:
        self.pages: Pages = {}
        self._errors = UnexpectedErrors()
        try:
            found = socket.getaddrinfo(*listen, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, address = found[0][0], found[0][4]
            super().__init__(address, _Handler)  # type: ignore[arg-type]  # IPv6 has four parts
        except OSError as error:
            why = _WHY.get(error.errno or 0, error.strerror or str(error))
            raise ConfigError([f"METRICS_LISTEN cannot be used, {listen}: {why}"]) from error

    def start(self, pages: Pages) -> None:
        """Answer by these pages, on threads of its own.

        Raises:
            RuntimeError: the system gives no thread.
        """
        self.pages = pages
        for number in range(THREADS):
            run = threading.Thread(target=self._run, name=f"idle-metrics-{number}", daemon=True)
            run.start()

    def _run(self) -> None:
        while True:
            self.handle_request()

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError:  # no descriptor is left: others may give one back
            time.sleep(1.0)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One asker's trouble is its own; a fault of ours is said."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self._errors.log(logger, error)
