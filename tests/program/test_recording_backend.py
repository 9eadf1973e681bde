"""The recording backend does what it says."""

import threading
from collections.abc import Iterator

import pytest
import requests

from tests.support.recording_backend import (
    SCAN_PATH,
    Hang,
    RecordingBackend,
    answer,
    drip,
    empty,
    html,
    redirect,
    reset,
)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as http:
        yield http


def scan(
    session: requests.Session, backend: RecordingBackend, connection_id: str = "c1"
) -> requests.Response:
    body = {"connectionId": connection_id, "userId": "u1", "reason": "exists"}
    return session.post(
        backend.url + SCAN_PATH,
        json=body,
        headers={"X-Admin-Secret": "s"},
        timeout=5,
        allow_redirects=False,
    )


def test_the_backend_records_and_answers(
    backend: RecordingBackend, session: requests.Session
) -> None:
    """A scan gets the default answer; its headers, body and times are on record."""
    assert scan(session, backend).json() == {"scanned": 1, "blocked": 0}
    scan(session, backend)
    first, second = backend.wait_answered(2)
    assert (first.connection_id, first.reason) == ("c1", "exists")
    assert first.headers["x-admin-secret"] == "s"
    assert first.answered is not None
    assert first.arrived <= first.answered <= second.arrived
    assert first.client_port == second.client_port  # keep-alive


def test_the_script_is_used_up_in_order(
    backend: RecordingBackend, session: requests.Session
) -> None:
    """Each behaviour answers one scan; then the default does; other paths use up nothing."""
    backend.script = [
        answer(503, {"error": "busy"}, {"Retry-After": "7"}),
        html(),
        empty(),
        redirect("http://127.0.0.1:9/elsewhere"),
    ]
    assert session.get(backend.url + "/health", timeout=5).status_code == 404
    answers = [scan(session, backend) for _ in range(5)]
    assert [a.status_code for a in answers] == [503, 200, 204, 302, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert "<html>" in answers[1].text
    assert answers[3].headers["location"] == "http://127.0.0.1:9/elsewhere"
    assert (len(backend.requests), len(backend.scans)) == (6, 5)


def test_the_script_can_choose_by_request(
    backend: RecordingBackend, session: requests.Session
) -> None:
    """A callable script sees the request and picks the behaviour."""
    backend.script = lambda request: answer(500 if request.connection_id == "bad" else 200)
    assert scan(session, backend, "bad").status_code == 500
    assert scan(session, backend, "good").status_code == 200


def test_a_request_can_hang_until_released(
    backend: RecordingBackend, session: requests.Session
) -> None:
    """A hanging request is under way, unanswered, until it is released."""
    hang = Hang(then=answer(201))
    backend.script = [hang]
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(scan(session, backend).status_code))
    asking.start()
    assert backend.wait_for(1)[0].answered is None
    hang.release()
    asking.join()
    assert answers == [201]


def test_the_end_of_the_backend_releases_what_hangs() -> None:
    """A test that forgets to release a request does not hang itself."""
    failures: list[Exception] = []

    def ask(backend: RecordingBackend) -> None:
        with requests.Session() as session:
            try:
                scan(session, backend)
            except requests.RequestException as error:
                failures.append(error)

    with RecordingBackend([Hang()]) as backend:
        asking = threading.Thread(target=ask, args=(backend,))
        asking.start()
        backend.wait_for(1)
    asking.join(5)
    assert not asking.is_alive()


def test_concurrency_is_measured(backend: RecordingBackend) -> None:
    """The most requests under way at once are known, in total and by connection."""
    hang = Hang()
    backend.script = lambda _: hang

    def ask(connection_id: str) -> None:
        with requests.Session() as session:
            scan(session, backend, connection_id)

    asking = [threading.Thread(target=ask, args=(name,)) for name in ("a", "a", "b")]
    for thread in asking:
        thread.start()
    backend.wait_for(3)
    hang.release()
    for thread in asking:
        thread.join()
    assert backend.concurrent_max == 3
    assert backend.concurrent_max_by_connection == {"a": 2, "b": 1}


def test_an_answer_can_be_torn(backend: RecordingBackend, session: requests.Session) -> None:
    """A reset in the middle of the answer is a connection error for the client."""
    backend.script = [reset]
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        scan(session, backend)
    assert scan(session, backend).ok


def test_an_answer_can_drip(backend: RecordingBackend, session: requests.Session) -> None:
    """A dripping answer arrives whole, but takes its time."""
    backend.script = [drip(0.3)]
    assert scan(session, backend).json() == {"scanned": 1, "blocked": 0}
    (request,) = backend.wait_answered(1)
    assert request.answered is not None
    assert request.answered - request.arrived >= 0.3


def test_the_backend_can_refuse_and_come_back(
    backend: RecordingBackend, session: requests.Session
) -> None:
    """While the backend is down, keep-alive connections fail too; then the same port answers."""
    assert scan(session, backend).ok
    with backend.down(), pytest.raises(requests.ConnectionError):
        scan(session, backend)
    assert scan(session, backend).ok
    assert len(backend.scans) == 2
