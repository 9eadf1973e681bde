"""What a hostile server costs: memory and CPU, and the bounds that SECURITY.md names."""

import re
import signal
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.program.hostile.conftest import EVIL, WELL, add, deliver, drop, scripted, wait_reconnects
from tests.support.daemon import REPOSITORY, Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.scripted_imap import Action, Connection, ScriptedImap
from tests.support.servers import Certificates, Database

LINE = b"x" * 4096

# What one hostile session may add to the peak, and what ten honest sessions that are dropped and
# made anew add besides: some 150 KiB were measured (first use of code paths, allocator, arenas).
SESSION_BYTES = 2 * 1024 * 1024
NOISE_BYTES = 256 * 1024

LINE_BOUND = "longer than 196608 bytes"
ANSWER_BOUND = "more than 262144 bytes in one answer"
RECEIVED_BOUND = "more than 4194304 bytes in one answer"
LITERAL_BOUND = "a literal of 2147483647 bytes"
# In IDLE a server that says much is read slowly, and stays.
SLOWLY = ""


# Memory


@dataclass(frozen=True)
class Hostility:
    """What a server does at a step, and the words by which the log names it."""

    name: str
    step: str
    action: Action
    bound: str
    renew_seconds: float = 1500.0

    def plant(self, server: ScriptedImap) -> None:
        """Do it from the next connection on, instead of the honest answer but for IDLE's `+`."""
        if self.step == "capability":
            server.capability_code_in = ()
        if self.step == "idle":
            server.after("idle", self.action)
        else:
            server.on(self.step, self.action, instead=True)


def flood(data: bytes, first: bytes = b"") -> Action:
    """Something first, and then `data` for as long as it is taken."""

    def act(connection: Connection) -> None:
        connection.send(first)
        connection.flood(data)

    return act


EXISTS, NESTED = b"* 5 EXISTS\r\n", b"(" * 60000
ENDLESS, LITERAL = flood(LINE), b"{2147483647}\r\n"
HOSTILITIES = [
    Hostility("huge-greeting", "greeting", flood(LINE, b"* OK "), LINE_BOUND),
    Hostility("greetings-without-end", "greeting", flood(b"\r\n"), ""),
    Hostility("huge-capability", "capability", flood(LINE, b"* CAPABILITY IMAP4rev1 "), LINE_BOUND),
    Hostility("capabilities-without-end", "capability", flood(b"* CAPABILITY X\r\n"), ANSWER_BOUND),
    Hostility("line-without-end-at-login", "login", ENDLESS, LINE_BOUND),
    Hostility("line-without-end-at-examine", "examine", ENDLESS, LINE_BOUND),
    Hostility("line-without-end-in-idle", "idle", ENDLESS, LINE_BOUND),
    Hostility("line-without-end-at-done", "done", ENDLESS, LINE_BOUND, 0.3),
    Hostility("literal-at-examine", "examine", flood(LINE, b"* LIST () " + LITERAL), LITERAL_BOUND),
    Hostility("literal-in-idle", "idle", flood(LINE, b"* 1 FETCH (BODY " + LITERAL), LINE_BOUND),
    Hostility("literals-at-login", "login", flood(b"* X {200000}\r\n" + LINE * 50), ANSWER_BOUND),
    Hostility("untagged-at-login", "login", flood(EXISTS), RECEIVED_BOUND),
    Hostility("untagged-at-examine", "examine", flood(EXISTS), RECEIVED_BOUND),
    Hostility("untagged-before-idle", "idle-before", flood(b"* OK wait\r\n"), RECEIVED_BOUND),
    Hostility("exists-before-idle", "idle-before", flood(EXISTS), RECEIVED_BOUND),
    Hostility("untagged-at-done", "done", flood(EXISTS), RECEIVED_BOUND, 0.3),
    Hostility(
        "unreadable-at-done", "done", flood(EXISTS + b"%" * 999 + b"\r\n"), ANSWER_BOUND, 0.3
    ),
    Hostility(
        "pairs-at-done", "done", flood(b"* 6 EXISTS\r\n* 1 EXPUNGE\r\n"), RECEIVED_BOUND, 0.3
    ),
    Hostility("refusals-at-login", "login", flood(b"* NO [X] wait\r\n"), ANSWER_BOUND),
    Hostility("untagged-in-idle", "idle", flood(EXISTS), SLOWLY),
    Hostility("unreadable-in-idle", "idle", flood(b"%\r\n"), SLOWLY),
    Hostility("parentheses-at-examine", "examine", flood(LINE, b"* FLAGS " + NESTED), LINE_BOUND),
    Hostility("parentheses-in-idle", "idle", flood(b"* 1 FETCH " + NESTED + b"\r\n"), SLOWLY),
    Hostility("fetches-at-examine", "examine", flood(b"* 1 FETCH (UID 1)\r\n"), RECEIVED_BOUND),
    Hostility("expunges-at-done", "done", flood(b"* 1 EXPUNGE\r\n"), RECEIVED_BOUND, 0.3),
]


