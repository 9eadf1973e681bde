"""The scan request to the backend; what is below requests is in `connections`."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from functools import cached_property
from http.client import IncompleteRead
from http.cookiejar import DefaultCookiePolicy

import requests
from requests.exceptions import InvalidURL
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NewConnectionError,
)

from .. import __version__
from ..config import Config
from ..errors import BackendUnavailable, ScanFailed
from ..mailbox import Mailbox
from ..tls_errors import forget_tls_errors
from .answer import SECRET_REFUSED, Answer, ScanResult, raise_unless_reached, read_result
from .connections import Adapter, Exchange, UnderWay, error_chain, innermost_error

PATH = "/api/mail/scan-internal"
METHOD_NOT_ALLOWED = 405
MAX_ANSWER_BYTES = 64 * 1024
MAX_ERROR_CHARACTERS = 200
CONNECT_TIMEOUT_SECONDS = 10.0
# urllib3 raises these while it connects. Over plain HTTP it does so within the request.
NOT_CONNECTED = (NewConnectionError, ConnectTimeoutError, LocationParseError)


class _Session(requests.Session):
    """Takes a redirect for an answer like any other."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None. With ``allow_redirects=False`` too, `Session.send` reads the whole body of a
        redirect, however long, and parses its target, which may raise a ValueError.
        """


class ScanClient:
    """Sends scan requests. Any thread may call; a connection is kept alive for the next request."""

    def __init__(self, config: Config) -> None:
        self._url = config.backend_url
        self._timeout_seconds = config.scan_timeout_seconds
        self._secret = {config.admin_secret_header: config.admin_secret}
        self._under_way = UnderWay()
        self._session = _Session()
        self._session.trust_env = False  # no proxies, no .netrc
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._session.headers.clear()
        self._session.headers.update(
            {"user-agent": f"rebreak_idle/{__version__}", "accept-encoding": "identity"}
        )
        # Scans, and as many requests for access tokens.
        self._adapter = Adapter(self._under_way, 2 * config.scan_concurrency)
        self._session.mount("http://", self._adapter)
        self._session.mount("https://", self._adapter)

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult:
        """Ask for one scan and wait for its end.

        Raises:
            ScanFailed: the backend did not answer 2xx; the scan is still owed.
        """
        body = {"connectionId": mailbox.id, "userId": mailbox.user_id, "reason": reason}
        return read_result(self._answer(lambda: self._scan_request(json.dumps(body))))

    @cached_property
    def _scan_of_nobody(self) -> requests.PreparedRequest:
        headers = {**self._secret, "content-type": "application/json"}
        return self._prepare("POST", headers)

    def _scan_request(self, body: str) -> requests.PreparedRequest:
        """Prepared once but for its body: a quarter of the time that a scan takes here."""
        request = self._scan_of_nobody.copy()
        request.prepare_body(body, None)
        return request

    def _prepare(
        self, method: str, headers: dict[str, str], path: str = PATH, body: str | None = None
    ) -> requests.PreparedRequest:
        request = requests.Request(method, self._url + path, headers, data=body)
        return self._session.prepare_request(request)

    def post(self, path: str, body: dict[str, object], seconds: float) -> Answer:
        """POST with the secret; what the backend answers, within so many seconds and within
        SCAN_TIMEOUT_SECONDS.

        Raises:
            ScanFailed: it does not answer.
        """
        headers = {**self._secret, "content-type": "application/json"}
        return self._answer(
            lambda: self._prepare("POST", headers, path, json.dumps(body)),
            min(seconds, self._timeout_seconds),
        )

    def reach(self) -> str:
        """Ask for the scan endpoint in a way that makes no scan; returns what came of it.

        By GET: it names no mailbox, and by its meaning changes nothing (RFC 9110, section 9.2.1). A
        POST is what the endpoint takes for a scan, and OPTIONS is often answered by what stands
        before it (CORS). The secret goes out only where a request without it is refused.

        Raises:
            ScanFailed: nothing answers, or a scan request would fare no better.
        """
        answer = self._answer(lambda: self._prepare("GET", {}))
        is_guarded = answer.status in SECRET_REFUSED
        if is_guarded:
            answer = self._answer(lambda: self._prepare("GET", self._secret))
        raise_unless_reached(answer)
        said = f"{answer.status} {answer.reason} to GET {PATH}"
        if is_guarded:
            return f"{said} with ADMIN_SECRET, and refuses it without"
        if answer.status == METHOD_NOT_ALLOWED:
            return said
        return f"{said}, which does not tell whether the scan endpoint is there"

    def abort_overdue(self) -> None:
        """End the requests whose time is over: time-outs of sockets do not see a slow drip."""
        self._under_way.abort(time.monotonic())

    def abort_all(self) -> None:
        """End all requests under way; they count as failed."""
        self._under_way.abort(float("inf"))

    def close(self) -> None:
        self._session.close()

    def _answer(
        self, prepare: Callable[[], requests.PreparedRequest], seconds: float | None = None
    ) -> Answer:
        """What the backend answers within so many seconds, else within SCAN_TIMEOUT_SECONDS.

        Raises:
            ScanFailed: it does not.
        """
        with self._under_way.exchange(seconds or self._timeout_seconds) as exchange:
            try:
                answer = self._send_or_resend(prepare(), exchange)
                exchange.raise_if_aborted()  # its end may look like the end of the answer
                return answer
            except (requests.RequestException, HTTPError, OSError) as error:
                forget_tls_errors()
                raise self._failure(error, exchange) from error

    def _send_or_resend(self, prepared: requests.PreparedRequest, exchange: Exchange) -> Answer:
        """A connection that was kept alive, and that the backend closed meanwhile (Node does after
        5 s, http.Server keepAliveTimeout), is no failure: the request goes out on a new one.
        """
        try:
            return self._send(prepared, exchange)
        except (requests.RequestException, HTTPError, OSError) as error:
            if not exchange.was_closed_meanwhile(error):
                raise
            forget_tls_errors()
        self._adapter.forget_connections()  # others that were kept alive may be closed too
        exchange.is_sent = False
        return self._send(prepared, exchange)

    def _send(self, prepared: requests.PreparedRequest, exchange: Exchange) -> Answer:
        timeout = exchange.seconds
        with self._session.send(
            prepared,
            stream=True,
            allow_redirects=False,
            timeout=(min(CONNECT_TIMEOUT_SECONDS, timeout), timeout),
        ) as response:
            exchange.is_answered = True
            if response.status_code < 200 and exchange.connection is not None:
                exchange.connection.close()  # the real answer follows: it is nobody else's
            return Answer(
                response.status_code,
                response.reason,
                _body(response),
                response.headers.get("retry-after"),
                response.headers.get("date"),
            )

    def _failure(self, error: Exception, exchange: Exchange) -> ScanFailed:
        """What an exchange without an answer means."""
        cause = innermost_error(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ScanFailed(
                "the backend's certificate is not accepted: set SSL_CERT_FILE to its CA"
            )
        is_connected = exchange.is_sent or exchange.is_aborted
        if not is_connected or any(isinstance(one, NOT_CONNECTED) for one in error_chain(error)):
            text = f"the backend at {self._url} {_why_unreachable(cause)}"
            return BackendUnavailable(text, is_certain=True)
        if time.monotonic() >= exchange.ends_at or isinstance(error, requests.ReadTimeout):
            text = f"the backend did not answer within {exchange.seconds:g}s"
            return BackendUnavailable(text, is_certain=False)
        if any(isinstance(one, IncompleteRead) for one in error_chain(error)):
            return ScanFailed("the backend broke off (its answer is incomplete)")
        return ScanFailed(f"the backend broke off ({_words(cause)})")


def _why_unreachable(cause: BaseException) -> str:
    if isinstance(cause, ConnectionRefusedError):
        return "refuses connections: is it running, is BACKEND_URL right?"
    if isinstance(cause, socket.gaierror | InvalidURL | LocationParseError):
        return "has a name that does not resolve: is BACKEND_URL right?"
    if isinstance(cause, TimeoutError):
        return "does not accept connections in time: is it running, is BACKEND_URL right?"
    return f"cannot be reached ({_words(cause)})"


def _words(error: BaseException) -> str:
    """An error in one line; a server's words may be in it."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return f"{error.__class__.__name__}: {text[:MAX_ERROR_CHARACTERS]}"


def _body(response: requests.Response) -> bytes:
    """The body, up to 64 KiB; the connection is kept alive if that was all of it."""
    content = b""
    while len(content) < MAX_ANSWER_BYTES:
        data = response.raw.read(MAX_ANSWER_BYTES - len(content), decode_content=False)
        if not data:
            break
        content += data
    return content
