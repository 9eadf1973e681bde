"""The preflight: `python -m rebreak_idle check`."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg import sql

from tests.conftest import Run
from tests.support.daemon import BASE_ENVIRONMENT, Daemon
from tests.support.names import DOMAIN, Names, add_mailbox
from tests.support.recording_backend import (
    Behaviour,
    Hang,
    RecordingBackend,
    Request,
    answer,
    html,
    redirect,
)
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY, environment, stored
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, Dovecot, Postgres, free_port
from tests.support.waiting import wait_for

SCAN_ENDPOINT = "/api/mail/scan-internal"
ANY_LOGIN = "SELECT * FROM mail_connections WHERE is_active ORDER BY email"


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


def add_mailboxes(database: Database, number: int, port: int, prefix: str = "") -> None:
    """So many mailboxes at one port of localhost, all with the login user@example.org."""
    for index in range(number):
        database.add(
            f"{prefix}{index}@example.org",
            imap_port=port,
            imap_username="user@example.org",
            password_encrypted=stored("secret"),
        )


# The backend


class Gate(RecordingBackend):
    """A backend whose every answer, to any method and path, is one that the test chose."""

    def __init__(self, choose: Callable[[Request], Behaviour]) -> None:
        super().__init__()
        self._choose = choose

    def _behaviour(self, request: Request) -> Behaviour:
        return self._choose(request)


def is_the_secret_right(request: Request) -> bool:
    return request.headers.get("x-admin-secret") == ADMIN_SECRET


@pytest.fixture
def server(database: Database, certificates: Certificates) -> Iterator[ScriptedImap]:
    """A server with one mailbox that is ready, so that the backend alone decides."""
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context()) as scripted:
        add_mailboxes(database, 1, scripted.port)
        yield scripted


def check_backend(run: Run, choose: Callable[[Request], Behaviour]) -> tuple[int, str, Gate]:
    """The status and the output of a check against such a backend, which got no POST."""
    with Gate(choose) as backend:
        with run("check", BACKEND_URL=backend.url, MAIL_CONNECTIONS_QUERY=ANY_LOGIN) as daemon:
            status = daemon.wait(30)
        assert {request.method for request in backend.requests} == {"GET"}
        assert {request.path for request in backend.requests} == {SCAN_ENDPOINT}
        return status, daemon.text, backend


TO_ITSELF = "set BACKEND_URL to where the backend itself listens"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        *((redirect("https://x/", code), TO_ITSELF) for code in (301, 302, 303, 307, 308)),
        *((html(code), f"the backend answered {code}") for code in (502, 503, 504, 521)),
    ],
)
def test_a_backend_that_a_scan_would_not_reach(
    run: Run, server: ScriptedImap, behaviour: Behaviour, said: str
) -> None:
    """What a redirect or a proxy without its backend answers fails, with the daemon's advice."""
    status, text, _ = check_backend(run, lambda _: behaviour)
    assert status == 1
    assert said in text
    assert text.endswith("check failed — database ok, 1 of 1 mailboxes ready, backend not reached")


@pytest.mark.parametrize("code", [401, 403])
def test_a_wrong_secret_is_told_where_the_backend_tells(
    run: Run, server: ScriptedImap, code: int
) -> None:
    """An endpoint that refuses whoever has no secret is asked with it, and says if it is right."""
    status, text, backend = check_backend(run, lambda _: answer(code))
    assert status == 1
    assert "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong" in text
    assert ["x-admin-secret" in request.headers for request in backend.requests] == [False, True]

    status, text, backend = check_backend(
        run, lambda request: answer(405 if is_the_secret_right(request) else code)
    )
    assert status == 0
    assert "405 Method Not Allowed to GET /api/mail/scan-internal with ADMIN_SECRET, and" in text


@pytest.mark.parametrize("code", [200, 204, 400, 404, 422, 429, 500, 501])
def test_an_answer_that_does_not_tell_is_shown(run: Run, server: ScriptedImap, code: int) -> None:
    """What a backend may answer although POST works there passes, and one sees what it was."""
    status, text, backend = check_backend(run, lambda _: answer(code))
    assert status == 0
    assert f"backend: reached (it answers {code} " in text
    assert "does not tell whether the scan endpoint is there; no scan was sent)" in text
    assert len(backend.requests) == 1


def test_only_the_scan_endpoint_counts(run: Run, server: ScriptedImap) -> None:
    """The front page may lead anywhere, if the endpoint itself is there."""
    status, text, _ = check_backend(
        run,
        lambda request: answer(405) if request.path == SCAN_ENDPOINT else redirect("https://x/"),
    )
    assert status == 0
    assert "it answers 405 Method Not Allowed to GET /api/mail/scan-internal; no scan" in text


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


# The limits at one host


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


# A terminal


class Terminal:
    """A terminal of whose lines one sees what is left after carriage returns."""

    def __init__(self) -> None:
        self.raw = ""
        self._controller, self.descriptor = os.openpty()
        self._reader = threading.Thread(target=self._read, name="terminal")
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: nobody writes to it any more
            while data := os.read(self._controller, 4096):
                self.raw += data.decode(errors="replace")

    def read_to_end(self) -> None:
        """Wait until nobody writes to it any more."""
        self._reader.join(10)
        os.close(self._controller)

    @property
    def lines(self) -> list[str]:
        return [_overwritten(line) for line in self.raw.split("\n")]