def peak_bytes(daemon: Daemon) -> int:
    """The most memory that the daemon ever held, or since `forget_peak`."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def forget_peak(daemon: Daemon) -> None:
    """Let the peak begin at what the daemon holds now (proc(5), clear_refs)."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("hostility", HOSTILITIES, ids=lambda hostility: hostility.name)
def test_memory_of_a_hostile_session_is_bounded(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    evil: ScriptedImap,
    well: ScriptedImap,
    hostility: Hostility,
) -> None:
    """The peak grows by less than 2 MiB, the log names the bound, and the others are scanned."""
    add(database, evil, EVIL)
    id_ = add(database, well, WELL)
    with run(RECONNECT_MAX_SECONDS="0.2", IDLE_RENEW_SECONDS=hostility.renew_seconds) as daemon:
        backend.wait_answered(2)
        evil.wait_for_idling()
        well.wait_for_idling()
        forget_peak(daemon)
        before, mark = peak_bytes(daemon), daemon.mark()
        if hostility.step == "idle-before":
            evil.on("idle", hostility.action, instead=True)
        else:
            hostility.plant(evil)
        drop(evil)
        deliver(well, WELL, backend, id_)
        if hostility.bound == SLOWLY and hostility.step == "idle":
            evil.wait_for_connections(2)
            hostile = evil.connections[-1]
            evil.wait_until(lambda: hostile.sent_bytes > 1 << 20 or not hostile.open, 20)
            assert hostile.open
        else:
            wait_reconnects(daemon, EVIL, 4, mark)  # the drop, and three hostile sessions
        deliver(well, WELL, backend, id_)
        grown = peak_bytes(daemon) - before
        assert hostility.bound in "\n".join(line for line in daemon.lines[mark:] if EVIL in line)
        assert "unexpected error" not in daemon.text
    print(f"{hostility.name}: {grown // 1024} KiB")
    assert grown < SESSION_BYTES + NOISE_BYTES


def test_memory_of_honest_sessions_that_are_dropped(
    run: Run, database: Database, backend: RecordingBackend, evil: ScriptedImap
) -> None:
    """The yardstick of the bound above: what ten honest sessions add is the allowance for noise."""
    add(database, evil, EVIL)
    with run(RECONNECT_MAX_SECONDS="0.2") as daemon:
        backend.wait_answered(1)
        evil.wait_for_idling()
        forget_peak(daemon)
        before, mark = peak_bytes(daemon), daemon.mark()
        for number in range(1, 11):
            drop(evil)
            wait_reconnects(daemon, EVIL, number, mark)
            evil.wait_for_idling()
        grown = peak_bytes(daemon) - before
    print(f"honest: {grown // 1024} KiB")
    assert grown < NOISE_BYTES


# CPU


FLOODS: dict[str, Action] = {
    "exists": flood(EXISTS),
    "expunge": flood(b"* 1 EXPUNGE\r\n"),
    "expunge and exists": flood(b"* 1 EXPUNGE\r\n* 5 EXISTS\r\n"),
    "one-byte-at-a-time": lambda c: c.drip(EXISTS, every_seconds=0),
    "keep-alives": lambda c: c.drip(b"* OK Still here\r\n", 0, size=100),
    "keep-alives-in-bulk": flood(b"* OK Still here\r\n"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_cpu_a_flooding_session_does_not_starve_the_others(
    run: Run,
    database: Database,
    backend: RecordingBackend,
    certificates: Certificates,
    evil: ScriptedImap,
    kind: str,
) -> None:
    """The flooder is read slowly and keeps its session, and all other mail is scanned."""
    names = [f"{number}@example.org" for number in range(5)]
    evil.on("idling", FLOODS[kind])
    with scripted(certificates, *names) as server:
        ids = {name: add(database, server, name) for name in names}
        with run(RECONNECT_MAX_SECONDS="0.2") as daemon:
            server.wait_for_idling(5)
            add(database, evil, EVIL)
            daemon.signal(signal.SIGHUP)
            evil.wait_for_idling()
            for _ in range(10):
                for name in names:
                    deliver(server, name, backend, ids[name])
            assert evil.connections[0].open
            assert f"[idle/{EVIL}] provider trouble" not in daemon.text
        assert len(server.connections) == 5


# What SECURITY.md says


def test_security_md_names_the_bounds_of_the_code() -> None:
    """Each bound is what the code has, and each test that is named there exists."""
    text = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    bounds = re.findall(r"\| ([\d.]+) \| `(\w+)\.([\w.]+)` \|", text)
    bounds += re.findall(r"(\d+) characters \(`(\w+)\.(\w+)`\)", text)
    assert len(bounds) == 11
    import_module("rebreak_idle.__main__")  # and with it all the others
    for value, module, path in bounds:
        found: object = import_module(f"rebreak_idle.{module}")
        for name in path.split("."):
            found = getattr(found, name)
        assert found == float(value), path
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in sources, name
