"""A thousand mails on real servers, in the midst of all that ends sessions: none stays unscanned.

Dovecot and pymap announce the mail; the daemon renews its IDLE every second, is kicked out, loses
Dovecot twice and the backend twice. As the real backend does, a scan here looks into the mailbox
when its request comes; no mail is ever removed, so the n-th mail of a mailbox is covered by the
first successful scan that found n of them.
"""

import contextlib
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Run, require
from daemon import Daemon
from imapclient import IMAPClient
from recording_backend import Behaviour, RecordingBackend, Request, answer
from rig import stored
from servers import Certificates, Database, Dovecot, Pymap, message

MAILS = 1000
ROUNDS = 10
DELIVERING_THREADS = 4
DOVECOT_BOXES = 6
PYMAP_BOXES = 3
SEED = 20240229

# A mail every 20 ms on average from each of the threads: a round's deliveries take half a second.
PACE_SECONDS = 0.04
KICK_EVERY_SECONDS = 0.15
OUTAGE_SECONDS = 1.5
LONGEST_SCAN_SECONDS = 0.2
# After a round nothing is delivered until all of it is scanned, so that no later mail can help:
# one renewal, one reconnect, and a scan's back-off after an outage (1, 2, 4 s), with room.
COVERED_WITHIN_SECONDS = 20.0


class Box:
    """One watched mailbox and how much of it has been scanned."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.covered = 0
        self._lock = threading.Lock()

    def deliver(self, rng: random.Random) -> None:
        """Add one mail; it is in the mailbox when this returns."""
        raise NotImplementedError

    def count(self) -> int:
        """How many mails the mailbox holds at this moment. Any thread may call."""
        raise NotImplementedError

    def scanned(self, found: int) -> None:
        """A successful scan found so many mails."""
        with self._lock:
            self.covered = max(self.covered, found)

    @property
    def is_covered(self) -> bool:
        return self.covered >= self.count()


class DovecotBox(Box):
    """Delivered into as mail servers do: a file put into the maildir, also while Dovecot is down;
    now and then by `doveadm save`, through Dovecot."""

    def __init__(self, dovecot: Dovecot, user: str) -> None:
        super().__init__(user)
        self._dovecot = dovecot
        self._maildir = dovecot.folder / "mail" / user / "Maildir"
        self._delivered = 0

    def deliver(self, rng: random.Random) -> None:
        if rng.random() < 0.1:
            with contextlib.suppress(RuntimeError):  # Dovecot is down
                self._dovecot.deliver(self.user)
                return
        self._delivered += 1
        name = f"{time.time_ns()}.{self._delivered}.test"
        new = self._maildir / "tmp" / name
        new.write_bytes(message(self.user, "Hello", "sender@example.org", "Hello.").as_bytes())
        owner = self._maildir.stat()
        shutil.chown(new, owner.st_uid, owner.st_gid)
        new.rename(self._maildir / "new" / name)

    def count(self) -> int:
        folders = (self._maildir / "new", self._maildir / "cur")  # mail only goes from new to cur
        return len({path.name.partition(":")[0] for each in folders for path in each.iterdir()})


class PymapBox(Box):
    """Delivered into by APPEND, over a connection that is kept."""

    def __init__(self, client: IMAPClient, user: str) -> None:
        super().__init__(user)
        self._client = client
        self._in_use = threading.Lock()

    def deliver(self, rng: random.Random) -> None:
        mail = message(self.user, "Hello", "sender@example.org", "Hello.").as_bytes()
        with self._in_use:
            self._client.append("INBOX", mail)

    def count(self) -> int:
        with self._in_use:
            return int(self._client.folder_status("INBOX", ["MESSAGES"])[b"MESSAGES"])


class Troubles:
    """What happens to Dovecot and to the backend while mail is delivered."""

    def __init__(self, dovecot: Dovecot, backend: RecordingBackend, users: list[str]) -> None:
        self._dovecot = dovecot
        self._backend = backend
        self._users = users
        self._over = threading.Event()
        self.failing = False

    def of_round(self, number: int) -> Callable[[], object]:
        """What befalls this round beside the kicks."""
        others = {2: self._restart, 4: self._backend_down, 6: self._restart, 8: self._backend_fails}
        return others.get(number, lambda: None)

    @contextlib.contextmanager
    def kicks(self, rng: random.Random) -> Iterator[None]:
        """Throw users out at random moments for the length of a `with` block."""
        self._over.clear()
        with ThreadPoolExecutor(1) as pool:
            kicking = pool.submit(self._kick, rng)
            try:
                yield
            finally:
                self._over.set()
            kicking.result()

    def _kick(self, rng: random.Random) -> None:
        while not self._over.wait(rng.random() * 2 * KICK_EVERY_SECONDS):
            with contextlib.suppress(RuntimeError):  # nobody is there, or Dovecot is down
                user = rng.choice(self._users)
                pids = self._session_pids(user)
                self._dovecot.kick(user)
                end(pids)

    def _restart(self) -> None:
        pids = self._session_pids()
        with self._dovecot.down():
            end(pids)

    def _session_pids(self, *users: str) -> list[int]:
        who = self._dovecot.doveadm("-f", "tab", "who", "-1", *users).splitlines()
        pid = who[0].split("\t").index("pid")
        return [int(line.split("\t")[pid]) for line in who[1:]]

    def _backend_down(self) -> None:
        with self._backend.down():
            threading.Event().wait(OUTAGE_SECONDS)

    def _backend_fails(self) -> None:
        self.failing = True
        threading.Event().wait(OUTAGE_SECONDS)
        self.failing = False


def end(pids: list[int]) -> None:
    """End Dovecot's sessions for certain: asked by a kick, or by Dovecot's own end, they wait
    until their client has been quiet for ten seconds, which one that renews never is."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def restartable(certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot of the test's own, to be restarted."""
    require("dovecot")
    with Dovecot(certificates.server) as server:
        yield server


