"""The development stand-in for the backend, as a process, on real mailboxes."""

import os
import signal
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from scripts.tools.stand_in_backend.judge import Judge, read_blocklist
from scripts.tools.stand_in_backend.log import one_line
from tests.conftest import require
from tests.support.daemon import Daemon
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY, environment, stored
from tests.support.script_run import SCRIPTS
from tests.support.servers import Certificates, Database, Dovecot, Pymap

UNUSED_URL = "http://127.0.0.1:9"
ANSWER_SECONDS = 30.0
PASSWORD = "canary mailbox password"

# The default query leaves out imap_security.
ALL_COLUMNS = "SELECT * FROM mail_connections WHERE is_active"


class StandIn:
    """The running stand-in, and how to ask it for a scan."""

    def __init__(self, process: Daemon, database: Database) -> None:
        self.process = process
        self._database = database
        self.url = process.wait_line("listening on ").split()[-1]

    def post(self, **arguments: Any) -> requests.Response:
        arguments = {"headers": {"x-admin-secret": ADMIN_SECRET}, **arguments}
        url = f"{self.url}/api/mail/scan-internal"
        return requests.post(url, timeout=ANSWER_SECONDS, **arguments)

    def ask(self, connection_id: str, user_id: str | None = None) -> requests.Response:
        """Ask for a scan; of the row's own user unless another is given."""
        query = "SELECT user_id::text FROM mail_connections WHERE id::text = %s"
        user_id = user_id or self._database.execute(query, connection_id)[0][0]
        body = {"connectionId": connection_id, "userId": user_id, "reason": "exists"}
        return self.post(json=body)

    def scan(self, connection_id: str) -> tuple[int, int]:
        """What a scan that must succeed counts: scanned, blocked."""
        answer = self.ask(connection_id)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"scanned", "blocked"}
        return answer.json()["scanned"], answer.json()["blocked"]


@pytest.fixture
def start(
    database: Database, certificates: Certificates, tmp_path: Path
) -> Callable[..., AbstractContextManager[StandIn]]:
    """Starts a stand-in on a free port; keywords change its environment."""

    @contextmanager
    def starting(*arguments: str, **changes: object) -> Iterator[StandIn]:
        variables = environment(database.url, UNUSED_URL, certificates, **changes)
        command = (SCRIPTS / "stand_in_backend.py", "--port", "0", *arguments)
        with Daemon(variables, tmp_path, command=command) as process:
            yield StandIn(process, database)

    return starting


