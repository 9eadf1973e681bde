"""Everything that runs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
from collections.abc import Iterator, Mapping

from scripts.tools.child import Program
from scripts.tools.console import pause
from scripts.tools.servers import ROOT, OwnDovecot, OwnPostgres
from scripts.tools.soak.accounts import Account, DovecotAccount, ScriptedAccount, Site
from scripts.tools.soak.chronicle import Chronicle, say
from scripts.tools.soak.scans import Scans
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import environment, stored
from tests.support.servers import (
    Certificates,
    Database,
    MissingProgramError,
    find_program,
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
MAILBOXES_PER_SERVER = 8
ON_DOVECOT = 6  # one in so many mailboxes, where Dovecot is installed


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
            self.daemon = Program(
                "the daemon",
                "-m",
                "rebreak_idle",
                environment=settings,
                folder=folder,
                on_line=self.chronicle.write,
            )
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

    def hang_up(self) -> None:
        """Have the daemon read the rows now."""
        self.daemon.send_signal(signal.SIGHUP)

    def insert_row(self, account: Account) -> None:
        """Add the account's row, with an id of its own."""
        account.id = self.database.add(
            account.email, password_encrypted=stored(account.password), **account.fields
        )
        self.scans.by_id[account.id] = account
        account.active = True
