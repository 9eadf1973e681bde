"""Every form in which an answer may come, and connections that are kept alive."""

from __future__ import annotations

import json
import logging

import pytest

from rebreak_idle.errors import BackendUnavailable, ScanFailed
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.scan.answer import ScanResult
from rebreak_idle.scan.client import MAX_ANSWER_BYTES
from tests.unit.scan_client.conftest import (
    COUNTS,
    DONE,
    HEAD,
    MAILBOX,
    TIMEOUT_SECONDS,
    Last,
    Pieces,
    Serve,
    is_for_people,
    plain,
)

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
