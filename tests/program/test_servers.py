"""Every other shared fixture does what it says."""

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

from tests.conftest import require
from tests.support.daemon import Daemon
from tests.support.servers import (
    Certificates,
    Database,
    MissingProgramError,
    PgBouncer,
    Postgres,
    ServerCertificate,
    execute,
    postgres_binaries,
)
from tests.support.waiting import threads_left_behind, wait_for

POSTGRES = "tests.support.servers.postgres"

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


# --- the daemon as a subprocess -------------------------------------------------------------

STAND_IN = """\
import os, signal, sys

POSTGRES = "tests.support.servers.postgres"
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
