"""METRICS_LISTEN: what Prometheus and load balancers are shown, by the program."""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from rebreak_idle.endpoint import THREADS
from tests.conftest import Run
from tests.support.daemon import REPOSITORY, Daemon
from tests.support.documents import code_in, fences_of, table_of
from tests.support.recording_backend import RecordingBackend, answer
from tests.support.rig import environment, stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database, free_port
from tests.support.waiting import wait_for

DASHBOARD = REPOSITORY / "docs" / "grafana.json"
SECONDS = 20.0

Series = dict[tuple[str, tuple[str, ...]], float]


def get(port: int, path: str, host: str = "127.0.0.1") -> requests.Response:
    """What is answered, as soon as anything answers there."""

    def ask() -> list[requests.Response]:
        try:
            return [requests.get(f"http://{host}:{port}{path}", timeout=SECONDS)]
        except requests.ConnectionError:
            return []

    return wait_for(ask, SECONDS, "an answer")[0]


def scrape(port: int) -> Series:
    """Every series, by its name and the values of its labels."""
    page = get(port, "/metrics")
    assert page.status_code == 200
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


@pytest.fixture
def port() -> int:
    return free_port()


def test_what_is_shown(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    port: int,
) -> None:
    """States, scans by result, reactions, what is owed, reconnects, refusals, hosts, the rows."""
    inbox, tls = Mailbox(), certificates.server_context()
    with ScriptedImap(inbox, tls_context=tls, users={"user@example.org": "secret"}) as server:
        for name in ("user", "parked"):
            database.add(
                f"{name}@example.org", imap_port=server.port, password_encrypted=stored("secret")
            )
        database.add("off@example.org", imap_port=1, password_encrypted=stored("secret"))
        with run(METRICS_LISTEN=f"127.0.0.1:{port}", RECONNECT_INITIAL_SECONDS="100") as daemon:
            for text in ("scan-triggered", "reconnecting in 100s", "parked: next try"):
                daemon.wait_line(text)
            backend.script = [answer(500, {})]
            inbox.arrive()
            backend.wait_answered(3)
            found = wait_for(
                lambda: (s := scrape(port))["rebreak_idle_scans_owed", ()] == 0 and s,
                SECONDS,
                "nothing to be owed",
            )
            for state, number in (("IDLING", 1), ("PARKED", 1), ("BACKING_OFF", 1), ("STOPPED", 0)):
                assert found["rebreak_idle_mailboxes", (state,)] == number
            assert found["rebreak_idle_scans_total", ("done",)] == 2
            assert found["rebreak_idle_scans_total", ("refused",)] == 1
            assert found["rebreak_idle_scans_total", ("unavailable",)] == 0
            assert found["rebreak_idle_reaction_seconds_count", ()] == 1
            assert found["rebreak_idle_reaction_seconds_bucket", ("+Inf",)] == 1
            assert found["rebreak_idle_reaction_seconds_bucket", ("0.1",)] == 0  # it was sent twice
            assert found["rebreak_idle_reaction_seconds_sum", ()] > 0.1
            assert found["rebreak_idle_oldest_owed_scan_seconds", ()] == 0
            assert found["rebreak_idle_reconnects_total", ()] == 1
            assert found["rebreak_idle_refused_logins_total", ()] == 1
            assert found["rebreak_idle_hosts_down", ()] == 0
            assert found["rebreak_idle_mailboxes_unwatched", ()] == 0
            assert 0 < found["rebreak_idle_last_refresh_age_seconds", ()] < SECONDS

            backend.default = answer(503, {})
            inbox.arrive()
            wait_for(
                lambda: scrape(port)["rebreak_idle_scans_total", ("unavailable",)],
                SECONDS,
                "a scan that fails",
            )
            assert scrape(port)["rebreak_idle_scans_owed", ()] == 1
            assert scrape(port)["rebreak_idle_oldest_owed_scan_seconds", ()] > 0


def test_openmetrics_where_it_is_asked_for(run: Run, port: int) -> None:
    """As Prometheus itself asks."""
    with run(METRICS_LISTEN=f"127.0.0.1:{port}") as daemon:
        daemon.wait_line("refreshed")
        accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
        page = requests.get(f"http://127.0.0.1:{port}/metrics", headers=accept, timeout=SECONDS)
        assert page.headers["content-type"].startswith("application/openmetrics-text")
        assert page.text.endswith("# EOF\n")
        assert "rebreak_idle_scans_total{" in page.text


def test_no_mailbox_is_named_and_the_series_are_bounded(
    run: Run, database: Database, port: int
) -> None:
    """As many series with forty mailboxes as with none; no address, user or host in them."""
    values = {"METRICS_LISTEN": f"127.0.0.1:{port}", "CHANGE_CHECK_SECONDS": "0.2"}
    with run(**values) as daemon:
        daemon.wait_line("refreshed — 0")
        before = scrape(port)
        for number in range(40):
            database.add(f"canary{number}@example.org", imap_host=f"host{number}.invalid")
        daemon.wait_line("refreshed — 40")
        wait_for(
            lambda: scrape(port)["rebreak_idle_mailboxes", ("PARKED",)] == 40,
            SECONDS,
            "all to be parked",
        )
        assert scrape(port).keys() == before.keys()
        text = get(port, "/metrics").text
        assert not re.search("canary|invalid|@", text)


