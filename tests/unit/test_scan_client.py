"""The scan request as it goes over the line, and every form in which an answer may come."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import requests
import trustme

from rebreak_idle.errors import BackendUnavailable, ScanFailed
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.answer import ScanResult
from rebreak_idle.scan.client import MAX_ANSWER_BYTES, ScanClient
from tests.support.harness import quick_config
from tests.support.servers import Certificates
from tests.support.waiting import wait_for

TIMEOUT_SECONDS = 10.0
MAILBOX = Mailbox("the-id", "the-user", "a@example.org", "h", 993, "a@example.org", "stored")
COUNTS = b'{"scanned":12,"blocked":1}'
DONE = ScanResult(12, 1)
Pieces = Sequence[bytes]


class Last(tuple[bytes, ...]):
    """An answer after which the server hangs up, although the answer does not say so."""


Serve = Callable[..., tuple[ScanClient, "Server"]]


def plain(body: bytes = COUNTS, headers: bytes = b"") -> bytes:
    """An answer as Node gives it."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n"
        b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n%b" % (headers, len(body), body)
    )


class Server:
    """Answers each request with the next of ``answers``, the last one again and again.

    An answer without pieces hangs up.
    """

    def __init__(self, answers: list[Pieces], context: ssl.SSLContext | None) -> None:
        self._answers = answers
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.connections = 0
        self.hung_up = threading.Event()
        self.drip: threading.Event | None = None
        """If set: after the pieces, bytes without end until it is."""
        self.requests: list[tuple[bytes, bytes]] = []
        self._threads = [threading.Thread(target=self._accept, name="backend")]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(sock,), name="backend")
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._converse(sock)
        finally:
            self.hung_up.set()

    def _converse(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as reading:
                while request := self._request(reading):
                    self.requests.append(request)
                    answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                    if not answer:
                        return
                    for piece in answer:
                        sock.sendall(piece)
                    while self.drip and not self.drip.wait(0.05):
                        sock.sendall(b"x")
                    if isinstance(answer, Last) or b"connection: close" in b"".join(answer).lower():
                        return

    @staticmethod
    def _request(reading: object) -> tuple[bytes, bytes] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = reading.readline()  # type: ignore[attr-defined]
            if not line:
                return None
            head += line
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        return head, reading.read(length)  # type: ignore[attr-defined]


@pytest.fixture(params=["http", "https"])
def serve(
    request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """Makes a server with such answers, and a `ScanClient` that leads to it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    with ExitStack() as stack:

        def make(
            *answers: Pieces, path: str = "", secret: str = "the secret"
        ) -> tuple[ScanClient, Server]:
            context = certificates.server_context() if request.param == "https" else None
            server = stack.enter_context(closing(Server(list(answers), context)))
            url = f"{request.param}://localhost:{server.port}{path}"
            backend = ScanClient(
                quick_config(
                    backend_url=url, admin_secret=secret, scan_timeout_seconds=TIMEOUT_SECONDS
                )
            )
            return stack.enter_context(closing(backend)), server

        yield make


def test_the_request_to_the_letter(serve: Serve) -> None:
    """Method, path, headers and body of the contract."""
    backend, server = serve([plain()])
    backend.scan(MAILBOX, "exists")
    ((head, body),) = server.requests
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    assert first == "POST /api/mail/scan-internal HTTP/1.1"
    assert headers["Host"] == f"localhost:{server.port}"
    assert headers["x-admin-secret"] == "the secret"
    assert headers["content-type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert json.loads(body) == {
        "connectionId": "the-id", "userId": "the-user", "reason": "exists",
    }  # fmt: skip


def test_a_secret_is_sent_as_it_is(serve: Serve) -> None:
    """Signs that mean something to formats mean nothing here."""
    backend, server = serve([plain()], secret="100%d %s {0} ~")
    backend.scan(MAILBOX, "exists")
    assert b"x-admin-secret: 100%d %s {0} ~\r\n" in server.requests[0][0]


def bare(status: int, headers: bytes = b"") -> bytes:
    """An answer without a body."""
    return b"HTTP/1.1 %d Words\r\n%sContent-Length: 0\r\n\r\n" % (status, headers)


def test_the_endpoint_is_asked_for_without_the_secret(serve: Serve) -> None:
    """By GET, without a body; what answers is shown."""
    backend, server = serve([bare(405)], path="/folder")
    assert backend.reach() == "405 Words to GET /api/mail/scan-internal"
    ((head, body),) = server.requests
    assert head.startswith(b"GET /folder/api/mail/scan-internal HTTP/1.1\r\n")
    assert b"secret" not in head.lower()
    assert b"content-type" not in head.lower()
    assert body == b""


def test_the_endpoint_is_asked_with_the_secret_where_it_wants_it(serve: Serve) -> None:
    """Refused without it and not with it: it is right."""
    backend, server = serve([bare(401)], [bare(400)])
    assert backend.reach().startswith("400 Words to GET /api/mail/scan-internal with ADMIN_SECRET")
    heads = [head for head, _ in server.requests]
    assert [b"x-admin-secret: the secret\r\n" in head for head in heads] == [False, True]


@pytest.mark.parametrize(
    "status", [101, 300, 301, 302, 304, 308, 407, 421, 426, 502, 503, 504, 520, 530]
)
def test_an_endpoint_that_no_scan_would_reach(serve: Serve, status: int) -> None:
    """A redirect, or a proxy without its backend, would answer a scan in the same way."""
    backend, server = serve([bare(status, b"Location: /x\r\n")])
    with pytest.raises(ScanFailed, match=f"the backend answered {status} Words"):
        backend.reach()
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_an_endpoint_that_refuses_the_secret(serve: Serve, status: int) -> None:
    """With the secret as without it."""
    backend, _ = serve([bare(status)], [bare(status)])
    with pytest.raises(ScanFailed, match="ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong"):
        backend.reach()


@pytest.mark.parametrize(
    "page",
    [
        b"<center>The plain HTTP request was sent to HTTPS port</center>",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
        b"Client sent an HTTP request to an HTTPS server.\n",
    ],
)
def test_a_port_that_wants_tls(serve: Serve, page: bytes) -> None:
    """As nginx, Apache and Go say it: a scan would be refused as well."""
    backend, _ = serve([plain(page).replace(b"200 OK", b"400 Bad Request")])
    with pytest.raises(ScanFailed, match="the backend answered 400 Bad Request"):
        backend.reach()


@pytest.mark.parametrize("status", [200, 204, 400, 404, 415, 422, 429, 500, 501])
def test_an_answer_that_may_be_about_the_method(serve: Serve, status: int) -> None:
    """A backend that takes POST there may answer so to a GET."""
    backend, _ = serve([bare(status)])
    assert backend.reach() == (
        f"{status} Words to GET /api/mail/scan-internal, "
        "which does not tell whether the scan endpoint is there"
    )


def test_a_path_before_the_endpoint(serve: Serve) -> None:
    """BACKEND_URL may lead to a folder, with signs that are to be quoted."""
    backend, server = serve([plain()], path="/in ner/50%25")
    backend.scan(MAILBOX, "exists")
    assert server.requests[0][0].startswith(b"POST /in%20ner/50%25/api/mail/scan-internal HTTP/1.1")


HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "as Node gives it": [plain()],
    "in small letters": [plain().lower().replace(b"http/1.1 200 ok", b"HTTP/1.1 200 OK")],
    "head and body apart": [plain()[: -len(COUNTS)], plain()[-len(COUNTS) :]],
    "byte by byte": [plain()[at : at + 1] for at in range(len(plain()))],
    "chunked": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1a\r\n" + COUNTS + b"\r\n0\r\n\r\n"],
    "chunked, in pieces": [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"d\r\n" + COUNTS[:13], b"\r\nd\r\n",
        COUNTS[13:] + b"\r\n0\r\n", b"\r\n",
    ],
    "after a provisional one": [b"HTTP/1.1 100 Continue\r\n\r\n", plain()],
    "with other words": [plain().replace(b"200 OK", b"200 Fine")],
    "another success": [plain().replace(b"200 OK", b"202 Accepted")],
    "with the same length twice": [plain(headers=b"Content-Length: 26\r\n")],
    "with an empty header": [plain(headers=b"X-Nothing:\r\n")],
    "a large one": [plain(COUNTS + b" " * 4096)],
}  # fmt: skip
LAST = {
    "to the end of the connection": [HEAD + b"Connection: close\r\n\r\n" + COUNTS],
    "with a length, and then the end": [plain().replace(b"keep-alive", b"close")],
    "of an old server": [b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + COUNTS],
}


@pytest.mark.parametrize("answer", WHOLE.values(), ids=WHOLE.keys())
def test_an_answer_is_read(serve: Serve, answer: Pieces) -> None:
    """Whatever its form; and the connection serves for the next request."""
    backend, server = serve(answer)
    assert [backend.scan(MAILBOX, "exists") for _ in range(3)] == [DONE] * 3
    assert server.connections == 1


@pytest.mark.parametrize("answer", LAST.values(), ids=LAST.keys())
def test_an_answer_that_ends_its_connection(serve: Serve, answer: Pieces) -> None:
    """The next request takes a new one."""
    backend, server = serve(answer)
    assert [backend.scan(MAILBOX, "exists") for _ in range(2)] == [DONE] * 2
    assert server.connections == 2


def test_more_than_an_answer(serve: Serve) -> None:
    """What follows an answer that was not asked for is no answer to the next request."""
    backend, _ = serve([plain() + plain(b'{"scanned":7}')], [plain()])
    assert [backend.scan(MAILBOX, "exists") for _ in range(2)] == [DONE] * 2


def test_an_answer_that_is_far_too_long(serve: Serve) -> None:
    """Of the body 64 KiB are read; a success it is all the same."""
    backend, _ = serve([plain(b" " * (2 * MAX_ANSWER_BYTES))])
    assert backend.scan(MAILBOX, "exists") == ScanResult()


@pytest.mark.parametrize(("length", "connections"), [(MAX_ANSWER_BYTES, 1), (70_000, 2)])
def test_a_connection_whose_answer_was_cut_off_is_not_used_again(
    serve: Serve, length: int, connections: int
) -> None:
    """What is left of a body would be taken for the next answer."""
    backend, server = serve([plain(COUNTS.ljust(length))], [plain()])
    backend.scan(MAILBOX, "exists")
    assert backend.scan(MAILBOX, "exists") == DONE
    assert server.connections == connections


CLOSE = b"Connection: close\r\n"
BROKEN = {
    "no word": [],
    "half a body": [HEAD + CLOSE + b"Content-Length: 26\r\n\r\n" + COUNTS[:13]],
    "no body": [HEAD + CLOSE + b"Content-Length: 26\r\n\r\n"],
    "half a chunk": [HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n1a\r\n" + COUNTS[:13]],
    "no last chunk": [
        HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n1a\r\n" + COUNTS + b"\r\n"
    ],
    "no end of the last chunk": [
        HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n1a\r\n" + COUNTS + b"\r\n0\r\n"
    ],
    "half a head": [HEAD + CLOSE],
    "half a header": [HEAD + CLOSE + b"Content-Le"],
    "no HTTP": [b"220 smtp.example.org ESMTP, connection: close\r\n"],
    "another protocol from now on": [b"HTTP/1.1 101 Upgrade\r\n" + CLOSE + b"\r\n"],
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_whole_answer_is_no_success(serve: Serve, answer: Pieces) -> None:
    """The scan is still owed; the next request is answered on another connection."""
    backend, server = serve(answer, [plain()])
    with pytest.raises(ScanFailed, match=r"the backend (broke off|answered 101)") as caught:
        backend.scan(MAILBOX, "exists")
    assert is_for_people(str(caught.value))
    assert backend.scan(MAILBOX, "exists") == DONE
    assert server.connections == 2


def is_for_people(text: str) -> bool:
    """One line, without what Python calls its objects."""
    return not any(sign in text for sign in ("\n", "('", "Pool(", "Read(", "<", " object at "))


def test_an_error_that_quotes_the_server_is_short(serve: Serve) -> None:
    """What is no HTTP may be anything, of any length."""
    backend, _ = serve([b"x" * 60_000 + b"\r\nConnection: close\r\n"])
    with pytest.raises(ScanFailed, match="BadStatusLine: xxx") as caught:
        backend.scan(MAILBOX, "exists")
    assert len(str(caught.value)) < 300


def test_a_request_that_does_not_fit_into_a_buffer(serve: Serve) -> None:
    """It is sent as a whole, in as many pieces as it takes."""
    backend, server = serve([plain()])
    user = "u" * 8_000_000
    big = Mailbox("the-id", user, "a@example.org", "h", 993, "a@example.org", "stored")
    assert backend.scan(big, "exists") == DONE
    assert json.loads(server.requests[0][1])["userId"] == user


# Connections that are kept alive


def test_a_connection_that_was_closed_meanwhile_costs_nothing(serve: Serve) -> None:
    """A backend that hangs up when the next request comes gets it at once on a new connection."""
    backend, server = serve([plain()], [], [plain()])
    assert [backend.scan(MAILBOX, "exists") for _ in range(2)] == [DONE] * 2
    assert server.connections == 2
    assert len(server.requests) == 3


def test_a_connection_that_was_closed_after_its_answer_costs_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A backend that hung up before the next request gets it once, on a new connection."""
    caplog.set_level(logging.INFO)
    backend, server = serve(Last([plain()]), [plain()])
    assert backend.scan(MAILBOX, "exists") == DONE
    assert server.hung_up.wait(TIMEOUT_SECONDS)
    assert backend.scan(MAILBOX, "exists") == DONE
    assert (server.connections, len(server.requests)) == (2, 2)
    assert not caplog.records


def test_a_backend_that_went_after_its_answer(serve: Serve) -> None:
    """A connection was kept alive, and nobody listens any more: that is certain."""
    backend, server = serve(Last([plain()]))
    backend.scan(MAILBOX, "exists")
    server.close()
    with pytest.raises(BackendUnavailable, match="refuses connections") as caught:
        backend.scan(MAILBOX, "exists")
    assert caught.value.is_certain


def test_a_new_connection_that_is_broken_off_is_a_failure(serve: Serve) -> None:
    """Only what was kept alive is sent again: the backend has had this request."""
    backend, server = serve([], [plain()])
    with pytest.raises(ScanFailed, match="broke off"):
        backend.scan(MAILBOX, "exists")
    assert len(server.requests) == 1


def test_a_new_connection_in_place_of_a_closed_one_is_new(serve: Serve) -> None:
    """What fails on it is not sent again."""
    backend, server = serve(Last([plain()]), [], [plain()])
    backend.scan(MAILBOX, "exists")
    assert server.hung_up.wait(TIMEOUT_SECONDS)
    with pytest.raises(ScanFailed, match="broke off"):
        backend.scan(MAILBOX, "exists")
    assert len(server.requests) == 2


def test_an_answer_that_has_begun_is_not_asked_for_again(serve: Serve) -> None:
    """The backend broke off within the head: it has had the request."""
    backend, server = serve([plain()], Last([HEAD]), [plain()])
    backend.scan(MAILBOX, "exists")
    with pytest.raises(ScanFailed, match="its answer is incomplete"):
        backend.scan(MAILBOX, "exists")
    assert len(server.requests) == 2


def test_a_resent_request_that_is_broken_off_is_a_failure(serve: Serve) -> None:
    """Once is enough."""
    backend, server = serve([plain()], [])
    backend.scan(MAILBOX, "exists")
    with pytest.raises(ScanFailed, match="broke off"):
        backend.scan(MAILBOX, "exists")
    assert len(server.requests) == 3


# What goes nowhere else


def test_proxies_and_netrc_are_not_used(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the environment says of other programs' requests does not concern this one."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login canary password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    backend, server = serve([plain()])
    assert backend.scan(MAILBOX, "exists") == DONE
    assert b"authorization" not in server.requests[0][0].lower()


def test_cookies_are_not_sent_back(serve: Serve) -> None:
    """The backend's sessions are no business of ours."""
    backend, server = serve([plain(headers=b"Set-Cookie: canary=1; Path=/\r\n")])
    for _ in range(2):
        backend.scan(MAILBOX, "exists")
    assert b"cookie" not in server.requests[1][0].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure(serve: Serve, status: int) -> None:
    """The secret goes nowhere else, not even to the same server."""
    backend, server = serve(redirect(status, b"/x"))
    with pytest.raises(ScanFailed, match="redirects are not followed"):
        backend.scan(MAILBOX, "exists")
    assert len(server.requests) == 1


def test_a_redirect_to_another_server(serve: Serve) -> None:
    """It hears nothing."""
    with closing(Server([[plain()]], None)) as other:
        backend, _ = serve(redirect(307, b"http://localhost:%d/" % other.port))
        with pytest.raises(ScanFailed, match="redirects are not followed"):
            backend.scan(MAILBOX, "exists")
        assert other.connections == 0


@pytest.mark.parametrize("location", [b"http://[", b"\xff\xfe", b"//", b"http://a:99999999/"])
def test_a_redirect_to_nowhere(serve: Serve, location: bytes) -> None:
    """Where it leads to is not looked at."""
    backend, _ = serve(redirect(302, location))
    with pytest.raises(ScanFailed, match="redirects are not followed"):
        backend.scan(MAILBOX, "exists")


def test_the_body_of_a_redirect_is_bounded_too(serve: Serve) -> None:
    """The rest of it is not waited for."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 999999999\r\n\r\n"
    backend, server = serve([head + b" " * MAX_ANSWER_BYTES])
    server.drip = threading.Event()
    try:
        with pytest.raises(ScanFailed, match="redirects are not followed"):
            backend.scan(MAILBOX, "exists")
    finally:
        server.drip.set()


def redirect(status: int, location: bytes) -> Pieces:
    """An answer that leads elsewhere."""
    head = b"HTTP/1.1 %d Elsewhere\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n"
    return [head % (status, location)]


# Whether the backend is away, and for how long


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_backend_that_says_it_is_away(serve: Serve, status: int) -> None:
    """It may be this one request's trouble, so it is not certain."""
    backend, _ = serve([b"HTTP/1.1 %d Away\r\nContent-Length: 0\r\n\r\n" % status])
    with pytest.raises(BackendUnavailable) as caught:
        backend.scan(MAILBOX, "exists")
    assert not caught.value.is_certain


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", "refuses connections"),
        ("no.invalid", "has a name that does not resolve"),
        ("*.example.org", "has a name that does not resolve"),
        ("a..example.org", "has a name that does not resolve"),
        # Linux: connect() to a broadcast address is ENETUNREACH (tcp_v4_connect).
        ("255.255.255.255", "cannot be reached (OSError: "),
    ],
)
def test_a_backend_that_is_not_there(scheme: str, host: str, said: str) -> None:
    """Nobody listens, or there is no such name or way: it is away for all."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"{scheme}://{host}:{taken.getsockname()[1]}"
        with closing(ScanClient(quick_config(backend_url=url))) as client:
            for ask in (lambda: client.scan(MAILBOX, "exists"), client.reach):
                error = unavailable(ask)
                assert error.is_certain
                assert str(error).startswith(f"the backend at {url} {said}")
                assert is_for_people(str(error))


def unavailable(ask: Callable[[], object]) -> BackendUnavailable:
    """The error that asking the backend ends with."""
    with pytest.raises(BackendUnavailable) as caught:
        ask()
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_backend_that_accepts_no_connection(scheme: str) -> None:
    """Its queue is full: no connection comes about in time, for nobody."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"{scheme}://127.0.0.1:{full.getsockname()[1]}"
        config = quick_config(backend_url=url, scan_timeout_seconds=0.3)
        client = stack.enter_context(closing(ScanClient(config)))
        error = unavailable(lambda: client.scan(MAILBOX, "exists"))
        assert error.is_certain
        assert str(error).startswith(f"the backend at {url} does not accept connections in time")


@pytest.mark.parametrize(
    ("scheme", "is_certain", "said"),
    [("http", False, "did not answer within 0.3s"), ("https", True, "does not accept connections")],
)
def test_a_backend_that_says_nothing(scheme: str, is_certain: bool, said: str) -> None:
    """A request that is not answered may be this one's trouble; a handshake is everybody's."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        client = ScanClient(quick_config(backend_url=url, scan_timeout_seconds=0.3))
        with closing(client):
            error = unavailable(lambda: client.scan(MAILBOX, "exists"))
        assert error.is_certain == is_certain
        assert said in str(error)


def test_a_body_that_says_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head without its body is no answer within the time-out either."""
    monkeypatch.setattr("tests.unit.test_scan_client.TIMEOUT_SECONDS", 0.3)
    backend, _ = serve([HEAD + b"Content-Length: 26\r\n\r\n"])
    error = unavailable(lambda: backend.scan(MAILBOX, "exists"))
    assert not error.is_certain
    assert str(error) == "the backend did not answer within 0.3s"


DRIPS = {"header": [HEAD, b"X-Drip: "], "body": [HEAD + b"Content-Length: 999\r\n\r\n"]}


@pytest.mark.parametrize("answer", DRIPS.values(), ids=DRIPS.keys())
def test_a_drip_is_ended_by_force(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, answer: Pieces
) -> None:
    """What never ends is no answer within the time-out, which no socket sees."""
    monkeypatch.setattr("tests.unit.test_scan_client.TIMEOUT_SECONDS", 0.5)
    backend, server = serve(answer)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            backend.abort_overdue()

    server.drip = stop
    watcher = threading.Thread(target=watch, name="watcher")
    watcher.start()
    try:
        with pytest.raises(BackendUnavailable, match=r"did not answer within 0\.5s"):
            backend.scan(MAILBOX, "exists")
    finally:
        stop.set()
        watcher.join(TIMEOUT_SECONDS)


def test_all_requests_are_ended_by_force(serve: Serve) -> None:
    """They count as failed, and say nothing of the backend; later ones are not concerned."""
    backend, server = serve([HEAD], [plain()])
    server.drip = threading.Event()
    caught: list[ScanFailed] = []

    def scan() -> None:
        with pytest.raises(ScanFailed, match="broke off") as failed:
            backend.scan(MAILBOX, "exists")
        caught.append(failed.value)

    thread = threading.Thread(target=scan, name="scan")
    thread.start()
    try:
        wait_for(lambda: bool(server.requests), TIMEOUT_SECONDS, "the request")
        backend.abort_all()
        thread.join(TIMEOUT_SECONDS)
    finally:
        server.drip.set()
    assert [type(error) for error in caught] == [ScanFailed]
    assert backend.scan(MAILBOX, "exists") == DONE


AUGUST = b"Fri, 01 Aug 2003 10:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (b"Retry-After: 7\r\n", 7.0),
        (b"Retry-After: 3600\r\n", 300.0),
        (b"Date: %b\r\nRetry-After: Fri, 01 Aug 2003 10:00:20 GMT\r\n" % AUGUST, 20.0),
        (b"Date: %b\r\nRetry-After: Fri, 01 Aug 2003 11:00:00 GMT\r\n" % AUGUST, 300.0),
        (b"Date: %b\r\nRetry-After: Fri, 01 Aug 2003 09:00:00 GMT\r\n" % AUGUST, 0.0),
        (b"Date: nonsense\r\nRetry-After: Fri, 01 Aug 2003 09:00:00 GMT\r\n", 0.0),
        (b"Retry-After: Fri, 01 Aug 2003 09:00:00 GMT\r\n", 0.0),
        (b"Retry-After: Fri, 01 Aug 2103 09:00:00 GMT\r\n", 300.0),
        (b"Retry-After: nonsense\r\n", None),
        (b"", None),
    ],
)
def test_retry_after(serve: Serve, headers: bytes, seconds: float | None) -> None:
    """Seconds, or a date by the backend's own clock; five minutes at most."""
    answer = b"HTTP/1.1 %d Slow Down\r\n%bContent-Length: 0\r\n\r\n"
    backend, _ = serve([answer % (429, headers)], [answer % (503, headers)])
    for kind in (ScanFailed, BackendUnavailable):
        with pytest.raises(kind) as caught:
            backend.scan(MAILBOX, "exists")
        assert caught.value.retry_after_seconds == seconds


# Certificates


def test_certificates_are_verified(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of an unknown CA, or of another name, gets no request."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    for bad in (certificates.untrusted, certificates.wrong_name):
        with closing(Server([[plain()]], bad.server_context())) as server:
            config = quick_config(backend_url=f"https://localhost:{server.port}")
            client = ScanClient(config)
            with closing(client), pytest.raises(ScanFailed, match="certificate is not accepted"):
                client.scan(MAILBOX, "exists")
            assert server.requests == []


def test_no_other_list_of_authorities_counts(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenSSL's trust is all: not certifi's list, nor what the environment says to requests."""
    other = trustme.CA()
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "other.pem"))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "other.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.issue_cert("localhost").configure_cert(context)
    with closing(Server([[plain()]], context)) as server:
        client = ScanClient(quick_config(backend_url=f"https://localhost:{server.port}"))
        with closing(client), pytest.raises(ScanFailed, match="certificate is not accepted"):
            client.scan(MAILBOX, "exists")
        assert server.requests == []
