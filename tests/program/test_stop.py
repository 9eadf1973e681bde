"""The orderly stop, whatever the sessions are doing."""

import ctypes
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.daemon import REPOSITORY
from tests.support.recording_backend import Hang, RecordingBackend
from tests.support.rig import add_mailboxes, stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

# The contract's bound on a stop: a promise, not a measure of speed.
STOP_SECONDS = 10.0

# The main thread looks for signals every half second.
LATEST_NOTICE_SECONDS = 3.0

HANGING = ["greeting", "capability", "login", "examine", "idle", "done", "logout"]


def stop_in_time(daemon: object, number: int = signal.SIGTERM) -> None:
    daemon.signal(number)
    assert daemon.wait(STOP_SECONDS) == 0, daemon.text


@pytest.mark.parametrize("step", ["tls-handshake", *HANGING])
def test_a_server_that_hangs_does_not_hold_up_the_stop(
    run: Run, database: Database, certificates: Certificates, step: str
) -> None:
    """Wherever a server falls silent, the daemon ends in time and with status 0."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        reached = []

        def hang(connection: Connection) -> None:
            reached.append(step)
            connection.silence()

        server.capability_code_in = ()  # or nobody asks for CAPABILITY
        server.on(step, hang)
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run(IMAP_TIMEOUT_SECONDS="60") as daemon:
            if step in ("done", "logout"):
                server.wait_for_idling()
            else:
                wait_for(lambda: reached, 10, step)
            stop_in_time(daemon)


def test_backing_off_and_parked_mailboxes_stop(run: Run, database: Database) -> None:
    """A wait of minutes ends at once."""
    database.add("off@example.org", imap_port=1, password_encrypted=stored("secret"))
    database.add("parked@example.org", imap_port=1, password_encrypted="unreadable")
    with run(RECONNECT_INITIAL_SECONDS="300") as daemon:
        daemon.wait_line("reconnecting in 300s")
        daemon.wait_line("parked")
        stop_in_time(daemon, signal.SIGINT)
        assert daemon.lines[-1] == "[idle/db] stopped"


def test_a_scan_under_way_does_not_hold_up_the_stop(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """A backend that hangs is left, and the session is logged out all the same."""
    backend.default = Hang()
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            backend.wait_for(1)
            stop_in_time(daemon)
        wait_for(lambda: server.connections[0].logged_out, 5, "the log-out")


def test_mailboxes_in_line_for_a_scan_stop(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """Those that wait for a place at the backend stop and log out, and send nothing more."""
    backend.default = Hang()
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        add_mailboxes(database, 5, server.port)
        query = "SELECT * FROM mail_connections WHERE is_active"
        with run(SCAN_CONCURRENCY="1", MAIL_CONNECTIONS_QUERY=query) as daemon:
            backend.wait_for(1)
            server.wait_for_idling(5)
            stop_in_time(daemon)
        wait_for(lambda: all(c.logged_out for c in server.connections), 5, "five log-outs")
        assert len(backend.scans) == 1


def test_many_sessions_are_logged_out(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """However many there are: every one of 150 sessions is logged out in time."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.execute(
            "INSERT INTO mail_connections (user_id, email, imap_host, imap_port,"
            " imap_username, password_encrypted) SELECT gen_random_uuid(), n || '@example.org',"
            " 'localhost', %s, 'user@example.org', %s FROM generate_series(1, 150) n",
            server.port,
            stored("secret"),
        )
        query = "SELECT * FROM mail_connections WHERE is_active"
        with run(MAIL_CONNECTIONS_QUERY=query) as daemon:
            server.wait_for_idling(150, 60)
            stop_in_time(daemon)
        wait_for(lambda: all(c.logged_out for c in server.connections), 5, "all log-outs")


def test_a_second_signal_ends_at_once(
    run: Run, database: Database, certificates: Certificates, backend: RecordingBackend
) -> None:
    """Whoever cannot wait, here for a scan that is under way, sends the signal twice."""
    backend.script = [Hang()]
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run() as daemon:
            backend.wait_for(1)
            daemon.signal(signal.SIGTERM)
            daemon.wait_line("[idle/db] stopping")
            daemon.signal(signal.SIGTERM)
            assert daemon.wait(2) == -signal.SIGTERM


