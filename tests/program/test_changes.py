"""A row that is added, changed or taken away is acted on within seconds."""

from collections.abc import Callable

import pytest

from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.rig import stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, PgBouncer

# The contract's ten seconds, and one for the reading.
WITHIN_SECONDS = 11.0


@pytest.fixture
def changed(database: Database) -> Callable[[Daemon, str], None]:
    """Makes a change, and waits for the refresh that follows by itself."""

    def change(daemon: Daemon, statement: str) -> None:
        mark = daemon.mark()
        database.execute(statement)
        daemon.wait_line("refreshed — ", WITHIN_SECONDS, mark)

    return change


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
def test_with_the_defaults_a_change_is_acted_on_within_11_seconds(
    run: Run,
    database: Database,
    pgbouncer: PgBouncer,
    certificates: Certificates,
    changed: Callable[[Daemon, str], None],
    pooled: bool,
) -> None:
    """A new row is watched, a changed one anew, one that is switched off no more."""
    url = pgbouncer.url_for(database.url) if pooled else database.url
    users = {"anna@example.org": "secret", "ben@example.org": "secret"}
    tls = certificates.server_context()
    with (
        ScriptedImap(Mailbox(), tls_context=tls, users=users) as server,
        run(DATABASE_URL=url) as daemon,
    ):
        daemon.wait_line("refreshed — 0 active connections, 0 sessions")
        database.add("anna@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        daemon.wait_line("[idle/anna@example.org] connected", WITHIN_SECONDS)
        mark = daemon.mark()
        changed(daemon, "UPDATE mail_connections SET email = 'ben@example.org'")
        daemon.wait_line("[idle/ben@example.org] connected", after=mark)
        changed(daemon, "UPDATE mail_connections SET is_active = false")
        daemon.wait_line("refreshed — 0 active connections, 0 sessions", after=mark)


def test_what_stays_as_it_is_is_not_read_again(run: Run, database: Database) -> None:
    """Checks alone write no line, and no reading follows a column that means nothing here."""
    database.execute("ALTER TABLE mail_connections ADD scanned_at timestamptz")
    query = "SELECT * FROM mail_connections"
    with run(CHANGE_CHECK_SECONDS="0.05", MAIL_CONNECTIONS_QUERY=query) as daemon:
        daemon.wait_line("refreshed — 0 active connections")
        database.add("anna@example.org")
        daemon.wait_line("refreshed — 1 active connections")
        mark = daemon.mark()
        database.execute("UPDATE mail_connections SET scanned_at = now()")
        database.add("ben@example.org")
        daemon.wait_line("refreshed — ", after=mark)
        assert [line for line in daemon.lines[mark:] if "refreshed" in line] == [
            "[idle/db] refreshed — 2 active connections, 2 sessions"
        ]


def test_a_query_without_a_fingerprint_is_read_at_the_interval(
    run: Run, database: Database
) -> None:
    """One line says so, and the refresh sees the change."""
    # As on a PostgreSQL before 11, the function is not there.
    database.execute(
        "SET allow_system_table_mods = on;"
        "ALTER FUNCTION pg_catalog.hashtextextended(text, bigint) RENAME TO gone"
    )
    with run(CHANGE_CHECK_SECONDS="0.05", REFRESH_INTERVAL_SECONDS="0.5") as daemon:
        daemon.wait_line(
            "[idle/db] the database cannot be asked whether the rows changed (function "
            "hashtextextended"
        )
        daemon.wait_line("refreshed — 0 active connections")
        database.add("anna@example.org")
        daemon.wait_line("refreshed — 1 active connections")
        assert daemon.text.count("cannot be asked") == 1
