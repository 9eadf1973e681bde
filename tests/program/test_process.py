"""The process in odd surroundings: a log nobody reads, few descriptors, signals at any moment."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.daemon import BASE_ENVIRONMENT
from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import environment, stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database
from tests.support.waiting import wait_for

STOP_SECONDS = 10.0


def start(values: dict[str, str], cwd: Path, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rebreak_idle"]
    return subprocess.Popen(command, env={**BASE_ENVIRONMENT, **values}, cwd=cwd, **options)


def test_a_reader_that_stalls_stops_nothing(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> None:
    """With a pipe that is full mail is still scanned, and the stop is still in order."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while os.write(write, b"x" * 65536):
            pass
    except BlockingIOError:
        os.set_blocking(write, True)
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        values = environment(database.url, backend.url, certificates, LOG_LEVEL="debug")
        process = start(values, tmp_path, stdout=write)
        os.close(write)
        backend.wait_answered(1)
        server.wait_for_idling()
        server.mailboxes.arrive()
        backend.wait_answered(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
        os.close(read)
        wait_for(lambda: server.connections[0].logged_out, 5, "the log-out")


def test_a_reader_that_went_away_spoils_nothing(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> None:
    """A closed stdout ends the log; scans go on, and the exit status is 0."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        values = environment(database.url, backend.url, certificates)
        process = start(values, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        backend.wait_answered(1)
        server.wait_for_idling()
        server.mailboxes.arrive()
        backend.wait_answered(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
        with process.stderr as stderr:
            assert stderr.read() == b""


def test_too_few_descriptors_are_said_and_survived(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> None:
    """More rows than descriptors: a clear line, the sessions that fit, and an orderly stop."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as server:
        database.execute(
            "INSERT INTO mail_connections (user_id, email, imap_host, imap_port, imap_username,"
            " password_encrypted) SELECT gen_random_uuid(), n || '@example.org', 'localhost', %s,"
            " 'user@example.org', %s FROM generate_series(1, 60) n",
            server.port,
            stored("secret"),
        )
        values = environment(database.url, backend.url, certificates)
        values["MAIL_CONNECTIONS_QUERY"] = "SELECT * FROM mail_connections WHERE is_active"
        with (tmp_path / "log").open("wb") as log:
            process = start(
                values,
                tmp_path,
                stdout=log,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)),
            )
        written = tmp_path / "log"
        wait_for(lambda: "more file descriptors" in written.read_text(), 20, "the line")
        server.wait_for_idling(10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0
        assert "[idle/db] stopped" in written.read_text()
        assert "Traceback" not in written.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("after_seconds", [0.06, 0.12, 0.2, 0.3, 0.5])
def test_a_stop_right_after_the_start(
    tmp_path: Path, certificates: Certificates, number: int, after_seconds: float
) -> None:
    """From when the program runs at all, a stop ends it with status 0 and without a traceback."""
    values = environment("postgresql://u@127.0.0.1:1/d", "http://127.0.0.1:1", certificates)
    process = start(values, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    executable = Path(f"/proc/{process.pid}/status")
    # Python itself handles signals only once it has begun to run the program.
    wait_for(lambda: _catches(executable, signal.SIGTERM), 5, "the program to begin")
    deadline = time.monotonic() + after_seconds
    wait_for(lambda: time.monotonic() >= deadline, 5, "a moment of the start")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0
    assert stderr == b""


def _catches(status: Path, number: int) -> bool:
    caught = next(x for x in status.read_text().splitlines() if x.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_news_inside_an_answer_to_examine_is_not_counted_twice(
    certificates: Certificates,
) -> None:
    """EXAMINE whose answer begins with news of the old selection must not hide a later mail."""
    mailbox = Mailbox()
    with (
        JudgingBackend() as backend,
        ScriptedImap(mailbox, tls_context=certificates.server_context()) as server,
        Watched(server, backend, certificates.client_context(), idle_renew_seconds=0.5) as it,
    ):
        it.wait_listening()

        def flush_old_news(connection: Connection) -> None:
            if len(connection.commands) > 6:
                mailbox.arrive(announce=False)
                connection.send(b"* %d EXISTS\r\n" % mailbox.exists)
                server.off("examine")

        server.on("examine", flush_old_news)
        server.wait_until(lambda: len(mailbox.arrivals) == 1)
        it.wait_listening(it.waits)
        mailbox.announcing = False
        server.idling[0].rst()
        mailbox.arrive()
        assert_promise(mailbox, backend)


def test_a_server_that_refuses_idle_is_polled(
    run: Run, database: Database, backend: RecordingBackend, certificates: Certificates
) -> None:
    """IDLE that is offered and answered with NO or BAD leads to polling, not to reconnects."""
    mailbox = Mailbox()
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as server:
        server.on("idle", lambda c: c.answer(b"BAD not now"))
        database.add("user@example.org", imap_port=server.port, password_encrypted=stored("secret"))
        with run(POLL_INTERVAL_SECONDS="0.2") as daemon:
            daemon.wait_line("the server has no IDLE: asking every 0.2s")
            backend.wait_answered(1)
            mailbox.arrive()
            assert backend.wait_answered(2)[1].reason == "poll"
            assert server.connects == 1
