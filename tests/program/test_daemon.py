"""The whole program against real servers: PostgreSQL, Dovecot, pymap and a recording backend."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import ADMIN_SECRET, environment, stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, Dovecot, Pymap
from tests.support.waiting import wait_for

# The default query leaves out imap_username and imap_security.
ALL_COLUMNS = "SELECT * FROM mail_connections WHERE is_active"


@pytest.fixture
def add(database: Database, dovecot: Dovecot) -> Callable[..., str]:
    """Adds a Dovecot user and its row; the row's id."""

    def add_mailbox(email: str, password: str = "secret", **fields: object) -> str:
        dovecot.add_user(email, password)
        row = {"imap_port": dovecot.imaps_port, "password_encrypted": stored(password), **fields}
        return database.add(email, **row)

    return add_mailbox


def test_mail_is_announced_and_scanned(
    run: Run, add: Callable[..., str], backend: RecordingBackend, dovecot: Dovecot
) -> None:
    """From connect to scan, every line and the request are as the contract has them."""
    backend.script = None
    id_ = add("anna@example.org")
    with run() as daemon:
        port = dovecot.imaps_port
        daemon.wait_line(f"[idle/anna@example.org] connected (localhost:{port})")
        daemon.wait_line("[idle/anna@example.org] scan-triggered → scanned=1 blocked=0")
        mark = daemon.mark()
        dovecot.deliver("anna@example.org", subject="hello")
        daemon.wait_line("[idle/anna@example.org] exists-event received (new mail)", after=mark)
        daemon.wait_line("[idle/anna@example.org] scan-triggered → scanned=1 blocked=0", after=mark)
        assert daemon.stop() == 0
    first, second = backend.scans
    assert (first.reason, second.reason) == ("catch-up", "exists")
    assert second.path == "/api/mail/scan-internal"
    assert second.headers["x-admin-secret"] == ADMIN_SECRET
    assert second.headers["content-type"] == "application/json"
    assert second.body["connectionId"] == id_
    assert set(second.body) == {"connectionId", "userId", "reason"}
    assert ADMIN_SECRET not in daemon.text


def test_pymap_is_watched_too(
    run: Run, database: Database, backend: RecordingBackend, pymap: Pymap
) -> None:
    """A second make of server, which shows IDLE only after login, works the same."""
    database.add(pymap.user, imap_port=pymap.port, password_encrypted=stored(pymap.password))
    with run() as daemon:
        daemon.wait_line(f"[idle/{pymap.user}] connected (localhost:{pymap.port})")
        daemon.wait_line("scan-triggered")
        mark = daemon.mark()
        pymap.deliver()
        daemon.wait_line("exists-event received (new mail)", after=mark)
        daemon.wait_line("scan-triggered", after=mark)
        assert daemon.stop() == 0


