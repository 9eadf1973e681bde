"""The scan request to the backend: the only module that knows requests."""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from .errors import ScanFailed
from .mailbox import Mailbox
from .turns import away

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
        self._scan = requests.Request(
            "POST", url + PATH, headers={header: secret, "content-type": "application/json"}
        ).prepare()
        del self._scan.headers["content-length"]  # of no body
        self._reach = requests.Request("GET", url).prepare()
        self._timeout_seconds = timeout_seconds
        self._context = ssl.create_default_context()
        self._context.sslsocket_class = _SecureSocket
        self._free: list[_Channel] = []
        self._busy: dict[_Channel, float] = {}

    def scan(self, mailbox: Mailbox, reason: str) -> ScanResult:
        """Ask for one scan and wait for its end.

        Raises:
            ScanFailed: the backend did not answer 2xx; the scan is still owed.
        """
        body = {"connectionId": mailbox.id, "userId": mailbox.user_id, "reason": reason}
        request = copy(self._scan)
        request.body = json.dumps(body).encode()
        return _result(self._answer(request))

    def reach(self) -> str:
        """Ask for the backend's front page, without the secret; returns its status line.

        Raises:
            ScanFailed: nothing answers there.
        """
        answer = self._answer(self._reach)
        return f"{answer.status_code} {answer.reason}"

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

    def _answer(self, request: requests.PreparedRequest) -> requests.Response:
        """What the backend answers; the connection is kept if all went well.

        Raises:
            ScanFailed: it does not.
        """
        channel = self._free.pop() if self._free else _Channel(urlsplit(self._url), self._context)
        self._busy[channel] = time.monotonic() + self._timeout_seconds
        try:
            answer = channel.send(request, self._timeout_seconds)
        except Exception as error:
            channel.close()
            raise ScanFailed(self._why(error)) from error
        finally:
            del self._busy[channel]
        self._free.append(channel)
        return answer

    def _why(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"the backend did not answer within {self._timeout_seconds:g}s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return "the backend's certificate is not accepted: set SSL_CERT_FILE to its CA"
        if isinstance(error, ConnectionRefusedError):
            return (
                f"the backend at {self._url} refuses connections: is it running, is BACKEND_URL "
                "right?"
            )
        return f"the backend broke off ({error.__class__.__name__}: {error})"


class _PlainSocket(socket.socket):
    """Lets others run while it waits for what it is to receive."""

    def recv_into(self, *args: Any) -> int:
        with away:
            return super().recv_into(*args)


class _SecureSocket(_PlainSocket, ssl.SSLSocket):
    """The same over TLS."""


class _Plain(http.client.HTTPConnection):
    """Sends head and body of a request in one piece, when `flush` is called."""

    _unsent = b""

    def connect(self) -> None:
        with away:
            super().connect()
        if type(self.sock) is socket.socket:
            self.sock = _PlainSocket(fileno=self.sock.detach())

    def send(self, data: Any) -> None:
        self._unsent += data

    def flush(self) -> None:
        data, self._unsent = self._unsent, b""
        super().send(data)


class _Secure(_Plain, http.client.HTTPSConnection):
    """The same over TLS."""


class _Channel(BaseAdapter):
    """One connection to the backend, kept alive while requests follow closely.

    What requests' own adapter does besides, for proxies, cookies and pools of connections to many
    places, is of no use here and would be two thirds of what a scan request costs.
    """

    def __init__(self, url: SplitResult, context: ssl.SSLContext) -> None:
        super().__init__()
        host, secure = url.hostname or "", url.scheme == "https"
        port = url.port or (443 if secure else 80)
        self._connection = _Secure(host, port, context=context) if secure else _Plain(host, port)
        self._sock: socket.socket | None = None
        self._used_at = 0.0

    def send(  # type: ignore[override]  # not given what it has no use for
        self, request: requests.PreparedRequest, timeout: float
    ) -> requests.Response:
        """Send the request as it is and read the answer, of its body 64 KiB at most."""
        connection = self._connection
        if connection.sock is not None and not self._is_fresh():
            connection.close()
        connection.request(
            request.method or "", request.path_url, request.body, dict(request.headers)
        )
        if connection.sock is None:
            self._connect(timeout)
        connection.flush()
        answer = connection.getresponse()
        length, content = answer.length, answer.read(MAX_ANSWER_BYTES)
        if length is not None and len(content) < min(length, MAX_ANSWER_BYTES):
            raise http.client.IncompleteRead(content, length - len(content))
        if not answer.isclosed() or answer.status < HTTPStatus.OK:
            connection.close()  # there is more to come
        self._used_at = time.monotonic()
        return _response(answer, content)

    def _is_fresh(self) -> bool:
        """Whether the connection is certainly still there; what there is to read can be its end."""
        poller = select.poll()
        poller.register(self._connection.sock, select.POLLIN)
        return time.monotonic() - self._used_at < REUSE_SECONDS and not poller.poll(0)

    def _connect(self, timeout: float) -> None:
        connection = self._connection
        connection.timeout = min(CONNECT_TIMEOUT_SECONDS, timeout)
        connection.connect()
        connection.sock.settimeout(timeout)
        self._sock = connection.sock

    def cut(self) -> None:
        """Free the thread that waits on this connection. Any thread may call."""
        if self._sock is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


def _response(answer: http.client.HTTPResponse, content: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code, response.reason = answer.status, answer.reason
    response.headers = CaseInsensitiveDict(answer.getheaders())
    response.raw = BytesIO(content)
    return response


def _result(answer: requests.Response) -> ScanResult:
    """The counts in a 2xx answer; whatever else it holds, the scan was done.

    Raises:
        ScanFailed: any other status.
    """
    status, content = answer.status_code, answer.raw.read()
    if not 200 <= status < 300:
        said = _ADVICE.get(status) or content[:2000].decode("utf-8", "replace").strip()
        if 300 <= status < 400:
            said = "redirects are not followed: set BACKEND_URL to where the backend itself listens"
        raise ScanFailed(
            f"the backend answered {status} {answer.reason}" + (f" ({said})" if said else ""),
            _retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC)),
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
