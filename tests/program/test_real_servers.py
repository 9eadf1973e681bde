"""Hundreds of mails on real servers, in the midst of all that ends sessions: none stays unscanned.

Dovecot and pymap, Cyrus and Courier announce the mail, each in its own way or only when asked; the
daemon renews its IDLE every second, is kicked out, loses the servers twice and the backend twice;
at Cyrus and Courier another client removes mail. As the real backend does, a scan here looks into
the mailbox when its request comes; the n-th mail that ever came is covered by the first successful
scan that found that n had come.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError

from tests.conftest import Run, programs_required, require
from tests.support.chrooted import ChrootedServer, Courier, Cyrus
from tests.support.daemon import Daemon
from tests.support.recording_backend import Behaviour, RecordingBackend, Request, answer
from tests.support.rig import stored
from tests.support.servers import (
    Certificates,
    Database,
    Dovecot,
    Pymap,
    deliver_to_maildir,
    message,
)
from tests.support.waiting import wait_for

MAILS_A_ROUND = 100
DELIVERING_THREADS = 4
DOVECOT_BOXES = 6
PYMAP_BOXES = 3
BOXES_AT_EACH = 3
PASSWORD = "secret"
SEED = 20240229

# A mail every 20 ms on average from each of the threads: a round's deliveries take half a second.
PACE_SECONDS = 0.04
DISTURB_EVERY_SECONDS = 0.15
OUTAGE_SECONDS = 1.5
DELIVERED_WITHIN_SECONDS = 30.0
LONGEST_SCAN_SECONDS = 0.2
# After a round nothing is delivered until all of it is scanned, so that no later mail can help:
# one renewal, one reconnect, a scan's back-off after an outage (1, 2, 4 s), with room. A session
# that is killed may leave its server deaf for that mailbox, whatever the daemon does: Courier with
# gamin did not answer an EXAMINE after one of ninety restarts, and Dovecot answers none for two
# minutes where an empty dovecot-uidlist.lock was left (122.7 s measured with Dovecot 2.3).
IMAP_TIMEOUT_SECONDS = 10
COVERED_WITHIN_SECONDS = 20.0 + 122.7 + 2 * IMAP_TIMEOUT_SECONDS
# All rounds take half a minute; one with such a lock takes two minutes more.
TEST_TIMEOUT_SECONDS = 600

# What a client or a delivery meets whose server is down or cuts it off.
CUT_OFF = (OSError, IMAPClientError)


class Box:
    """One watched mailbox and how much of it has been scanned."""

    def __init__(self, user: str, port: int) -> None:
        self.user = user
        self.port = port
        self.covered = 0
        self._lock = threading.Lock()

    def deliver(self, rng: random.Random) -> None:
        """Add one mail; it is in the mailbox when this returns."""
        raise NotImplementedError

    def arrived(self) -> int:
        """How many mails have come up to this moment. Any thread may call."""
        raise NotImplementedError

    def disturb(self, rng: random.Random) -> None:
        """Do something to its sessions or its mail that other people might."""

    def scanned(self, found: int) -> None:
        """A successful scan found that so many mails had come."""
        with self._lock:
            self.covered = max(self.covered, found)

    @property
    def is_covered(self) -> bool:
        return self.covered >= self.arrived()


class DovecotBox(Box):
    """Delivered into as mail servers do: a file put into the maildir, also while Dovecot is down;
    now and then by `doveadm save`, through Dovecot. No mail is ever removed."""

    def __init__(self, dovecot: Dovecot, user: str) -> None:
        super().__init__(user, dovecot.imaps_port)
        self._dovecot = dovecot
        self._maildir = dovecot.folder / "mail" / user / "Maildir"

    def deliver(self, rng: random.Random) -> None:
        if rng.random() < 0.1:
            with contextlib.suppress(RuntimeError):  # Dovecot is down
                self._dovecot.deliver(self.user)
                return
        deliver_to_maildir(self._maildir, a_mail(self.user))

    def arrived(self) -> int:
        folders = (self._maildir / "new", self._maildir / "cur")  # mail only goes from new to cur
        return len({path.name.partition(":")[0] for each in folders for path in each.iterdir()})

    def disturb(self, rng: random.Random) -> None:
        with contextlib.suppress(RuntimeError):  # nobody is there, or Dovecot is down
            pids = self._dovecot.session_pids(self.user)
            self._dovecot.kick(self.user)
            end(pids)


class PymapBox(Box):
    """Delivered into by APPEND, over a connection that is kept. No mail is ever removed."""

    def __init__(self, pymap: Pymap, client: IMAPClient, user: str) -> None:
        super().__init__(user, pymap.port)
        self._client = client
        self._in_use = threading.Lock()

    def deliver(self, rng: random.Random) -> None:
        with self._in_use:
            self._client.append("INBOX", a_mail(self.user))

    def arrived(self) -> int:
        with self._in_use:
            return int(self._client.folder_status("INBOX", ["MESSAGES"])[b"MESSAGES"])


class ChrootedBox(Box):
    """At Cyrus or Courier: its sessions are killed, and another client removes its mail."""

    def __init__(self, server: ChrootedServer, user: str) -> None:
        super().__init__(user, server.imaps_port)
        self._server = server

    def disturb(self, rng: random.Random) -> None:
        rng.choice((self._kick, self._remove_mail))()

    def _kick(self) -> None:
        self._server.kick(self.user)

    def _remove_mail(self) -> None:
        with contextlib.suppress(*CUT_OFF), self._server.client(self.user) as client:
            client.select_folder("INBOX")
            found = client.search()
            client.delete_messages(found[: len(found) // 2 + 1])
            client.expunge()


class CyrusBox(ChrootedBox):
    """Delivered into by LMTP: as a mail server does, again and again until Cyrus takes it."""

    def __init__(self, cyrus: Cyrus, user: str) -> None:
        super().__init__(cyrus, user)
        self._in_use = threading.Lock()
        self._client: IMAPClient | None = None
        self._resources = contextlib.ExitStack()

    def deliver(self, rng: random.Random) -> None:
        wait_for(self._is_delivered, DELIVERED_WITHIN_SECONDS, "Cyrus to take a mail")

    def _is_delivered(self) -> bool:
        with contextlib.suppress(OSError):
            self._server.deliver(self.user)
            return True
        return False

    def arrived(self) -> int:
        """By UIDNEXT, which grows by one with each mail; over a connection that is kept."""
        with self._in_use:
            try:
                return self._uidnext() - 1
            except CUT_OFF:
                self.close()
                return self._uidnext() - 1

    def _uidnext(self) -> int:
        if self._client is None:
            self._client = self._resources.enter_context(self._server.client(self.user))
        return int(self._client.folder_status("INBOX", ["UIDNEXT"])[b"UIDNEXT"])

    def close(self) -> None:
        self._client = None
        self._resources.close()

    @property
    def is_covered(self) -> bool:
        with contextlib.suppress(*CUT_OFF):
            return super().is_covered
        return False


class CourierBox(ChrootedBox):
    """Delivered into as mail servers do, by a file put into the maildir."""

    def __init__(self, courier: Courier, user: str) -> None:
        super().__init__(courier, user)
        self._maildir = courier.maildir(user)
        self._delivered = 0
        self._delivering = threading.Lock()

    def deliver(self, rng: random.Random) -> None:
        mail = a_mail(self.user)
        with self._delivering:
            deliver_to_maildir(self._maildir, mail)
            self._delivered += 1

    def arrived(self) -> int:
        with self._delivering:
            return self._delivered


def a_mail(user: str) -> bytes:
    return message(user, "Hello", "sender@example.org", "Hello.").as_bytes()


def end(pids: list[int]) -> None:
    """End Dovecot's sessions for certain: asked by a kick, or by Dovecot's own end, they wait
    until their client has been quiet for ten seconds, which one that renews never is."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass
class Site:
    """The watched mailboxes, and the servers that are restarted."""

    rounds: int
    servers: list[Dovecot | Cyrus | Courier] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)


class Troubles:
    """What happens to the servers and to the backend while mail is delivered."""

    def __init__(self, site: Site, backend: RecordingBackend) -> None:
        self._site = site
        self._backend = backend
        self._over = threading.Event()
        self.failing = False

    def of_round(self, number: int) -> Callable[[], object]:
        """What befalls this round beside the disturbances."""
        others = {1: self._restart, 2: self._backend_down, 3: self._restart, 4: self._backend_fails}
        return others.get(number, lambda: None)

    @contextlib.contextmanager
    def disturbances(self, rng: random.Random) -> Iterator[None]:
        """Disturb mailboxes at random moments for the length of a `with` block."""
        self._over.clear()
        with ThreadPoolExecutor(1) as pool:
            disturbing = pool.submit(self._disturb, rng)
            try:
                yield
            finally:
                self._over.set()
            disturbing.result()

    def _disturb(self, rng: random.Random) -> None:
        while not self._over.wait(rng.random() * 2 * DISTURB_EVERY_SECONDS):
            rng.choice(self._site.boxes).disturb(rng)

    def _restart(self) -> None:
        for server in self._site.servers:
            pids = server.session_pids()
            with server.down():
                end(pids)

    def _backend_down(self) -> None:
        with self._backend.down():
            threading.Event().wait(OUTAGE_SECONDS)

    def _backend_fails(self) -> None:
        self.failing = True
        threading.Event().wait(OUTAGE_SECONDS)
        self.failing = False


