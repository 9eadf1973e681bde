"""The stand-in's answers to what it cannot do."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.program.stand_in_backend.conftest import PASSWORD, StandIn, add_mailbox
from tests.support.rig import ADMIN_SECRET
from tests.support.servers import Certificates, Database, Dovecot


@pytest.mark.parametrize("headers", [{}, {"x-admin-secret": "wrong"}, {"x-admin-secret": ""}])
def test_without_the_secret_nothing_happens(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot, headers: dict[str, str]
) -> None:
    """No secret or a wrong one: 401, and the mail is still there."""
    name, id_ = anna
    before = dovecot.count(name)
    dovecot.deliver(name, subject="casino")
    body = {"connectionId": id_, "userId": "any", "reason": "exists"}
    assert stand_in.post(json=body, headers=headers).status_code == 401
    assert dovecot.count(name) == before + 1


def test_the_header_may_have_another_name(start: Callable[..., Any]) -> None:
    """ADMIN_SECRET_HEADER names the header that carries the secret."""
    with start(ADMIN_SECRET_HEADER="x-other") as stand_in:
        assert stand_in.post(data=b"{}").status_code == 401
        assert stand_in.post(data=b"{}", headers={"X-Other": ADMIN_SECRET}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"[" * 50_000,
        b'"text"',
        b"{}",
        b'{"connectionId": 7, "userId": "u", "reason": "exists"}',
        b'{"connectionId": "", "userId": "u", "reason": "exists"}',
        b'{"connectionId": "c", "reason": "exists"}',
        b'{"connectionId": "c", "userId": "u", "reason": "because"}',
        b"x" * 200_000,
    ],
)
def test_a_request_that_makes_no_sense_is_400(stand_in: StandIn, body: bytes) -> None:
    """What is not the JSON object of the contract is refused, with a JSON error."""
    answer = stand_in.post(data=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_an_unknown_connection_is_404(
    stand_in: StandIn, anna: tuple[str, str], database: Database
) -> None:
    """No such id, another user's id, or a row out of service: 404."""
    _, id_ = anna
    nobody = "00000000-0000-0000-0000-000000000000"
    assert stand_in.ask(nobody, user_id=nobody).status_code == 404
    assert stand_in.ask("x'\x00\r\n", user_id=nobody).status_code == 404
    assert stand_in.ask(id_, user_id=nobody).status_code == 404
    database.execute("UPDATE mail_connections SET is_active = false")
    assert stand_in.ask(id_).status_code == 404


def test_a_refused_login_is_502(stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot) -> None:
    """A mailbox that refuses the password is trouble with the mailbox."""
    name, id_ = anna
    dovecot.set_password(name, "another")
    answer = stand_in.ask(id_)
    assert answer.status_code == 502
    assert name in answer.json()["error"]
    assert PASSWORD not in answer.text


@pytest.mark.parametrize("fields", [{"password_encrypted": "nonsense"}, {"imap_host": " "}])
def test_an_unusable_row_is_502(
    stand_in: StandIn, database: Database, dovecot: Dovecot, fields: dict[str, str]
) -> None:
    """A stored password that does not open, or a row without a host, is a clear 502."""
    id_ = add_mailbox(database, dovecot, "unusable@example.org", **fields)
    answer = stand_in.ask(id_)
    assert answer.status_code == 502
    assert "unusable@example.org: " in answer.json()["error"]


def test_an_unreachable_server_is_502_until_it_is_back(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """2xx only when the mailbox was really read; the mail of the meantime is then in it."""
    name, id_ = anna
    assert stand_in.scan(id_) == (0, 0)
    dovecot.deliver(name, subject="casino")
    with dovecot.down():
        assert stand_in.ask(id_).status_code == 502
    assert stand_in.scan(id_) == (1, 1)


def test_an_untrusted_certificate_is_502(
    start: Callable[..., Any], certificates: Certificates, anna: tuple[str, str]
) -> None:
    """A server whose certificate does not verify gets no password."""
    with start(SSL_CERT_FILE=certificates.untrusted.cert_pem) as stand_in:
        answer = stand_in.ask(anna[1])
    assert answer.status_code == 502
    assert "CERTIFICATE_VERIFY_FAILED" in answer.json()["error"]


def test_trouble_with_the_database_is_503(start: Callable[..., Any], anna: tuple[str, str]) -> None:
    """Without the row there is no scan, and the daemon must ask again."""
    with start(DATABASE_URL="postgresql://127.0.0.1:9/none") as stand_in:
        assert stand_in.ask(anna[1]).status_code == 503


def test_text_of_a_row_cannot_break_out_of_its_log_line(
    stand_in: StandIn, database: Database, dovecot: Dovecot
) -> None:
    """An address with a line end in it is shown on one line."""
    id_ = database.add("evil\n[backend] stopped", password_encrypted="nonsense")
    assert stand_in.ask(id_).status_code == 502
    assert "evil [backend] stopped" in stand_in.process.wait_line("502: ")
