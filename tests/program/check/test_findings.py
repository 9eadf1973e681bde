"""The preflight, `python -m rebreak_idle check`: what it finds, and what it says of it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import sql

from tests.conftest import Run
from tests.program.check.conftest import ANY_LOGIN
from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY, environment, stored
from tests.support.scripted_imap import ScriptedImap
from tests.support.servers import Certificates, Database, Dovecot, Postgres
from tests.support.waiting import wait_for


def test_all_is_well(
    run: Run, database: Database, dovecot: Dovecot, backend: RecordingBackend
) -> None:
    """A line for each finding, a summary, status 0, and no scan."""
    dovecot.add_user("check@example.org", "secret")
    port = dovecot.imaps_port
    database.add("check@example.org", imap_port=port, password_encrypted=stored("secret"))
    with run("check") as daemon:
        assert daemon.wait(30) == 0
    assert daemon.lines == [
        "[idle/db] environment: ok",
        "[idle/db] database: ok, 1 active connections",
        "[idle/fleet] there is no table idle_instances: a daemon is alone, and watches every"
        " mailbox",
        f"[idle/check@example.org] password opens, localhost:{port} reached over TLS, login ok,"
        " INBOX has 0 messages, IDLE offered",
        "[idle/db] backend: reached (it answers 404 Not Found to GET /api/mail/scan-internal,"
        " which does not tell whether the scan endpoint is there; no scan was sent)",
        "[idle/db] check passed — database ok, 1 of 1 mailboxes ready, backend reached",
    ]
    assert backend.scans == []
    assert all("x-admin-secret" not in request.headers for request in backend.requests)


def test_every_fault_is_found(
    run: Run, database: Database, dovecot: Dovecot, backend: RecordingBackend
) -> None:
    """Unreadable password, unknown host, wrong port, wrong password: a line each, status 1."""
    dovecot.add_user("wrong@example.org", "right")
    rows: dict[str, dict[str, object]] = {
        "sealed": {"password_encrypted": "x:y:z"},
        "host": {"imap_host": "no.such.host.invalid"},
        "port": {"imap_port": 1},
        "wrong": {"password_encrypted": stored("wrong")},
        "null": {"imap_host": ""},
    }
    for name, row in rows.items():
        defaults = {"imap_port": dovecot.imaps_port, "password_encrypted": stored("secret")}
        database.add(f"{name}@example.org", **{**defaults, **row})
    backend.refuse()
    with run("check") as daemon:
        assert daemon.wait(30) == 1
    lines = {line.split("] ")[0]: line for line in daemon.lines}
    assert "does not resolve" in lines["[idle/host@example.org"]
    assert "Connection refused (connecting to localhost:1)" in lines["[idle/port@example.org"]
    wrong = lines["[idle/wrong@example.org"]
    assert "the server refused the login" in wrong
    assert wrong.endswith("(the user must act)")
    assert lines["[idle/null@example.org"].endswith("(the operator must act)")
    assert "imap_host is NULL or empty" in lines["[idle/null@example.org"]
    assert "[idle/sealed@example.org" in lines
    assert "is it running" in daemon.text
    assert daemon.lines[-1] == (
        "[idle/db] check failed — database ok, 0 of 5 mailboxes ready, backend not reached"
    )


def test_environment_faults_are_findings(tmp_path: Path) -> None:
    """With a bad environment the preflight says all that is wrong and ends with status 1."""
    with Daemon({"ADMIN_SECRET": "s"}, tmp_path, ["check"]) as daemon:
        assert daemon.wait() == 1
    assert "DATABASE_URL is missing" in daemon.stderr
    assert "ENCRYPTION_KEY is missing" in daemon.stderr


def test_database_faults_are_findings(run: Run, backend: RecordingBackend) -> None:
    """Without a database the rest is still tried."""
    with run("check", DATABASE_URL="postgresql://u@127.0.0.1:1/d") as daemon:
        assert daemon.wait(30) == 1
    assert "[idle/db] database: " in daemon.text
    assert "backend: reached" in daemon.text


def test_a_bad_environment_stops_the_start(tmp_path: Path) -> None:
    """All problems at once on stderr, one line each, no secret shown, status 78."""
    values = {
        "DATABASE_URL": "mysql://canary-url",
        "ADMIN_SECRET": "canary\nsecret",
        "ENCRYPTION_KEY": "canary-short",
        "BACKEND_URL": "ftp://x",
        "SCAN_CONCURRENCY": "many",
        "IDLE_RENEW_SECONDS": "",
        "LOG_LEVEL": "loud",
    }
    with Daemon(values, tmp_path) as daemon:
        assert daemon.wait() == 78
    lines = daemon.stderr.splitlines()
    assert len(lines) == len(values)
    for name in values:
        assert sum(name in line.split()[1] for line in lines) == 1, name
    assert "canary" not in daemon.stderr
    assert daemon.lines == []


def test_dot_env_fills_what_the_environment_leaves_out(
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    """A .env file in the working directory counts, and never against the real environment."""
    values = environment(database.url, backend.url, certificates, MAIL_CONNECTIONS_QUERY=ANY_LOGIN)
    (tmp_path / ".env").write_text(
        f"ADMIN_SECRET='{ADMIN_SECRET}'\nENCRYPTION_KEY={ENCRYPTION_KEY}\nBACKEND_URL=http://x\n"
    )
    del values["ADMIN_SECRET"], values["ENCRYPTION_KEY"]
    with Daemon(values, tmp_path, ["check"]) as daemon:
        assert daemon.wait(30) == 0, daemon.text + daemon.stderr


def test_usage(tmp_path: Path) -> None:
    """--help says what the program is, and an unknown word is refused."""
    with Daemon({}, tmp_path, ["--help"]) as daemon:
        assert daemon.wait() == 0
        assert "check: a preflight" in daemon.text
    with Daemon({}, tmp_path, ["chekc"]) as daemon:
        assert daemon.wait() == 2
        assert "invalid choice" in daemon.stderr


def test_queries(run: Run, database: Database, tmp_path: Path) -> None:
    """A query that cannot be used is said with the columns that are there, or what to do."""
    cases: dict[str, Callable[[str], bool]] = {
        "SELECT id, email FROM mail_connections": lambda text: (
            "no column user_id, imap_host, password_encrypted (it returns id, email)" in text
        ),
        "SELECT * FROM nowhere": lambda text: "create the table" in text,
        "SELECT nothing FROM mail_connections": lambda text: "that fits the table" in text,
        "DELETE FROM mail_connections": lambda text: "must only read" in text,
    }
    for query, expected in cases.items():
        with run("check", MAIL_CONNECTIONS_QUERY=query) as daemon:
            assert daemon.wait(30) == 1
        assert expected(daemon.text), daemon.text


# The rows


@pytest.fixture
def restricted(postgres: Postgres, database: Database) -> Iterator[str]:
    """The database's URL for a user that may SELECT, and that row-level security shows no row."""
    name = f"reader_{uuid4().hex}"
    role = sql.Identifier(name)
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    database.execute(sql.SQL("GRANT SELECT ON mail_connections TO {}").format(role))
    database.execute("ALTER TABLE mail_connections ENABLE ROW LEVEL SECURITY")
    try:
        yield database.url.replace("//postgres@", f"//{name}@")
    finally:
        database.execute(sql.SQL("DROP OWNED BY {}").format(role))
        postgres.execute(sql.SQL("DROP ROLE {}").format(role))


