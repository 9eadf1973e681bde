"""The scan request to the backend: the only module that knows requests."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import requests

from ..errors import ScanFailed
from ..mailbox import Mailbox
from ..poller import READABLE, WRITABLE, Watch, poller
from ..turns import Signal, away

PATH = "/api/mail/scan-internal"
MAX_ANSWER_BYTES = 64 * 1024
CONNECT_TIMEOUT_SECONDS = 10.0
# A success with a length and none of what changes how a body is read (RFC 9112, section 6.3).
MAX_PLAIN_BYTES = 4096
_ORDINARY = rb"(?!Connection:|Transfer-Encoding:|Content-Length:)[!-9;-~]+:[^\r\n]*\r\n"
_KEPT_ALIVE = rb"Connection: keep-alive\r\n"
_HEADERS = rb"(?:%s|%s)*" % (_ORDINARY, _KEPT_ALIVE)
_PLAIN_HEAD = re.compile(
    rb"HTTP/1\.1 200 OK\r\n%sContent-Length: ([0-9]{1,4})\r\n%s\r\n" % (_HEADERS, _HEADERS),
    re.IGNORECASE,
)
# Node closes a connection that was idle for 5 s (http.Server keepAliveTimeout); one that is used
# again sooner is certainly still there.
REUSE_SECONDS = 2.0


class ScanResult(NamedTuple):
    """What the backend's answer tells, None where it does not."""

    scanned: int | None = None
    blocked: int | None = None
    remark: str = ""
    """What somebody should look at although the scan counts as done."""


class _Answer(NamedTuple):
    """What the backend said, its body up to 64 KiB."""

    status: int
    reason: str
    content: bytes
    retry_after: str | None = None


