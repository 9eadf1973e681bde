"""requests' connections, with a bound on the whole request and OpenSSL's trust."""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError


class Exchange:
    """One request, and the connection that it goes over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends_at = time.monotonic() + seconds
        self.connection: HTTPConnection | None = None
        self.is_reused = self.is_sent = self.is_answered = self.is_aborted = False

    def raise_if_aborted(self) -> None:
        """Raises:
        ConnectionAbortedError: the request was ended from another thread.
        """
        if self.is_aborted:
            raise ConnectionAbortedError("aborted")

    def was_closed_meanwhile(self, error: Exception) -> bool:
        """Whether the backend closed a connection that was kept alive, and said nothing."""
        broken = (RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
        return (
            self.is_reused
            and not self.is_answered
            and not self.is_aborted
            and time.monotonic() < self.ends_at
            and isinstance(innermost_error(error), broken)
        )


class UnderWay:
    """The requests under way, and their connections. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self._of_thread = threading.local()

    @contextmanager
    def exchange(self, seconds: float) -> Iterator[Exchange]:
        """One request of this thread, which may take so many seconds."""
        exchange = self._of_thread.exchange = Exchange(seconds)
        with self._lock:
            self._exchanges.add(exchange)
        try:
            yield exchange
        finally:
            with self._lock:
                self._exchanges.remove(exchange)

    def of_this_thread(self) -> Exchange:
        """The exchange of the thread that calls."""
        exchange: Exchange = self._of_thread.exchange
        return exchange

    def abort(self, now: float) -> None:
        """End those whose time is over by then.

        By the unbound method: that of `SSLSocket` takes the TLS layer from under a reader.
        """
        with self._lock:
            overdue = [exchange for exchange in self._exchanges if exchange.ends_at <= now]
        for exchange in overdue:
            exchange.is_aborted = True
            sock = getattr(exchange.connection, "sock", None)
            if sock is not None:
                with suppress(OSError):  # closed meanwhile
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Lines(io.BufferedReader):
    """An answer whose lines are whole: http.client takes the end of a connection for the end of a
    head, or of a chunked body.
    """

    has_begun = False

    def readline(self, size: int | None = -1, /) -> bytes:
        try:
            line = super().readline(size)
        except ConnectionError as error:
            if self.has_begun:
                raise IncompleteRead(b"") from error
            raise
        is_whole = line.endswith(b"\n") or len(line) == size
        if not is_whole and (line or self.has_begun):
            raise IncompleteRead(line)
        self.has_begun = True
        return line


class WholeResponse(HTTPResponse):
    """An answer that is torn in its head, or before the end of its last chunk, is none."""

    def begin(self) -> None:
        if not isinstance(self.fp, Lines):
            self.fp = Lines(self.fp.detach())  # nothing was read of it yet
        super().begin()


class TrackedConnection:
    """A connection that tells the exchange of its thread what becomes of it."""

    under_way: UnderWay
    response_class = WholeResponse
    sent = 0
    _pieces: list[bytes] | None = None

    def connect(self) -> None:
        exchange = self.under_way.of_this_thread()
        exchange.connection = self  # type: ignore[assignment]  # a mixin
        exchange.is_reused, self.sent = False, 0
        super().connect()  # type: ignore[misc]
        exchange.raise_if_aborted()  # `abort` may have found no socket

    def request(self, *args: Any, **kwargs: Any) -> None:
        exchange = self.under_way.of_this_thread()
        exchange.connection = self  # type: ignore[assignment]
        exchange.raise_if_aborted()
        exchange.is_reused, exchange.is_sent = self.sent > 0, True
        pieces: list[bytes] = []
        self._pieces = pieces
        try:
            super().request(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._pieces = None
        self.send(b"".join(pieces))  # it may connect anew
        self.sent += 1

    def send(self, data: bytes) -> None:
        """Send head and body as one piece: each lets go of the interpreter, which others want."""
        if self._pieces is None:
            super().send(data)  # type: ignore[misc]
        else:
            self._pieces.append(data)


class Adapter(HTTPAdapter):
    """requests' adapter over tracked connections to one server.

    Certificates are checked against what OpenSSL trusts (SSL_CERT_FILE, SSL_CERT_DIR), not against
    the list that comes with requests.
    """

    def __init__(self, under_way: UnderWay, connections: int) -> None:
        self._under_way = under_way
        self._pool: HTTPConnectionPool | None = None
        super().__init__(pool_connections=1, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **kwargs)
        members = {"under_way": self._under_way}
        plain = type("Connection", (TrackedConnection, HTTPConnection), members)
        secure = type("SecureConnection", (TrackedConnection, HTTPSConnection), members)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """The one pool; to look it up for each request took a tenth of the time of a scan."""
        pool = self._pool
        if pool is None:
            self._pool = pool = self.poolmanager.connection_from_url(request.url)
        return pool

    def close(self) -> None:
        """Close the connections that are kept alive; later requests make new ones."""
        if self._pool is not None:
            self._pool.close()
        self.forget_connections()

    def forget_connections(self) -> None:
        """Let the next request make a new connection; those in use go on."""
        self._pool = None
        self.poolmanager.clear()

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context verifies; requests would load its own list into it."""


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def innermost_error(error: BaseException) -> BaseException:
    """The error of the socket or of http.client that requests and urllib3 wrap."""
    for found in error_chain(error):
        ours = isinstance(found, requests.RequestException | HTTPError)
        if isinstance(found, OSError | HTTPException) and not ours:
            return found
    return error
