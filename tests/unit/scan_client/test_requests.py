"""The scan request as it goes over the line, and where it does not go."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import closing
from pathlib import Path

import pytest
import requests
import trustme

from rebreak_idle.errors import ScanFailed
from rebreak_idle.scan.client import MAX_ANSWER_BYTES, ScanClient
from tests.support.harness import quick_config
from tests.support.servers import Certificates
from tests.unit.scan_client.conftest import DONE, MAILBOX, Pieces, Serve, Server, plain


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