@pytest.fixture
def stand_in(start: Callable[..., Any]) -> Iterator[StandIn]:
    """A stand-in that must end orderly, and tell no secret until then."""
    with start(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as running:
        yield running
        assert running.process.stop() == 0
        said = running.process.text + running.process.stderr
        assert not [word for word in (ADMIN_SECRET, ENCRYPTION_KEY, PASSWORD) if word in said]
        assert running.process.stderr == ""


@pytest.fixture
def anna(database: Database, dovecot: Dovecot, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A mailbox of this test alone, on Dovecot: its name, and its row's id."""
    name = f"{request.node.name.split('[')[0]}@example.org"
    return name, add_mailbox(database, dovecot, name)


def add_mailbox(database: Database, dovecot: Dovecot, name: str, **fields: object) -> str:
    """A Dovecot user and its row; the row's id."""
    dovecot.add_user(name, PASSWORD)
    row = {"imap_port": dovecot.imaps_port, "password_encrypted": stored(PASSWORD), **fields}
    return database.add(name, **row)


# --- judging ------------------------------------------------------------------------------------


JUDGE = Judge(read_blocklist(SCRIPTS / "blocklist.txt"))


def base64_word(text: str, charset: str = "utf-8") -> str:
    """An encoded word, RFC 2047."""
    return f"=?{charset}?b?{b64encode(text.encode(charset)).decode()}?="


@pytest.mark.parametrize(
    ("sender", "subject"),
    [
        ("x@casino.example", "Hello"),
        ("X <x@news.CASINO.example>", "Hello"),
        ('"x@health.example" <x@bets.example>', "Hello"),
        ("x@casino.example.", "Hello"),
        ("x@example.org", "The JACKPOT is yours"),
        ("x@example.org", "Das OnlineCasino wartet"),
        ("x@example.org", "Gratis: 50 Freispiele"),
        ("x@example.org", "Place your bets"),
        ("x@example.org", "Free\r\n spins"),
        ("x@example.org", base64_word("Glücksspiel ohne Grenzen")),
        ("x@example.org", base64_word("Glücksspiel", "iso-8859-1")),
        ("x@example.org", f"{base64_word('jack')}\r\n {base64_word('pot')}"),
        ("x@example.org", "=?utf-8?q?Glu=CC=88cksspiel?="),
        ("x@example.org", "Glücksspiel"),
        ("x@example.org", "Ｃａｓｉｎｏ"),
        ("x@example.org", "ca\u200bsi\u00adno"),
        ("Royal Casino <x@example.org>", "Hello"),
        (f"{base64_word('Königliches Kasino')} <x@example.org>", "Hello"),
    ],
)
def test_gambling_mail_is_known_by_domain_or_keyword(sender: str, subject: str) -> None:
    """The sender's domain or its parent, or a keyword in subject or name, however encoded."""
    assert JUDGE.reason_to_delete(f"From: {sender}\r\nSubject: {subject}\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("sender", "subject"),
    [
        ("x@example.org", "Your appointment slot on Tuesday"),
        ("x@example.org", "The alphabet of better bread"),
        ("x@example.org", "Das Wetter wird besser"),
        ("x@notcasino.example", "Hello"),
        ("x@casino.example.org", "Hello"),
        ("casino-support@recovery.example", "How are you?"),
        ("x@example.org", ""),
        ("", ""),
        ("x@example.org", base64_word("Sonntag?")),
    ],
)
def test_ordinary_mail_is_left_alone(sender: str, subject: str) -> None:
    """What only looks alike stays."""
    assert not JUDGE.reason_to_delete(f"From: {sender}\r\nSubject: {subject}\r\n\r\n".encode())


def test_raw_latin_1_headers_are_read() -> None:
    """Eight-bit headers without a declared charset are read as Latin-1 where they are not UTF-8."""
    assert JUDGE.reason_to_delete("Subject: Glücksspiel\r\n\r\n".encode("latin-1"))


HEADER_PIECES = st.sampled_from(
    [
        b"From: ",
        b"Subject: ",
        b"\r\n",
        b" ",
        b"=?utf-8?b?",
        b"=?x?q?",
        b"=?\x00?b?",
        b"?=",
        b"<",
        b"@",
    ]
)


@given(st.lists(HEADER_PIECES | st.binary(max_size=8)).map(b"".join))
def test_no_header_breaks_the_judge(headers: bytes) -> None:
    """Whatever a stranger sends, there is a verdict, and it fits in a log line."""
    reason = JUDGE.reason_to_delete(headers)
    assert one_line(reason) == reason


@given(st.text())
def test_text_from_outside_stays_in_its_line(text: str) -> None:
    """Nothing in a log text ends the line or steers the terminal."""
    assert one_line(text) == "" or one_line(text).isprintable()


def test_the_blocklist_has_comments_and_any_case(tmp_path: Path) -> None:
    """One domain a line; comments, blank lines, case and a final dot do not matter."""
    file = tmp_path / "list"
    file.write_text("# mine\n\nCasino.Example. # the worst\n  bets.example\n")
    assert read_blocklist(file) == {"casino.example", "bets.example"}


# --- scanning -----------------------------------------------------------------------------------


def test_a_scan_deletes_gambling_mail_and_nothing_else(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """Gambling mail is gone from INBOX when the answer comes; ordinary mail is still there."""
    name, id_ = anna
    dovecot.deliver(name, subject="Sunday?", sender="Mum <mum@family.example>")
    dovecot.deliver(name, subject="Hello", sender="x@news.casino.example")
    dovecot.deliver(name, subject="Your jackpot", sender="x@example.org")
    assert stand_in.scan(id_) == (3, 2)
    assert dovecot.count(name) == 1
    assert "Sunday?" in dovecot.doveadm("fetch", "-u", name, "hdr.subject", "all")


def test_mail_is_judged_without_being_marked_as_read(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """A scan leaves no trace on the mail that stays."""
    name, id_ = anna
    dovecot.deliver(name)
    assert stand_in.scan(id_) == (1, 0)
    assert dovecot.doveadm("search", "-u", name, "unseen").strip()


def test_scans_are_idempotent_and_see_new_mail_only(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """A second scan finds nothing to do; one after new mail judges that mail alone."""
    name, id_ = anna
    assert stand_in.scan(id_) == (0, 0)
    dovecot.deliver(name)
    dovecot.deliver(name, subject="casino")
    assert stand_in.scan(id_) == (2, 1)
    assert stand_in.scan(id_) == (0, 0)
    dovecot.deliver(name, subject="roulette")
    assert stand_in.scan(id_) == (1, 1)


def test_scans_of_one_mailbox_never_run_at_once(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """Of many scans asked for together, each message is judged by exactly one."""
    name, id_ = anna
    for number in range(6):
        dovecot.deliver(name, subject="casino" if number % 2 else "hello")
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(stand_in.scan, [id_] * 8))
    assert tuple(map(sum, zip(*counts, strict=True))) == (6, 3)


def test_two_rows_of_one_mailbox_are_judged_each(
    stand_in: StandIn, database: Database, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """What has been judged is remembered for each connection by itself."""
    name, first = anna
    second = add_mailbox(database, dovecot, name)
    dovecot.deliver(name)
    assert stand_in.scan(first) == stand_in.scan(second) == (1, 0)


def test_a_server_that_comes_back_with_other_uids_is_judged_anew(
    stand_in: StandIn, database: Database, certificates: Certificates
) -> None:
    """UIDVALIDITY tells that the remembered UIDs mean nothing any more; pymap is served as well."""
    with Pymap(certificates) as pymap:
        sealed = stored(pymap.password)
        id_ = database.add(pymap.user, imap_port=pymap.port, password_encrypted=sealed)
        pymap.deliver()
        pymap.deliver(subject="casino")
        assert stand_in.scan(id_) == (2, 1)
        pymap.restart()
        pymap.deliver(subject="casino")
        assert stand_in.scan(id_) == (1, 1)
        assert pymap.count() == 0


def test_starttls(stand_in: StandIn, database: Database, dovecot: Dovecot) -> None:
    """A row that says starttls is read over STARTTLS: Dovecot takes no login before it."""
    name = "starttls@example.org"
    row = {"imap_port": dovecot.starttls_port, "imap_security": "starttls"}
    id_ = add_mailbox(database, dovecot, name, **row)
    dovecot.deliver(name, subject="casino")
    assert stand_in.scan(id_) == (1, 1)


class OldDovecot(Dovecot):
    """A Dovecot that says it knows no UIDPLUS."""

    def _settings(self) -> str:
        return super()._settings() + "imap_capability = IMAP4rev1 LITERAL+ IDLE\n"


def test_a_server_without_uidplus(
    stand_in: StandIn, database: Database, certificates: Certificates
) -> None:
    """Without UIDPLUS the mail is removed by a plain EXPUNGE."""
    require("dovecot")
    with OldDovecot(certificates.server) as old:
        id_ = add_mailbox(database, old, "old@example.org")
        old.deliver("old@example.org", subject="casino")
        old.deliver("old@example.org")
        assert stand_in.scan(id_) == (2, 1)
        assert old.count("old@example.org") == 1


def test_a_password_beyond_ascii(stand_in: StandIn, database: Database, dovecot: Dovecot) -> None:
    """A password that LOGIN cannot carry goes by AUTHENTICATE PLAIN."""
    name, password = "umlaut@example.org", "pässwörd"
    id_ = add_mailbox(database, dovecot, name, password_encrypted=stored(password))
    dovecot.set_password(name, password)
    assert stand_in.scan(id_) == (0, 0)


# --- refusals -----------------------------------------------------------------------------------


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


# --- the process --------------------------------------------------------------------------------


def test_it_can_be_asked_whether_it_is_up(stand_in: StandIn) -> None:
    """GET / says so; elsewhere there is nothing."""
    assert requests.get(stand_in.url, timeout=ANSWER_SECONDS).status_code == 200
    elsewhere = f"{stand_in.url}/elsewhere"
    assert requests.get(elsewhere, timeout=ANSWER_SECONDS).status_code == 404
    secret = {"x-admin-secret": ADMIN_SECRET}
    answer = requests.post(elsewhere, data=b"{}", headers=secret, timeout=ANSWER_SECONDS)
    assert answer.status_code == 404


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_orderly(start: Callable[..., Any], number: int) -> None:
    """Asked to stop it says so and exits with 0, a silent caller on the line notwithstanding."""
    with start() as stand_in:
        port = int(stand_in.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            stand_in.process.signal(number)
            assert stand_in.process.wait() == 0
        assert stand_in.process.lines[-1] == "[backend] stopped"


def test_a_wrong_environment_is_told_and_shows_no_secret(tmp_path: Path) -> None:
    """Exit status 78 and a line for each problem, as the daemon does."""
    variables = {"ADMIN_SECRET": ADMIN_SECRET, "ENCRYPTION_KEY": "canary-short"}
    command = (SCRIPTS / "stand_in_backend.py",)
    with Daemon(variables, tmp_path, command=command) as process:
        assert process.wait() == 78
    problems = process.stderr.splitlines()
    assert [line.split()[0] for line in problems] == ["DATABASE_URL", "ENCRYPTION_KEY"]
    assert "canary" not in process.stderr


def test_nothing_in_the_working_directory_is_taken_for_a_module(tmp_path: Path) -> None:
    """It is started where its .env is, and that may be anywhere."""
    (tmp_path / "email.py").write_text("raise SystemExit('not this one')\n")
    with Daemon({}, tmp_path, command=(SCRIPTS / "stand_in_backend.py",)) as process:
        assert process.wait() == 78
    assert "not this one" not in process.stderr


def test_a_missing_blocklist_is_told(
    database: Database, certificates: Certificates, tmp_path: Path
) -> None:
    """A blocklist that cannot be read stops the start: nothing would be deleted."""
    command = (SCRIPTS / "stand_in_backend.py", "--port", "0", "--blocklist", "nowhere")
    variables = environment(database.url, UNUSED_URL, certificates)
    with Daemon(variables, tmp_path, command=command) as process:
        assert process.wait() == 1
    assert "nowhere" in process.stderr
    assert os.linesep not in process.stderr.strip()


def test_states_are_shown(start: Callable[..., AbstractContextManager[StandIn]]) -> None:
    """What the daemon tells of a mailbox gets a line; nonsense and a wrong secret do not."""
    told = {
        "connectionId": "7",
        "userId": "8",
        "state": "parked",
        "who": "user",
        "reason": "the server refused the login: no",
        "since": "2026-11-28T08:00:00.000Z",
    }
    with start(CONNECTION_STATE_PATH="/states") as stand_in:

        def post(body: object, secret: str = ADMIN_SECRET) -> int:
            return requests.post(
                f"{stand_in.url}/states",
                json=body,
                headers={"x-admin-secret": secret},
                timeout=ANSWER_SECONDS,
            ).status_code

        assert post(told, "wrong") == 401
        assert post({**told, "who": None}) == 400
        assert "parked" not in stand_in.process.text
        assert post(told) == 204
        stand_in.process.wait_line(
            "mailbox 7 is parked since 2026-11-28T08:00:00.000Z (who: user): "
            "the server refused the login: no"
        )
