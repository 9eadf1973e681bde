"""One server: how many connections and logins it gets from us at once, and whether it is down."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import NamedTuple

from .config import Config
from .errors import HostUnreachable
from .gate import Gate
from .limits import Backoff, Slots, TokenBucket, seconds_text
from .log import host_logger as logger
from .log import sanitize
from .places import Places

Clock = Callable[[], float]
Wait = Callable[[float], None]
# Name or address, port, and whether TLS begins with STARTTLS.
EndpointKey = tuple[str, int, bool]
AddressKey = tuple[str, int, bool]


class Failure(NamedTuple):
    """Which mailbox could not connect, why, and what it had waited in."""

    mailbox_id: str
    why: str
    answered: bool
    line: Slots


def backoff(config: Config) -> Backoff:
    """The waits between two tries where one mailbox tries for all."""
    return Backoff(config.reconnect_initial_seconds, config.reconnect_max_seconds, random.random)


class Host(Gate):
    """One server, by its addresses, however many names lead there. Any thread may call."""

    def __init__(self, config: Config, clock: Clock) -> None:
        super().__init__(backoff(config), clock, config.host_connects_at_once)
        self.names: frozenset[EndpointKey] = frozenset()
        """Those that lead here."""
        self.places = Places(backoff(config), clock)
        self._clock = clock
        self._logins = TokenBucket(config.host_logins_per_second, clock)
        self._lock = threading.Lock()
        self._under_way: set[str] = set()
        self._failed: list[Failure] = []
        self._undecided: set[str] = set()
        """Attempts under way since before the first of the failed ones."""

    @property
    def shown(self) -> str:
        names = [f"{name}:{port}" for name, port, _ in sorted(self.names)]
        if len(names) > 1:
            return f"{names[0]} (one of {len(names)} names that lead there)"
        return names[0] if names else "a host that no row names any more"

    def line_for(self, mailbox_id: str) -> Slots:
        if self.places.keeps_out(mailbox_id) and not self.is_down:
            return self.places.line
        return super().line_for(mailbox_id)

    def due_in_seconds(self, line: Slots) -> float:
        if line is self.places.line:
            return self.places.due_in_seconds
        return super().due_in_seconds(line)

    def wait_for_login(self, wait: Wait) -> None:
        """Wait for a turn to log in."""
        until = self._clock() + self._logins.take()
        while (left := until - self._clock()) > 0:
            wait(left)

    def attempt_began(self, mailbox_id: str) -> None:
        """A mailbox connects now."""
        with self._lock:
            self._under_way.add(mailbox_id)

    def attempt_ended(self, mailbox_id: str) -> None:
        """Its attempt is over, and recorded."""
        with self._lock:
            self._under_way.discard(mailbox_id)
            self._undecided.discard(mailbox_id)

    def connected(self, mailbox_id: str) -> None:
        """A mailbox was connected, whatever became of its login."""
        with self._lock:
            self._failed.clear()
        self.record_success()
        if self.places.record_success(mailbox_id):
            logger.info("%s has room for all its mailboxes again", sanitize(self.shown))

    def refused(self, mailbox_id: str, error: HostUnreachable, line: Slots) -> None:
        """A mailbox could not connect; where sessions live the host is full, and not down."""
        if line is self.places.line:
            self.places.back_off()
        for failure in self._decided(Failure(mailbox_id, str(error), error.answered, line)):
            if not self.places.has_living():
                self.record_failure(failure.mailbox_id, failure.why, failure.line)
            elif self.places.record_failure(failure.mailbox_id, failure.answered):
                self._log_full(failure.why)

    def _decided(self, failure: Failure) -> list[Failure]:
        """The failures that count now.

        What was under way at the first of them is waited for: a host that takes only so many
        refuses the others before those are logged in.
        """
        with self._lock:
            if not self._failed:
                self._undecided = self._under_way.copy()
            if self.is_down or self.places.is_full:
                self._undecided = set()
            self._undecided.discard(failure.mailbox_id)
            self._failed.append(failure)
            if self._undecided:
                return []
            decided, self._failed = self._failed, []
        return decided

    def absorb(self, other: Host) -> None:
        """The other one turned out to be this one; what it counted counts here."""
        self._slots.absorb(other._slots)
        self._logins.absorb(other._logins)
        self.places.absorb(other.places)
        self.names |= other.names
        vars(other).update(vars(self))  # for whoever still has it

    def _log_full(self, why: str) -> None:
        self.log_full(self.places.count_living(), why, self.places.due_in_seconds)

    def log_full(self, most: int, why: str, seconds: float) -> None:
        """Say that it takes so many connections, and when the next is tried."""
        logger.warning(
            "%s is full: it takes no more than %d of our connections (%s); those stay, the other "
            "mailboxes wait, one tries again in %s",
            sanitize(self.shown),
            most,
            sanitize(why),
            seconds_text(round(max(0.0, seconds), 1)),
        )