def test_rows_that_row_level_security_hides(
    run: Run, server: ScriptedImap, restricted: str
) -> None:
    """No rows at all is a finding that names the likely cause."""
    with run("check", DATABASE_URL=restricted) as daemon:
        assert daemon.wait(30) == 1
    assert "database: the query returns no rows" in daemon.text
    assert "row-level security" in daemon.text
    assert daemon.lines[-1] == (
        "[idle/db] check failed — database without rows, 0 of 0 mailboxes ready, backend reached"
    )


def test_the_daemon_names_row_level_security_at_each_refresh(
    run: Run, server: ScriptedImap, restricted: str, database: Database
) -> None:
    """It closes the sessions, as for rows that are gone, and says why that may be wrong."""
    reader = restricted.split("//")[1].split("@")[0]
    shown = sql.SQL("CREATE POLICY shown ON mail_connections FOR SELECT TO {} USING (true)")
    database.execute(shown.format(sql.Identifier(reader)))
    with run(DATABASE_URL=restricted, MAIL_CONNECTIONS_QUERY=ANY_LOGIN) as daemon:
        daemon.wait_line("refreshed — 1 active connections, 1 sessions")
        server.wait_for_idling()
        assert "row-level" not in daemon.text
        database.execute("DROP POLICY shown ON mail_connections")
        for _ in range(2):
            mark = daemon.mark()
            daemon.signal(signal.SIGHUP)
            line = daemon.wait_line("row-level security may hide", after=mark)
            assert "the query returns no rows: no mailbox is watched" in line
            daemon.wait_line("refreshed — 0 active connections, 0 sessions", after=mark)
        wait_for(lambda: server.connections[0].logged_out, 10, "the log-out")
        assert daemon.stop() == 0