class Backend:
    """Sends scan requests. Any thread may call; each request has a connection of its own."""

    def __init__(self, url: str, header: str, secret: str, timeout_seconds: float) -> None:
        self._url = url
        headers = {header: secret, "content-type": "application/json"}
        scan = requests.Request("POST", url + PATH, headers).prepare()
        del scan.headers["content-length"]  # of no body
        self._scan_head = _head(scan)
        self._reach_head = _head(requests.Request("GET", url).prepare())
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
        return _result(self._answer(self._scan_head, json.dumps(body).encode()))

    def reach(self) -> str:
        """Ask for the backend's front page, without the secret; returns its status line.

        Raises:
            ScanFailed: nothing answers there.
        """
        answer = self._answer(self._reach_head, b"")
        return f"{answer.status} {answer.reason}"

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

    def _answer(self, head: bytes, body: bytes) -> _Answer:
        """What the backend answers; the connection is kept if all went well.

        Raises:
            ScanFailed: it does not.
        """
        channel = self._free.pop() if self._free else _Channel(urlsplit(self._url), self._context)
        self._busy[channel] = time.monotonic() + self._timeout_seconds
        try:
            answer = channel.send(head, body, self._timeout_seconds)
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
    """Never blocks: others run while it waits."""

    _watch: Watch
    _timeout_seconds: float

    def set_up(self, timeout_seconds: float) -> None:
        """From now on no wait is longer than that."""
        self.setblocking(False)
        self._watch = poller.watch(self.fileno(), Signal(), urgent=True)
        self._timeout_seconds = timeout_seconds

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.send(view, flags) :]
            except BlockingIOError:
                self._wait(WRITABLE)

    def recv_into(self, *args: Any) -> int:
        while True:
            try:
                return super().recv_into(*args)
            except BlockingIOError:
                self._wait(READABLE)

    def plain_answer(self) -> bytes | None:
        """The body of the answer that comes next, if it is a plain one and there as a whole."""
        self._wait(READABLE)
        try:
            data = self.recv(MAX_PLAIN_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        head = _PLAIN_HEAD.match(data)
        if head is None or len(data) != head.end() + int(head[1]):
            return None
        self.recv(len(data))
        return data[head.end() :]

    def close(self) -> None:
        self._watch.close()
        super().close()

    def _wait(self, events: int) -> None:
        end = time.monotonic() + self._timeout_seconds
        while not self._watch.wait(events, end - time.monotonic()):
            if time.monotonic() >= end:
                raise TimeoutError


class _SecureSocket(ssl.SSLSocket):
    """Lets others run while it waits for what it is to receive."""

    def recv_into(self, *args: Any) -> int:
        with away:
            return super().recv_into(*args)


class _Channel:
    """One connection to the backend, kept alive while requests follow closely.

    requests prepares what is sent; what it does besides, for proxies, cookies and pools of
    connections to many places, is of no use here and would be most of what a scan costs.
    http.client reads the answers, but for those as plain as most are.
    """

    def __init__(self, url: SplitResult, context: ssl.SSLContext) -> None:
        self._context = context if url.scheme == "https" else None
        self._address = (url.hostname or "", url.port or (443 if self._context else 80))
        self._sock: _PlainSocket | ssl.SSLSocket | None = None
        self._used_at = 0.0
        self._look: select.poll

    def send(self, head: bytes, body: bytes, timeout: float) -> _Answer:
        """Send the request and read the answer."""
        sock = self._sock
        if sock is None or not self._is_fresh():
            self.close()
            self._sock = sock = self._connect(timeout)
            self._look = select.poll()
            self._look.register(sock, select.POLLIN)
        sock.sendall(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        plain = sock.plain_answer() if isinstance(sock, _PlainSocket) else None
        answer = self._read(sock) if plain is None else _Answer(200, "OK", plain)
        self._used_at = time.monotonic()
        return answer

    def _read(self, sock: socket.socket) -> _Answer:
        with http.client.HTTPResponse(sock) as answer:
            answer.begin()
            length, content = answer.length, answer.read(MAX_ANSWER_BYTES)
            if length is not None and len(content) < min(length, MAX_ANSWER_BYTES):
                raise http.client.IncompleteRead(content, length - len(content))
            whole = answer.isclosed()
        if answer.will_close or not whole or answer.status < HTTPStatus.OK:
            self.close()
        return _Answer(answer.status, answer.reason, content, answer.getheader("retry-after"))

    def _is_fresh(self) -> bool:
        """Whether the connection is certainly still there; what there is to read can be its end."""
        return time.monotonic() - self._used_at < REUSE_SECONDS and not self._look.poll(0)

    def _connect(self, timeout: float) -> _PlainSocket | ssl.SSLSocket:
        with away:
            sock = socket.create_connection(self._address, min(CONNECT_TIMEOUT_SECONDS, timeout))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                secure = self._context.wrap_socket(sock, server_hostname=self._address[0])
                secure.settimeout(timeout)
                return secure
        plain = _PlainSocket(fileno=sock.detach())
        plain.set_up(timeout)
        return plain

    def cut(self) -> None:
        """Free the thread that waits on this connection. Any thread may call."""
        if (sock := self._sock) is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()


def _head(request: requests.PreparedRequest) -> bytes:
    """What goes over the line up to the length of the body (RFC 9112, section 2.1)."""
    lines = [f"{request.method} {request.path_url} HTTP/1.1"]
    lines.append(f"Host: {urlsplit(request.url or '').netloc}")
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join((*lines, "Content-Length: ")).encode("latin-1")


def _result(answer: _Answer) -> ScanResult:
    """The counts in a 2xx answer; whatever else it holds, the scan was done.

    Raises:
        ScanFailed: any other status.
    """
    status, content = answer.status, answer.content
    if not 200 <= status < 300:
        said = _ADVICE.get(status) or content[:2000].decode("utf-8", "replace").strip()
        if 300 <= status < 400:
            said = "redirects are not followed: set BACKEND_URL to where the backend itself listens"
        raise ScanFailed(
            f"the backend answered {status} {answer.reason}" + (f" ({said})" if said else ""),
            _retry_after_seconds(answer.retry_after, datetime.now(UTC)),
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