def _overwritten(line: str) -> str:
    shown = ""
    for part in line.split("\r"):
        shown = part + shown[len(part) :]
    return shown.rstrip()


@contextmanager
def started(
    values: dict[str, str], folder: Path, streams: tuple[str, ...]
) -> Iterator[tuple[Terminal, "subprocess.Popen[bytes]"]]:
    """A check with these streams on a terminal, and the others in the file `output`."""
    terminal = Terminal()
    with (folder / "output").open("wb") as output:
        places = dict.fromkeys(("stdout", "stderr"), output.fileno())
        places |= dict.fromkeys(streams, terminal.descriptor)
        process = subprocess.Popen(
            [sys.executable, "-m", "rebreak_idle", "check"],
            cwd=folder,
            env={**BASE_ENVIRONMENT, "HOME": str(folder), **values},
            stdin=subprocess.DEVNULL,
            stdout=places["stdout"],
            stderr=places["stderr"],
        )
    os.close(terminal.descriptor)
    try:
        yield terminal, process
    finally:
        process.kill()
        process.wait(10)
        terminal.read_to_end()


@contextmanager
def third_login_held(server: ScriptedImap) -> Iterator[threading.Event]:
    """The third login waits until it is let go."""
    go, logins = threading.Event(), itertools.count(1)

    def hold(_: Connection) -> None:
        if next(logins) == 3:
            go.wait(60)

    server.on("login", hold)
    try:
        yield go
    finally:
        go.set()


@pytest.mark.parametrize("streams", [("stdout", "stderr"), ("stdout",), ("stderr",), ()])
def test_progress_is_shown_on_a_terminal(
    database: Database,
    server: ScriptedImap,
    backend: RecordingBackend,
    certificates: Certificates,
    tmp_path: Path,
    streams: tuple[str, ...],
) -> None:
    """It is seen while it lasts, leaves nothing behind, and does not touch the log's lines."""
    add_mailboxes(database, 2, server.port, "further-")
    values = environment(database.url, backend.url, certificates, MAIL_CONNECTIONS_QUERY=ANY_LOGIN)
    with (
        third_login_held(server) as go,
        started(values, tmp_path, streams) as (terminal, process),
    ):
        if streams:
            wait_for(lambda: "2 of 3 …" in terminal.raw, 20, "the progress")
            wait_for(lambda: terminal.lines[-1] == "2 of 3 …", 20, "the progress in its place")
        go.set()
        assert process.wait(30) == 0
    file = (tmp_path / "output").read_text(encoding="utf-8")
    seen = [line for line in terminal.lines if line]
    log = seen if "stdout" in streams else file.splitlines()
    assert all(line.startswith("[idle/") for line in (*seen, *log))
    assert len(log) == 8
    assert log[-1].endswith("3 of 3 mailboxes ready, backend reached")
    assert " of 3 …" not in file
    assert "\r" not in file


# Ctrl-C


@contextmanager
def hanging_at(
    step: str, server: ScriptedImap, database: Database, run: Run
) -> Iterator[tuple[Daemon, Callable[[], object]]]:
    """A check that hangs for a minute and more in this step, and whether it is there."""
    hang = Hang()
    with Gate(lambda _: hang) as backend:
        variables = {"BACKEND_URL": backend.url, "MAIL_CONNECTIONS_QUERY": ANY_LOGIN}
        reached: Callable[[], object] = lambda: backend.requests  # noqa: E731
        if step == "database":
            variables["MAIL_CONNECTIONS_QUERY"] = "SELECT pg_sleep(60)"
            running = (
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND state = 'active' AND query = 'SELECT pg_sleep(60)'"
            )
            reached = lambda: database.execute(running)  # noqa: E731
        if step == "mailbox":
            logins: list[Connection] = []
            server.on("login", lambda connection: logins.append(connection), instead=True)
            reached = lambda: logins  # noqa: E731
        with run("check", IMAP_TIMEOUT_SECONDS=60, **variables) as daemon:
            yield daemon, reached


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "tried"), [("database", "0 of 0"), ("mailbox", "0 of 1"), ("backend", "1 of 1")]
)
def test_an_interrupted_check_ends_at_once(
    run: Run, server: ScriptedImap, database: Database, step: str, tried: str, number: int
) -> None:
    """Whatever it waits for, it says how far it came, and has not passed."""
    with hanging_at(step, server, database, run) as (daemon, reached):
        wait_for(reached, 20, step)
        daemon.signal(number)
        assert daemon.wait(5) == 1
    assert daemon.lines[-1] == (
        f"[idle/db] check interrupted — {tried} mailboxes tried, nothing is known of the rest"
    )
    assert daemon.stderr == ""


@pytest.mark.parametrize(("arguments", "status"), [(["check"], 1), ([], 0)])
def test_a_stop_while_the_program_is_loaded(
    tmp_path: Path, arguments: list[str], status: int
) -> None:
    """A preflight that did not come to run has not passed; a daemon has stopped in order."""
    (tmp_path / "dotenv.py").write_text("import os\nos.kill(os.getpid(), 2)\n")
    with Daemon({}, tmp_path, arguments) as daemon:
        assert daemon.wait() == status
    assert daemon.stderr == ""
