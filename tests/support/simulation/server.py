"""The mail server of one mailbox, and sessions with it, in simulated time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from rebreak_idle.access_token import AccessToken
from rebreak_idle.errors import (
    HostUnreachable,
    Interrupted,
    LoginRefused,
    NotConnected,
    SessionEnded,
    SessionLost,
)
from rebreak_idle.imap.responses import Kind, Line
from rebreak_idle.imap.uids import Snapshot
from tests.support.harness import quick_config
from tests.support.simulation.turns import Turns

SILENCE_NOTICED_SECONDS = 90.0
CONFIG = quick_config(
    idle_renew_seconds=1500.0,
    idle_check_seconds=600.0,
    poll_interval_seconds=60.0,
    reconnect_initial_seconds=5.0,
    reconnect_max_seconds=300.0,
    auth_retry_seconds=900.0,
    imap_timeout_seconds=30.0,
    scan_timeout_seconds=120.0,
    host_connects_at_once=2,
)


@dataclass
class Server:
    """The server of one mailbox, and the moods it can be in."""

    exists: int = 3
    uidnext: int = 4
    uidvalidity: int = 1
    announcing: bool = True
    up: bool = True
    stalled: bool = False
    refusing: bool = False
    offers_idle: bool = True
    tells_uidnext: bool = True
    ends_sessions: bool = True
    """Whether it ends a session with the token that began it."""
    connects_users: bool = True
    """False: a login works, and INBOX cannot be opened."""
    tokens: set[str] = field(default_factory=set)
    """Those that it takes, until they run out."""
    sessions: "list[SimulatedSession]" = field(default_factory=list)

    def arrive(self) -> None:
        self.exists += 1
        self.uidnext += 1
        self.announce(Line(Kind.EXISTS, self.exists))

    def expunge(self) -> None:
        if self.exists:
            self.exists -= 1
            self.announce(Line(Kind.EXPUNGE, 1))

    def announce(self, line: Line) -> None:
        for session in self.sessions:
            if self.announcing and session.selected and not session.silent:
                session.pending.append(line)


class SimulatedSession:
    """One connection to a server, as `rebreak_idle.imap.Session` behaves."""

    def __init__(self, server: Server, turns: Turns, is_stopping: Callable[[], bool]) -> None:
        self._server = server
        self._turns = turns
        self._is_stopping = is_stopping
        self.pending: list[Line] = []
        """On the way to the client."""
        self.heard: list[Line] = []
        self.selected = self.idling = self.dead = self.silent = False
        self.rest_seconds = 0.0
        self.silent_since = 0.0
        self._token_ends_at = math.inf

    @property
    def offers_idle(self) -> bool:
        return self._server.offers_idle

    def open(self, secret: str | AccessToken) -> None:
        try:
            self._command(needs_login=False)
        except SessionLost as error:
            raise HostUnreachable(str(error)) from error
        if self._server.refusing:
            raise LoginRefused("refused")
        if isinstance(secret, AccessToken):
            if secret.value not in self._server.tokens or secret.ends_at <= self._turns.now:
                raise LoginRefused("the token is refused")
            self._token_ends_at = secret.ends_at
        self._server.sessions.append(self)

    def examine(self) -> Snapshot:
        self._command()
        if not self._server.connects_users:
            raise NotConnected("authenticated but not connected")
        self.pending.clear()  # what belongs to the mailbox as it was selected before
        self.selected = True
        server = self._server
        uidnext = server.uidnext if server.tells_uidnext else None
        return Snapshot(server.exists, uidnext, server.uidvalidity)

    def start_idle(self) -> bool:
        self._command()
        self.idling = True
        return True

    def wait(self, seconds: float) -> list[Line]:
        self._receive()
        if not self.heard and seconds > 0:
            until = self._turns.now + seconds
            if self._turns.now < self._token_ends_at:
                until = min(until, self._token_ends_at)
            self._turns.wait(until, self._something_to_read)
            self._receive()
        if not self.heard and self._is_stopping():
            raise Interrupted("stopping")
        if not self.heard and self._is_over():
            raise SessionEnded("the token has run out")
        if not self.heard and self._is_gone():
            raise SessionLost("gone")
        return self.take_events()

    def end_idle(self) -> list[Line]:
        if self.idling:
            self.idling = False
            self._command()
            self._receive()
        return self.take_events()

    def take_events(self) -> list[Line]:
        heard, self.heard = self.heard, []
        return heard

    def close(self, wait: bool = True) -> None:
        if self in self._server.sessions:
            self._server.sessions.remove(self)

    def is_alive(self) -> bool:
        return not self._is_gone()

    def interrupt(self) -> None: ...

    def abort(self) -> None:
        self.dead = True

    def vanish(self) -> None:
        """Fall silent without a word."""
        if not self.silent:
            self.silent, self.silent_since = True, self._turns.now

    def _receive(self) -> None:
        if not self.silent:
            self.heard += self.pending
            self.pending = []

    def _something_to_read(self) -> bool:
        return (
            bool(self.pending and not self.silent)
            or self._is_gone()
            or self._is_over()
            or self._is_stopping()
            or (self.selected and not self.idling)
        )

    def _is_over(self) -> bool:
        return self._server.ends_sessions and self._turns.now >= self._token_ends_at

    def _is_gone(self) -> bool:
        noticed = self.silent and self._turns.now >= self.silent_since + SILENCE_NOTICED_SECONDS
        return self.dead or noticed

    def _command(self, needs_login: bool = True) -> None:
        """Any command: it takes a moment, or its whole time-out."""
        server = self._server
        if self._is_stopping():
            raise Interrupted("stopping")
        if self.dead or not server.up:
            self.dead = True
            raise SessionLost("connection refused or reset")
        if server.stalled or self.silent:
            self._turns.wait(self._turns.now + CONFIG.imap_timeout_seconds, self._is_stopping)
            raise Interrupted("stopping") if self._is_stopping() else SessionLost("time-out")
        self._turns.wait(self._turns.now + 0.01)
        if self.dead:
            raise SessionLost("reset")
        if self._is_over():
            raise SessionEnded("the token has run out")
