"""The preflight and the backend, which it asks without a scan."""

from collections.abc import Callable

import pytest

from tests.conftest import Run
from tests.program.check.conftest import ANY_LOGIN, Gate
from tests.support.recording_backend import Behaviour, Request, answer, html, redirect
from tests.support.rig import ADMIN_SECRET
from tests.support.scripted_imap import ScriptedImap

SCAN_ENDPOINT = "/api/mail/scan-internal"


def is_the_secret_right(request: Request) -> bool:
    return request.headers.get("x-admin-secret") == ADMIN_SECRET


def check_backend(run: Run, choose: Callable[[Request], Behaviour]) -> tuple[int, str, Gate]:
    """The status and the output of a check against such a backend, which got no POST."""
    with Gate(choose) as backend:
        with run("check", BACKEND_URL=backend.url, MAIL_CONNECTIONS_QUERY=ANY_LOGIN) as daemon:
            status = daemon.wait(30)
        assert {request.method for request in backend.requests} == {"GET"}
        assert {request.path for request in backend.requests} == {SCAN_ENDPOINT}
        return status, daemon.text, backend


TO_ITSELF = "set BACKEND_URL to where the backend itself listens"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        *((redirect("https://x/", code), TO_ITSELF) for code in (301, 302, 303, 307, 308)),
        *((html(code), f"the backend answered {code}") for code in (502, 503, 504, 521)),
    ],
)
def test_a_backend_that_a_scan_would_not_reach(
    run: Run, server: ScriptedImap, behaviour: Behaviour, said: str
) -> None:
    """What a redirect or a proxy without its backend answers fails, with the daemon's advice."""
    status, text, _ = check_backend(run, lambda _: behaviour)
    assert status == 1
    assert said in text
    assert text.endswith("check failed — database ok, 1 of 1 mailboxes ready, backend not reached")


@pytest.mark.parametrize("code", [401, 403])
def test_a_wrong_secret_is_told_where_the_backend_tells(
    run: Run, server: ScriptedImap, code: int
) -> None:
    """An endpoint that refuses whoever has no secret is asked with it, and says if it is right."""
    status, text, backend = check_backend(run, lambda _: answer(code))
    assert status == 1
    assert "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong" in text
    assert ["x-admin-secret" in request.headers for request in backend.requests] == [False, True]

    status, text, backend = check_backend(
        run, lambda request: answer(405 if is_the_secret_right(request) else code)
    )
    assert status == 0
    assert "405 Method Not Allowed to GET /api/mail/scan-internal with ADMIN_SECRET, and" in text


@pytest.mark.parametrize("code", [200, 204, 400, 404, 422, 429, 500, 501])
def test_an_answer_that_does_not_tell_is_shown(run: Run, server: ScriptedImap, code: int) -> None:
    """What a backend may answer although POST works there passes, and one sees what it was."""
    status, text, backend = check_backend(run, lambda _: answer(code))
    assert status == 0
    assert f"backend: reached (it answers {code} " in text
    assert "does not tell whether the scan endpoint is there; no scan was sent)" in text
    assert len(backend.requests) == 1


def test_only_the_scan_endpoint_counts(run: Run, server: ScriptedImap) -> None:
    """The front page may lead anywhere, if the endpoint itself is there."""
    status, text, _ = check_backend(
        run,
        lambda request: answer(405) if request.path == SCAN_ENDPOINT else redirect("https://x/"),
    )
    assert status == 0
    assert "it answers 405 Method Not Allowed to GET /api/mail/scan-internal; no scan" in text