@contextlib.contextmanager
def dovecot_and_pymap(certificates: Certificates) -> Iterator[Site]:
    """Six mailboxes at Dovecot, three at pymap."""
    require("dovecot")
    on_dovecot = users("dovecot", DOVECOT_BOXES)
    on_pymap = users("pymap", PYMAP_BOXES)
    site = Site(rounds=10)
    with contextlib.ExitStack() as parts:
        dovecot = parts.enter_context(Dovecot(certificates.server))
        dovecot.add_users(on_dovecot)
        site.servers.append(dovecot)
        site.boxes += [DovecotBox(dovecot, user) for user in on_dovecot]
        pymap = parts.enter_context(Pymap(certificates, on_pymap))
        for user in on_pymap:
            context = certificates.client_context()
            client = IMAPClient("localhost", pymap.port, ssl_context=context, timeout=10)
            parts.enter_context(client)
            client.login(user, PASSWORD)
            site.boxes.append(PymapBox(pymap, client, user))
        yield site


@contextlib.contextmanager
def cyrus(certificates: Certificates) -> Iterator[Site]:
    """One with idled, and one that tells of mail once a minute, or when it is asked."""
    site = Site(rounds=5)
    with contextlib.ExitStack() as parts:
        for idled in (True, False):
            with programs_required():
                server = parts.enter_context(Cyrus(certificates, idled))
            on_it = users("idled" if idled else "no-idled", BOXES_AT_EACH)
            server.add_users(on_it)
            site.servers.append(server)
            for user in on_it:
                box = CyrusBox(server, user)
                parts.callback(box.close)
                site.boxes.append(box)
        yield site


@contextlib.contextmanager
def courier(certificates: Certificates) -> Iterator[Site]:
    """One with gamin, one that wants gamin and has none, and one that does without."""
    site = Site(rounds=5)
    with contextlib.ExitStack() as parts:
        for name, enhanced_idle, gamin in (
            ("gamin", True, True),
            ("no-gamin", True, False),
            ("plain", False, False),
        ):
            with programs_required():
                server = parts.enter_context(Courier(certificates, enhanced_idle, gamin))
            on_it = users(name, BOXES_AT_EACH)
            server.add_users(on_it)
            site.servers.append(server)
            site.boxes += [CourierBox(server, user) for user in on_it]
        yield site


def users(name: str, number: int) -> dict[str, str]:
    return {f"{name}{n}@example.org": PASSWORD for n in range(number)}