def test_every_metric_of_dashboard_and_documents_is_there(run: Run, port: int) -> None:
    """docs/grafana.json asks for series that a real scrape has, and for every metric; so does the
    table of operations.md, with the rules for alarms.
    """
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"rebreak_idle_\w+", target["expr"])
    }
    with run(METRICS_LISTEN=f"127.0.0.1:{port}") as daemon:
        daemon.wait_line("refreshed")
        there = {name for name, _ in scrape(port)}
    assert asked == there
    cells = table_of("docs/operations.md", "metric").column(0)
    ends = r"_(bucket|sum|count)$"
    assert {code_in(cell)[0] for cell in cells} == {re.sub(ends, "", name) for name in there}
    (rules,) = fences_of("docs/operations.md", "yaml")
    named = set(re.findall(r"rebreak_idle_\w+", rules.text))
    assert named
    assert named <= there


def test_healthz_before_and_after_the_rows_are_read(
    run: Run, database: Database, port: int
) -> None:
    """503 with the reason until they are read, and again when they are three intervals old."""
    database.execute("ALTER TABLE mail_connections RENAME TO hidden")
    values = {"METRICS_LISTEN": f"127.0.0.1:{port}", "REFRESH_INTERVAL_SECONDS": "0.5"}
    with run(**values):
        page = get(port, "/healthz")
        assert (page.status_code, page.text) == (503, "the rows have not been read yet\n")
        database.execute("ALTER TABLE hidden RENAME TO mail_connections")
        wait_for(lambda: get(port, "/healthz").text == "ok\n", SECONDS, "it to be well")
        database.execute("ALTER TABLE mail_connections RENAME TO hidden")
        wait_for(lambda: get(port, "/healthz").status_code == 503, SECONDS, "it to be unwell")
        assert get(port, "/healthz").text.startswith("the rows were last read ")
        head = requests.head(f"http://127.0.0.1:{port}/healthz", timeout=SECONDS)
        assert (head.status_code, head.content) == (503, b"")
        assert get(port, "/else").status_code == 404


def test_an_asker_that_is_slow_holds_up_nobody(run: Run, port: int) -> None:
    """Connections that say nothing do not keep a scrape waiting, nor the stop."""
    with run(METRICS_LISTEN=f"127.0.0.1:{port}") as daemon:
        daemon.wait_line("refreshed")
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        assert scrape(port)
        assert daemon.stop() == 0
        for each in silent:
            each.close()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_askers_that_say_a_byte_now_and_then_hold_up_nobody(run: Run, port: int) -> None:
    """As many as there are threads: the whole request is bounded, not each byte of it."""
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as slow:
            while not over.wait(0.1):
                slow.sendall(b"G")

    askers = [threading.Thread(target=drip) for _ in range(THREADS)]
    with run(METRICS_LISTEN=f"127.0.0.1:{port}"):
        get(port, "/healthz")
        for asker in askers:
            asker.start()
        try:
            assert get(port, "/healthz").status_code in (200, 503)
        finally:
            over.set()
            for asker in askers:
                asker.join()


def test_ipv6_in_brackets(run: Run, port: int) -> None:
    """It listens there, and there alone."""
    with run(METRICS_LISTEN=f"[::1]:{port}") as daemon:
        daemon.wait_line("refreshed")
        wait_for(lambda: get(port, "/healthz", "[::1]").text == "ok\n", SECONDS, "it to be well")


def test_a_port_that_is_taken_ends_with_78(run: Run) -> None:
    """One sentence says so, and nothing was begun."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with run(METRICS_LISTEN=address) as daemon:
            assert daemon.wait() == 78
            assert daemon.stderr.splitlines() == [
                f"[idle/db] METRICS_LISTEN cannot be used, {address}: another program listens "
                "there already: give a free port"
            ]
            assert not daemon.lines


@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.1:9464", "no such address"), ("no-such-name.invalid:9464", "cannot be used")],
)
def test_an_address_that_cannot_be_used_ends_with_78(run: Run, address: str, why: str) -> None:
    """Likewise, whatever the reason."""
    with run(METRICS_LISTEN=address) as daemon:
        assert daemon.wait() == 78
        (line,) = daemon.stderr.splitlines()
        assert line.startswith(f"[idle/db] METRICS_LISTEN cannot be used, {address}: ")
        assert why in line


WITHOUT = (
    "import sys; sys.modules['prometheus_client'] = None;"
    "from rebreak_idle.__main__ import main; sys.exit(main([]))"
)


@pytest.fixture
def without_package(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> Callable[..., Daemon]:
    """The program where prometheus-client is not installed."""

    def make(**variables: object) -> Daemon:
        values = environment(database.url, backend.url, certificates, **variables)
        return Daemon(values, tmp_path, command=("-c", WITHOUT))

    return make


def test_without_the_package_it_ends_with_78(
    without_package: Callable[..., Daemon], port: int
) -> None:
    """With the command that installs it, beside all other problems."""
    with without_package(METRICS_LISTEN=f"127.0.0.1:{port}", LOG_LEVEL="loud") as daemon:
        assert daemon.wait() == 78
        assert daemon.stderr.splitlines() == [
            "[idle/db] LOG_LEVEL is 'loud': give one of debug, info, warning, error",
            "[idle/db] METRICS_LISTEN needs the package prometheus-client: "
            "pip install 'rebreak-idle[metrics]', in this folder pip install -e '.[metrics]'",
        ]


def test_without_the_package_and_the_variable_it_runs(
    without_package: Callable[..., Daemon],
) -> None:
    """Who has no Prometheus needs nothing of it."""
    with without_package() as daemon:
        daemon.wait_line("refreshed")
        assert daemon.stop() == 0
