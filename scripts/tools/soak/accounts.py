"""The watched mailboxes, and the books that are kept of them."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from bisect import bisect_right
from typing import Any, NamedTuple

from tests.support.scripted_imap import Arrival, Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates, Dovecot, free_port, message


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