@pytest.fixture(params=[dovecot_and_pymap, cyrus, courier], ids=lambda site: site.__name__)
def site(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Site]:
    with request.param(certificates) as servers:
        yield servers


def scanning(boxes: dict[str, Box], troubles: Troubles, rng: random.Random) -> object:
    """The backend's script: a scan looks into the mailbox, takes its time, and says so."""

    def script(request: Request) -> Behaviour:
        if troubles.failing:
            return answer(503, {"error": "not now"})
        return lambda handler: scan(boxes[request.connection_id or ""], handler)

    def scan(box: Box, handler: object) -> None:
        try:
            found = box.arrived()
        except CUT_OFF:
            answer(500, {"error": "the mail server is away"})(handler)
            return
        handler.server.backend.closing.wait(rng.random() * LONGEST_SCAN_SECONDS)
        answer(200, {"scanned": found, "blocked": 0})(handler)
        box.scanned(found)

    return script


def deliver(box_of_turn: list[Box], rng: random.Random) -> None:
    """Deliver a mail for each entry, at random moments."""
    pace = threading.Event()
    for box in box_of_turn:
        box.deliver(rng)
        pace.wait(rng.random() * PACE_SECONDS)


def deliver_round(boxes: list[Box], rng: random.Random, trouble: Callable[[], object]) -> None:
    """Deliver a round's mails from several threads, each box from one, during the trouble."""
    shares = [boxes[start::DELIVERING_THREADS] for start in range(DELIVERING_THREADS)]
    number = MAILS_A_ROUND // DELIVERING_THREADS
    with ThreadPoolExecutor(DELIVERING_THREADS + 1) as pool:
        work = [pool.submit(trouble)]
        for share in shares:
            own = random.Random(rng.random())
            work.append(pool.submit(deliver, own.choices(share, k=number), own))
    for each in work:
        each.result()


def wait_covered(boxes: list[Box], daemon: Daemon) -> None:
    """Wait until everything that was delivered has been scanned."""
    pace = threading.Event()
    deadline = time.monotonic() + COVERED_WITHIN_SECONDS
    while not all(box.is_covered for box in boxes):
        if time.monotonic() > deadline:
            missed = {b.user: b.arrived() - b.covered for b in boxes if not b.is_covered}
            raise AssertionError(f"not scanned: {missed}\n" + "\n".join(daemon.lines[-200:]))
        pace.wait(0.02)


@pytest.mark.timeout(TEST_TIMEOUT_SECONDS)
def test_hundreds_of_mails_on_real_servers(
    run: Run, site: Site, database: Database, backend: RecordingBackend
) -> None:
    """Whatever ends the sessions and the requests, each mail is followed by a successful scan."""
    rng = random.Random(SEED)
    troubles = Troubles(site, backend)
    backend.script = scanning({add(database, box): box for box in site.boxes}, troubles, rng)
    settings = {
        "IDLE_RENEW_SECONDS": 1,
        "RECONNECT_MAX_SECONDS": 1,
        "IMAP_TIMEOUT_SECONDS": IMAP_TIMEOUT_SECONDS,
    }
    with run(**settings) as daemon:
        for box in site.boxes:
            daemon.wait_line(f"[idle/{box.user}] scan-triggered")
        for number in range(site.rounds):
            with troubles.disturbances(rng):
                deliver_round(site.boxes, rng, troubles.of_round(number))
            wait_covered(site.boxes, daemon)
        assert daemon.stop() == 0
        assert daemon.stderr == ""
    assert sum(box.arrived() for box in site.boxes) >= site.rounds * MAILS_A_ROUND
    assert max(backend.concurrent_max_by_connection.values()) == 1
    for happened in ("idle renewing (1s threshold)", "exists-event received", "reconnecting in"):
        assert happened in daemon.text


def add(database: Database, box: Box) -> str:
    """Add the row of the mailbox; its id."""
    return database.add(box.user, imap_port=box.port, password_encrypted=stored(PASSWORD))
