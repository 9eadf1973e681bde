"""The preflight at hosts with many mailboxes: the limits, and hosts that are down."""

from pathlib import Path

from tests.conftest import Run
from tests.program.check.conftest import ANY_LOGIN, add_mailboxes
from tests.support.names import DOMAIN, Names, add_mailbox
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, free_port


def test_the_limits_at_one_host_are_kept(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """At most two at once, and after a burst of eight at most four a second."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        add_mailboxes(database, 24, server.port)
        open_at_once: list[int] = []

        def count(_: Connection) -> None:
            open_at_once.append(sum(not c.logged_out for c in server.connections))

        server.on("login", count)
        limits = {"HOST_CONNECTS_AT_ONCE": 2, "HOST_LOGINS_PER_SECOND": 4}
        with run("check", MAIL_CONNECTIONS_QUERY=ANY_LOGIN, **limits) as daemon:
            assert daemon.wait(60) == 0, daemon.text
        assert max(open_at_once) <= 2
        assert server.connects == 24
        took = server.connections[-1].accepted_at - server.connections[0].accepted_at
        assert took > 2.0  # (24 - 8) / 4 = 4 s, if the first one came at once
    assert "24 of 24 mailboxes ready" in daemon.lines[-1]


def test_a_dead_host_is_given_up(run: Run, database: Database, certificates: Certificates) -> None:
    """It is probed once; then each mailbox there has its line, and those elsewhere are tried."""
    context = certificates.server_context()
    with (
        ScriptedImap(Mailbox(), tls_context=context) as dead,
        ScriptedImap(Mailbox(), tls_context=context) as well,
    ):
        dead.on("greeting", b"* BYE Down\r\n", instead=True)
        add_mailboxes(database, 60, dead.port, "dead-")
        add_mailboxes(database, 5, well.port, "well-")
        query = {"MAIL_CONNECTIONS_QUERY": ANY_LOGIN}
        with run("check", HOST_CONNECTS_AT_ONCE=2, **query) as daemon:
            assert daemon.wait(60) == 1
        # Five, those that begin while one is under way that is older than all failures, the probe.
        assert dead.connects <= 30
    lines = daemon.lines
    assert sum("password opens" in line for line in lines) == 5
    assert sum("Down" in line for line in lines if "[idle/dead-" in line) == dead.connects
    not_tried = [line for line in lines if f"not tried: localhost:{dead.port} is down" in line]
    assert len(not_tried) == 60 - dead.connects
    assert "5 of 65 mailboxes ready" in lines[-1]


def test_a_dead_machine_under_many_names_is_given_up(
    run: Run, database: Database, tmp_path: Path
) -> None:
    """Forty names at one address are one host; a name that leads nowhere is one of its own."""
    names, port = Names(tmp_path), free_port()
    for number in range(40):
        names.lead(f"mail{number}.{DOMAIN}", "127.0.0.1")
        add_mailbox(database, f"dead-{number}", f"mail{number}.{DOMAIN}", port)
        add_mailbox(database, f"lost-{number}", f"lost.{DOMAIN}", port)
    names.lead(f"lost.{DOMAIN}")
    with run("check", **names.environment, HOST_CONNECTS_AT_ONCE=2) as daemon:
        assert daemon.wait(60) == 1
    for name in ("dead", "lost"):
        lines = [line for line in daemon.lines if line.startswith(f"[idle/{name}-")]
        assert len(lines) == 40
        assert sum("not tried: " in line for line in lines) >= 30


def test_a_host_that_hangs_holds_up_no_other(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """However many mailboxes wait there, and although their rows come first."""
    context = certificates.server_context()
    with (
        ScriptedImap(Mailbox(), tls_context=context) as hanging,
        ScriptedImap(Mailbox(), tls_context=context) as well,
    ):
        hanging.on("greeting", lambda connection: connection.silence())
        add_mailboxes(database, 60, hanging.port, "hanging-")
        add_mailboxes(database, 5, well.port, "well-")
        query = {"MAIL_CONNECTIONS_QUERY": ANY_LOGIN}
        with run("check", IMAP_TIMEOUT_SECONDS=60, **query) as daemon:
            for number in range(5):
                daemon.wait_line(f"[idle/well-{number}@example.org] password opens")
            assert "[idle/hanging-" not in daemon.text
            assert daemon.stop() == 1


def test_a_host_that_answers_the_probe_is_not_given_up(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """Those that waited are tried, as many as there are."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        server.on("greeting", b"* BYE Down\r\n", instead=True, times=5)
        add_mailboxes(database, 20, server.port)
        query = {"MAIL_CONNECTIONS_QUERY": ANY_LOGIN}
        with run("check", HOST_CONNECTS_AT_ONCE=1, **query) as daemon:
            assert daemon.wait(60) == 1
        assert server.connects == 20
    assert "15 of 20 mailboxes ready" in daemon.lines[-1]
