"""Whether the backend is away, and for how long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from rebreak_idle.errors import BackendUnavailable, ScanFailed
from rebreak_idle.scan.client import ScanClient
from tests.support.harness import quick_config
from tests.support.waiting import wait_for
from tests.unit.scan_client.conftest import (
    DONE,
    HEAD,
    MAILBOX,
    TIMEOUT_SECONDS,
    Pieces,
    Serve,
    is_for_people,
    plain,
)


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
    monkeypatch.setattr("tests.unit.scan_client.conftest.TIMEOUT_SECONDS", 0.3)
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
    monkeypatch.setattr("tests.unit.scan_client.conftest.TIMEOUT_SECONDS", 0.5)
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
