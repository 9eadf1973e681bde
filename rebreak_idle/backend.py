"""The scan request to the backend: the only module that knows requests."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .errors import ScanFailed
from .mailbox import Mailbox

PATH = "/api/mail/scan-internal"
MAX_ANSWER_BYTES = 64 * 1024
CONNECT_TIMEOUT_SECONDS = 10.0
# Node closes a connection that was idle for 5 s (http.Server keepAliveTimeout); one that is used
# again sooner is certainly still there.
REUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What the backend's answer tells, None where it does not."""

    scanned: int | None = None
    blocked: int | None = None
    remark: str = ""
    """What somebody should look at although the scan counts as done."""


class Backend:
    """Sends scan requests. Any thread may call; each request has a connection of its own."""

    def __init__(self, url: str, header: str, secret: str, timeout_seconds: float) -> None:
        self._url = url
        self._headers = {header: secret, "content-type": "application/json"}
        self._timeout_seconds = timeout_seconds
        self._context = ssl.create_default_context()
        self._free: list[_Channel] = []
        self._busy: dict[_Channel, float] = {}

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult:
        """Ask for one scan and wait for its end.

        Raises:
            ScanFailed: the backend did not answer 2xx; the scan is still owed.
        """
        body = {"connectionId": mailbox.id, "userId": mailbox.user_id, "reason": reason}
        with self._channel() as channel:
            return _result(
                channel.request(
                    "POST", self._url + PATH, self._timeout_seconds, body, self._headers
                )
            )

    def reach(self) -> str:
        """Ask for the backend's front page, without the secret; returns its status line.

        Raises:
            ScanFailed: nothing answers there.
        """
        with self._channel() as channel:
            status, reason, _, _ = channel.request("GET", self._url, self._timeout_seconds)
        return f"{status} {reason}"

    def cut_overdue(self) -> None:
        """End the requests whose time is over: time-outs of sockets do not see a slow drip."""
        now = time.monotonic()
        self._cut(channel for channel, end in self._busy.copy().items() if end < now)

    def cut_all(self) -> None:
        """End all requests under way; they count as failed."""
        self._cut(self._busy.copy())

    def close(self) -> None:
        while self._free:
            self._free.pop().close()

    @staticmethod
    def _cut(channels: Iterable[_Channel]) -> None:
        for channel in channels:
            channel.cut()

    @contextmanager
    def _channel(self) -> Iterator[_Channel]:
        """A connection to use, kept for the next request if this one went well."""
        channel = self._free.pop() if self._free else _Channel(self._context)
        self._busy[channel] = time.monotonic() + self._timeout_seconds
        try:
            yield channel
        except BaseException:
            channel.close()
            raise
        else:
            self._free.append(channel)
        finally:
            del self._busy[channel]


# Status, reason phrase, headers, body.
Answer = tuple[int, str, Mapping[str, str], bytes]


class _Channel:
    """One connection to the backend, kept alive while requests follow closely."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # no proxies, no .netrc: the secret goes nowhere else
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _Adapter(context, self._connected)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._sock: socket.socket | None = None
        self._used_at = 0.0

    def request(
        self,
        method: str,
        url: str,
        timeout_seconds: float,
        body: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        if time.monotonic() - self._used_at > REUSE_SECONDS:
            self._session.close()
        try:
            with self._session.request(
                method,
                url,
                json=body,
                headers=headers,
                timeout=(min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), timeout_seconds),
                allow_redirects=False,
                stream=True,
            ) as response:
                content = _read(response)
        except Exception as error:
            raise ScanFailed(_why(error, url, timeout_seconds)) from error
        self._used_at = time.monotonic()
        return response.status_code, response.reason or "", response.headers, content

    def cut(self) -> None:
        """Free the thread that waits on this connection. Any thread may call."""
        if self._sock is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self._session.close()

    def _connected(self, sock: socket.socket) -> None:
        self._sock = sock


class _Adapter(HTTPAdapter):
    """Tells of each new socket, and verifies https as all other TLS here: SSL_CERT_FILE counts."""

    def __init__(self, context: ssl.SSLContext, connected: Callable[[socket.socket], None]) -> None:
        self._context = context
        self._connected = connected
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        connected = self._connected

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                connected(self.sock)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                connected(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _read(response: requests.Response) -> bytes:
    """The body, as far as it is of interest."""
    content = b""
    for chunk in response.iter_content(MAX_ANSWER_BYTES):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            response.close()
            break
    return content


def _why(error: Exception, url: str, timeout_seconds: float) -> str:
    if isinstance(error, requests.Timeout):
        return f"the backend did not answer within {timeout_seconds:g}s"
    if isinstance(error, requests.exceptions.SSLError):
        return "the backend's certificate is not accepted: set SSL_CERT_FILE to its CA"
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    if isinstance(cause, ConnectionRefusedError):
        place = url.removesuffix(PATH)
        return f"the backend at {place} refuses connections: is it running, is BACKEND_URL right?"
    return f"the backend broke off ({cause.__class__.__name__}: {cause})"


def _result(answer: Answer) -> ScanResult:
    """The counts in a 2xx answer; whatever else it holds, the scan was done.

    Raises:
        ScanFailed: any other status.
    """
    status, phrase, headers, content = answer
    if not 200 <= status < 300:
        said = _ADVICE.get(status) or content[:2000].decode("utf-8", "replace").strip()
        if 300 <= status < 400:
            said = "redirects are not followed: set BACKEND_URL to where the backend itself listens"
        raise ScanFailed(
            f"the backend answered {status} {phrase}" + (f" ({said})" if said else ""),
            _retry_after_seconds(headers.get("retry-after"), datetime.now(UTC)),
        )
    counts = _json_object(content)
    if counts is None and content.strip():
        return ScanResult(remark="the backend's answer is no JSON object: is BACKEND_URL right?")
    counts = counts or {}
    return ScanResult(_count(counts.get("scanned")), _count(counts.get("blocked")))


_WRONG_SECRET = "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong"  # noqa: S105  # no secret
_ADVICE = {
    401: _WRONG_SECRET,
    403: _WRONG_SECRET,
    404: "BACKEND_URL does not lead to the scan endpoint, or the backend does not know the id",
}


def _retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Retry-After, given as seconds or as a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _count(value: object) -> int | None:
    """A number fit for the log."""
    plausible = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12
    return value if plausible else None  # type: ignore[return-value]  # checked just now
