"""When the faults happen, and to whom."""

from __future__ import annotations

import contextlib

from scripts.tools.soak.accounts import DovecotAccount
from scripts.tools.soak.faults import SERVER_FAULTS, SESSION_FAULTS
from scripts.tools.soak.timetable import Timetable
from scripts.tools.soak.world import World
from tests.support.recording_backend import Behaviour, Hang, answer, reset
from tests.support.scripted_imap import STEPS

FAULT_EVERY_SECONDS = 30.0  # for each mailbox, on average


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