def test_a_signal_that_another_thread_takes(run: Run) -> None:
    """The system may give a signal to any thread, and Python's handlers run on the main one only:
    it looks for them often enough.
    """
    with run() as daemon:
        daemon.wait_line("refreshed")
        threads = [int(task.name) for task in Path(f"/proc/{daemon.pid}/task").iterdir()]
        another = next(number for number in threads if number != daemon.pid)
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
            before = daemon.mark()
            assert ctypes.CDLL(None).tgkill(daemon.pid, another, number) == 0
            daemon.wait_line("[idle/db] ", LATEST_NOTICE_SECONDS, after=before)
        assert daemon.wait(STOP_SECONDS) == 0


# Imported by every Python that has its folder in PYTHONPATH.
A_NAME_THAT_HANGS = """
import os, socket, threading

real = socket.getaddrinfo
asked = []

def getaddrinfo(host, *args, **more):
    if host == "hangs.example":
        asked.append(host)
        print("asked", len(asked), flush=True)
        if len(asked) > int(os.environ["TEST_ANSWERS"]):
            threading.Event().wait()
        host = "127.0.0.1"
    return real(host, *args, **more)

socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.parametrize("answers", [0, 1], ids=["first", "again"])
def test_a_name_that_is_being_looked_up_does_not_hold_up_the_stop(
    run: Run, database: Database, certificates: Certificates, tmp_path: Path, answers: int
) -> None:
    """No resolver's silence is waited for, nor where the first address was of no use."""
    (tmp_path / "sitecustomize.py").write_text(A_NAME_THAT_HANGS)
    settings = {
        "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
        "TEST_ANSWERS": str(answers),
        "HOST_CONNECTS_AT_ONCE": "1",
        "IMAP_TIMEOUT_SECONDS": "2",
        "RECONNECT_INITIAL_SECONDS": "300",
    }
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        server.on("tls-handshake", lambda connection: connection.silence())
        for name in "ab":
            database.add(
                f"{name}@example.org",
                imap_host="hangs.example",
                imap_port=server.port,
                password_encrypted=stored("secret"),
            )
        with run(**settings) as daemon:
            daemon.wait_line(f"asked {answers + 1}")
            stop_in_time(daemon)
            assert daemon.lines[-1] == "[idle/db] stopped"


def test_a_stop_while_the_database_hangs(
    run: Run, certificates: Certificates, tmp_path: Path
) -> None:
    """A database that accepts and never answers holds up neither the stop nor anything else."""
    with ScriptedImap(Mailbox()) as silent:
        silent.on("greeting", lambda connection: connection.silence())
        url = f"postgresql://u@127.0.0.1:{silent.port}/d?sslmode=disable"
        with run(DATABASE_URL=url) as daemon:
            silent.wait_for_connections(1)
            started = time.monotonic()
            stop_in_time(daemon)
            assert time.monotonic() - started < STOP_SECONDS


def test_a_stop_while_thousands_are_started(run: Run, database: Database) -> None:
    """The signal is heeded in the midst of it, and the end comes in time."""
    database.execute(
        "INSERT INTO mail_connections (user_id, email, imap_host, imap_port, password_encrypted)"
        " SELECT gen_random_uuid(), n || '@example.org', '127.0.0.1', 1, 'x'"
        " FROM generate_series(1, 5000) n"
    )
    with run() as daemon:
        daemon.wait_line("parked")  # some threads run already
        stop_in_time(daemon)
        assert daemon.lines[-1].startswith("[idle/db] stopped")


def test_a_connect_to_the_backend_that_hangs_does_not_hold_up_the_stop(
    run: Run, database: Database, certificates: Certificates
) -> None:
    """A backend whose connections are never accepted is left."""
    with (
        ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server,
        full_backlog() as url,
    ):
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run(BACKEND_URL=url) as daemon:
            daemon.wait_line("connected (")
            stop_in_time(daemon)


@contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of a server that accepts no connection: a connect to it hangs."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