@pytest.fixture
def boxes(
    restartable: Dovecot, certificates: Certificates, database: Database
) -> Iterator[dict[str, Box]]:
    """The watched mailboxes by the ids of their rows."""
    password = "secret"
    on_dovecot = {f"dovecot{n}@example.org": password for n in range(DOVECOT_BOXES)}
    on_pymap = {f"pymap{n}@example.org": password for n in range(PYMAP_BOXES)}
    restartable.add_users(on_dovecot)
    found: dict[str, Box] = {}

    def add(box: Box, port: int) -> None:
        sealed = stored(password)
        found[database.add(box.user, imap_port=port, password_encrypted=sealed)] = box

    with contextlib.ExitStack() as parts:
        pymap = parts.enter_context(Pymap(certificates, on_pymap))
        for user in on_dovecot:
            add(DovecotBox(restartable, user), restartable.imaps_port)
        for user in on_pymap:
            context = certificates.client_context()
            client = IMAPClient("localhost", pymap.port, ssl_context=context, timeout=10)
            parts.enter_context(client)
            client.login(user, password)
            add(PymapBox(client, user), pymap.port)
        yield found


def scanning(boxes: dict[str, Box], troubles: Troubles, rng: random.Random) -> object:
    """The backend's script: a scan looks into the mailbox, takes its time, and says so."""

    def script(request: Request) -> Behaviour:
        if troubles.failing:
            return answer(503, {"error": "not now"})
        return lambda handler: scan(boxes[request.connection_id or ""], handler)

    def scan(box: Box, handler: object) -> None:
        found = box.count()
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
    number = MAILS // ROUNDS // DELIVERING_THREADS
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
            missed = {b.user: b.count() - b.covered for b in boxes if not b.is_covered}
            raise AssertionError(f"not scanned: {missed}\n" + "\n".join(daemon.lines[-200:]))
        pace.wait(0.02)


def test_a_thousand_mails_on_real_servers(
    run: Run, boxes: dict[str, Box], backend: RecordingBackend, restartable: Dovecot
) -> None:
    """Whatever ends the sessions and the requests, each mail is followed by a successful scan."""
    rng = random.Random(SEED)
    watched = list(boxes.values())
    kicked = [box.user for box in watched if isinstance(box, DovecotBox)]
    troubles = Troubles(restartable, backend, kicked)
    backend.script = scanning(boxes, troubles, rng)
    with run(IDLE_RENEW_SECONDS=1, RECONNECT_MAX_SECONDS=1) as daemon:
        for box in watched:
            daemon.wait_line(f"[idle/{box.user}] scan-triggered")
        for number in range(ROUNDS):
            with troubles.kicks(rng):
                deliver_round(watched, rng, troubles.of_round(number))
            wait_covered(watched, daemon)
        assert daemon.stop() == 0
        assert daemon.stderr == ""
    assert sum(box.count() for box in watched) >= MAILS
    assert max(backend.concurrent_max_by_connection.values()) == 1
    for happened in ("idle renewing (1s threshold)", "exists-event received", "reconnecting in"):
        assert happened in daemon.text
