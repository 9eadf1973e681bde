"""The phases of the run."""

from __future__ import annotations

import time
from collections.abc import Callable

from scripts.tools.console import Failure, pause
from scripts.tools.soak.accounts import Account, DovecotAccount, Reaction, ScriptedAccount
from scripts.tools.soak.chronicle import say
from scripts.tools.soak.footprint import Footprint
from scripts.tools.soak.rows import Rows
from scripts.tools.soak.timetable import Timetable
from scripts.tools.soak.troubles import Troubles
from scripts.tools.soak.world import World

PHASE_SECONDS = 60.0
SETTLING_SECONDS = 20.0  # covers the longest back-off of a scan after the outages here
PROGRESS_SECONDS = 30.0
CONNECTED_WITHIN_SECONDS = 120.0
OWED_WITHIN_SECONDS = 300.0
LOOK_SECONDS = 0.2

MAIL_EVERY_SECONDS = 20.0  # for each mailbox, on average
ROW_CHANGE_EVERY_SECONDS = 2.0
HANG_UP_EVERY_SECONDS = 10.0
SLOWEST_MAIL_RATE = 3.0
BURST = 20
PATIENCE_SECONDS = 2.0  # in which further mail may follow one that still waits


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
        self.footprints.setdefault(when, Footprint.of(self._world.daemon))

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
        table.every(HANG_UP_EVERY_SECONDS, self._world.hang_up)
        table.run(seconds)
        troubles.forget_scripts()
        self._bring_rows_back()

    def _bring_rows_back(self) -> None:
        """Let the daemon watch all mailboxes again."""
        for account in self._world.accounts:
            if not account.active:
                self._rows.activate(account)
        self._world.hang_up()

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
        now = Footprint.of(self._world.daemon)
        return (
            f"{self._world.chronicle.second():.0f} s, {self._phase}: {self.mails} mails, "
            f"{self.scans_made} scans, {owed} mails owed; {now.threads} threads, "
            f"{now.descriptors} descriptors, {now.pss_kib / 1024:.1f} MiB"
        )