def test_starttls(run: Run, add: Callable[..., str], dovecot: Dovecot) -> None:
    """A row that says starttls is secured before the password goes out: Dovecot demands it."""
    add(
        "stella@example.org",
        imap_host=dovecot.starttls_host,
        imap_port=dovecot.starttls_port,
        imap_security="starttls",
    )
    with run(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as daemon:
        daemon.wait_line("[idle/stella@example.org] connected (127.0.0.2:")
        daemon.wait_line("scan-triggered")
        mark = daemon.mark()
        dovecot.deliver("stella@example.org")
        daemon.wait_line("scan-triggered", after=mark)


def test_refresh_follows_the_table(
    run: Run, add: Callable[..., str], database: Database, dovecot: Dovecot
) -> None:
    """SIGHUP takes in new, inactive, deleted and changed rows; an unchanged one is not touched."""
    add("keep@example.org")
    add("off@example.org")
    add("gone@example.org")
    add("change@example.org")
    with run() as daemon:
        daemon.wait_line("[idle/db] refreshed — 4 active connections, 4 sessions")
        for name in ("keep", "off", "gone", "change"):
            daemon.wait_line(f"[idle/{name}@example.org] connected")
        dovecot.set_password("change@example.org", "another")
        database.execute(
            "UPDATE mail_connections SET password_encrypted = %s WHERE email = %s",
            stored("another"),
            "change@example.org",
        )
        database.execute(
            "UPDATE mail_connections SET is_active = false WHERE email = 'off@example.org'"
        )
        database.execute("DELETE FROM mail_connections WHERE email = 'gone@example.org'")
        add("new@example.org")
        mark = daemon.mark()
        daemon.signal(signal.SIGHUP)
        daemon.wait_line("[idle/db] refreshed — 3 active connections, 3 sessions", after=mark)
        daemon.wait_line("[idle/new@example.org] connected", after=mark)
        daemon.wait_line("[idle/change@example.org] connected", after=mark)
        for name in ("off", "gone"):
            wait_for(lambda name=name: dovecot.sessions(f"{name}@example.org") == 0, 10, "log-out")
        assert not [line for line in daemon.lines[mark:] if "keep@" in line]
        assert dovecot.sessions("keep@example.org") == 1


@pytest.mark.parametrize("column", ["imap_host", "imap_port", "imap_username"])
def test_each_column_that_matters_replaces_the_session(
    run: Run, add: Callable[..., str], database: Database, dovecot: Dovecot, column: str
) -> None:
    """A change of host, port or user name takes effect at the next timed refresh."""
    add("row@example.org", imap_security="tls")
    dovecot.add_user("other@example.org", "secret")
    value = {
        "imap_host": "127.0.0.1",
        "imap_port": str(dovecot.imaps_port),
        "imap_username": "other@example.org",
    }[column]
    with run(REFRESH_INTERVAL_SECONDS="0.5", MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as daemon:
        daemon.wait_line("connected (localhost:")
        mark = daemon.mark()
        if column == "imap_port":
            database.execute("UPDATE mail_connections SET imap_port = 1")
            daemon.wait_line("reconnecting in", after=mark)
        statement = f"UPDATE mail_connections SET {column} = %s"
        database.execute(statement, value)
        mark = daemon.mark()
        daemon.wait_line("] connected (", after=mark)
        if column == "imap_username":
            wait_for(lambda: dovecot.sessions("other@example.org") == 1, 10, "the other session")


def test_a_failing_database_closes_nothing(
    run: Run, add: Callable[..., str], database: Database, dovecot: Dovecot
) -> None:
    """Sessions outlive a database that fails, the log says so, and it is asked again soon."""
    add("anna@example.org")
    with run() as daemon:
        daemon.wait_line("connected")
        database.execute("ALTER TABLE mail_connections RENAME TO elsewhere")
        daemon.signal(signal.SIGHUP)
        line = daemon.wait_line("[idle/db] cannot read the mail connections:")
        assert "MAIL_CONNECTIONS_QUERY" in line
        assert "1 sessions go on, next try in 1s" in line
        mark = daemon.mark()
        dovecot.deliver("anna@example.org")
        daemon.wait_line("exists-event received (new mail)", after=mark)
        database.execute("ALTER TABLE elsewhere RENAME TO mail_connections")
        daemon.wait_line("[idle/db] refreshed — 1 active connections, 1 sessions", after=mark)
        assert not [line for line in daemon.lines[mark:] if "connected" in line and "anna" in line]


def test_start_without_a_database(
    certificates: Certificates, backend: RecordingBackend, tmp_path: Path
) -> None:
    """At start-up too, an unreachable database is said and asked again, not died of."""
    url = "postgresql://nobody:canary-db-password@127.0.0.1:1/none"
    with Daemon(environment(url, backend.url, certificates), tmp_path) as daemon:
        line = daemon.wait_line("[idle/db] cannot read the mail connections:")
        assert "check DATABASE_URL and that the database runs" in line
        daemon.wait_line("next try in 2s")
        assert daemon.stop() == 0
        assert "canary-db-password" not in daemon.text + daemon.stderr


def test_pgbouncer_in_transaction_mode(
    run: Run, add: Callable[..., str], database: Database, pgbouncer: object
) -> None:
    """Many refreshes through a transaction-mode pooler work, Prisma's parameters included."""
    add("anna@example.org")
    url = pgbouncer.url_for(database.url)
    url += ("&" if "?" in url else "?") + "pgbouncer=true&connection_limit=1&schema=public"
    with run(DATABASE_URL=url, REFRESH_INTERVAL_SECONDS="0.1") as daemon:
        mark = 0
        for _ in range(20):
            daemon.wait_line("refreshed — 1 active connections, 1 sessions", after=mark)
            mark = daemon.mark()
        assert "cannot read" not in daemon.text


def test_reconnects_after_a_kick(
    run: Run, add: Callable[..., str], dovecot: Dovecot, backend: RecordingBackend
) -> None:
    """A session that the server ends is made anew; mail that came meanwhile is caught up."""
    add("anna@example.org")
    with run(RECONNECT_INITIAL_SECONDS="2") as daemon:
        daemon.wait_line("connected")
        daemon.wait_line("scan-triggered")
        dovecot.kick("anna@example.org")
        daemon.wait_line("[idle/anna@example.org] reconnecting in 2s (attempt 2)")
        dovecot.deliver("anna@example.org")
        mark = daemon.mark()
        daemon.wait_line("connected", after=mark)
        daemon.wait_line("scan-triggered", after=mark)
        assert [scan.reason for scan in backend.scans] == ["catch-up", "catch-up"]


def test_attempts_are_counted_and_waits_double(run: Run, database: Database) -> None:
    """Without a server the waits double from attempt to attempt, with jitter from the third on."""
    database.add("anna@example.org", imap_port=1, password_encrypted=stored("secret"))
    with run(RECONNECT_INITIAL_SECONDS="1", RECONNECT_MAX_SECONDS="3") as daemon:
        daemon.wait_line("[idle/anna@example.org] reconnecting in 1s (attempt 2)")
        daemon.wait_line(re.compile(r"reconnecting in 2s \(attempt 3\)$"))
        daemon.wait_line(re.compile(r"reconnecting in [23]s \(attempt 4\)$"))
        assert "Connection refused" in daemon.text


def test_one_mailboxs_trouble_is_its_own(
    run: Run,
    add: Callable[..., str],
    database: Database,
    dovecot: Dovecot,
    backend: RecordingBackend,
) -> None:
    """A wrong password, an unreadable one, a NULL, an unknown host: the others do not notice."""
    port = dovecot.imaps_port
    dovecot.add_user("wrong@example.org", "right")
    database.add("wrong@example.org", imap_port=port, password_encrypted=stored("no"))
    database.add("sealed@example.org", imap_port=port, password_encrypted="not:a:password")
    other_key = stored("secret", key="another key of more than 32 characters")
    database.add("key@example.org", imap_port=port, password_encrypted=other_key)
    database.add("host@example.org", imap_host="no.such.host.invalid", password_encrypted=other_key)
    database.add("empty@example.org", imap_host="", password_encrypted=stored("secret"))
    database.add(
        "lost@example.org", imap_host="no.such.host.invalid", password_encrypted=stored("secret")
    )
    add("well@example.org")
    with run() as daemon:
        daemon.wait_line("[idle/well@example.org] connected")
        wrong = daemon.wait_line("[idle/wrong@example.org] the server refused the login:")
        assert wrong.endswith("parked: next try when the row changes, or in 15min")
        for name in ("sealed", "key", "empty"):
            line = daemon.wait_line(re.compile(rf"\[idle/{name}@example.org\] .*parked"))
            assert line.endswith("next try when the row changes")
        assert "imap_host is NULL or empty" in daemon.text
        assert "does not resolve" in daemon.wait_line("[idle/lost@example.org] the host")
        daemon.wait_line("[idle/lost@example.org] reconnecting in")
        daemon.wait_line("[idle/well@example.org] scan-triggered")
        mark = daemon.mark()
        dovecot.deliver("well@example.org")
        daemon.wait_line("[idle/well@example.org] exists-event received (new mail)", after=mark)
        daemon.wait_line("scan-triggered", after=mark)
        assert daemon.stop() == 0


def test_certificates_are_verified(
    run: Run, add: Callable[..., str], certificates: Certificates, dovecot: Dovecot
) -> None:
    """A certificate of an unknown CA is refused, and nothing is sent over that connection."""
    add("anna@example.org")
    with run(SSL_CERT_FILE="/dev/null") as daemon:
        line = daemon.wait_line("[idle/anna@example.org] certificate not accepted")
        assert "unable to get local issuer certificate" in line
        daemon.wait_line("reconnecting in")


def test_names_are_verified(run: Run, database: Database, certificates: Certificates) -> None:
    """A certificate for another name is refused, and the password does not go out."""
    with ScriptedImap(Mailbox(), tls_context=certificates.wrong_name.server_context()) as server:
        database.add("anna@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            line = daemon.wait_line("certificate not accepted")
            assert "not valid for 'localhost'" in line
            daemon.wait_line("reconnecting in")
        assert not any(connection.commands for connection in server.connections)


@pytest.mark.parametrize("offered", [True, False])
def test_never_plain_text(
    run: Run, database: Database, certificates: Certificates, offered: bool
) -> None:
    """Where STARTTLS is not offered, or refused, the password stays here."""
    tls = certificates.server_context() if offered else None
    with ScriptedImap(Mailbox(), starttls_context=tls) as server:
        server.on("starttls", lambda connection: connection.answer(b"NO not now"))
        database.add(
            "anna@example.org",
            imap_port=server.port,
            imap_security="starttls",
            password_encrypted=stored("secret"),
        )
        with run(MAIL_CONNECTIONS_QUERY=ALL_COLUMNS) as daemon:
            daemon.wait_line("STARTTLS" if not offered else "not now")
            daemon.wait_line("reconnecting in")
        said = b"".join(c.line for connection in server.connections for c in connection.commands)
        assert b"LOGIN" not in said
        assert b"AUTHENTICATE" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_orderly_stop(run: Run, add: Callable[..., str], dovecot: Dovecot, number: int) -> None:
    """SIGTERM and SIGINT log out of all sessions and end with status 0."""
    for name in "abc":
        add(f"{name}@example.org")
    with run() as daemon:
        for name in "abc":
            daemon.wait_line(f"[idle/{name}@example.org] connected")
        daemon.signal(number)
        assert daemon.wait(10) == 0
        assert daemon.lines[-1] == "[idle/db] stopped"
        assert daemon.stderr == ""
    logged_out = r"imap\(([abc])@example\.org\).*: (?:Disconnected: )?Logged out"
    wait_for(lambda: set(re.findall(logged_out, dovecot.log())) == set("abc"), 5, "three log-outs")
