"""Which mailboxes have a place at a host that takes only so many connections from one address."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Set

from .gate import LOOK_AGAIN_SECONDS
from .limits import WORKED_SECONDS, Backoff, Slots

REFUSALS_THAT_MEAN_FULL = 3
# A mailbox whose sessions do not come about keeps its place no longer than this.
KEPT_SECONDS = 600.0
# Whoever waits for a place lets those with one come back first, but not for longer than this.
GIVES_WAY_SECONDS = 60.0


class Places:
    """Mailboxes with a session have a place, and keep it when they reconnect. Any thread may call.

    A host at which sessions live and which takes no more, three times in a row, is full: from then
    on of the mailboxes without a place one at a time tries, with a back-off, and gives way to those
    that come back. Each that gets in shows that there may be room for one more. Where nobody has a
    place any more the host is not full.
    """

    def __init__(self, backoff: Backoff, clock: Callable[[], float]) -> None:
        self.line = Slots(1)
        """Of those without a place, while the host is full."""
        self._backoff = backoff
        self._clock = clock
        self._lock = threading.Lock()
        self._living: dict[str, Callable[[], bool]] = {}
        """Who has a session, and what tells whether the server has closed it."""
        self._left: dict[str, float] = {}
        """Who has a place and no session, and since when none that worked."""
        self._began: dict[str, float] = {}
        self._away: dict[str, float] = {}
        self._without: set[str] = set()
        """Who was refused and has no place."""
        self._refused: list[str] = []
        self.is_full = False
        self._failures = 0
        self._due_at = -math.inf

    def has_living(self) -> bool:
        """Whether a session lives: its thread may be slow to notice that it does not."""
        with self._lock:
            while self._living:
                mailbox_id, is_alive = next(iter(self._living.items()))
                if is_alive():
                    return True
                self._leave(mailbox_id)
        return False

    def count_living(self) -> int:
        """How many sessions live."""
        return sum(is_alive() for is_alive in list(self._living.values()))

    @property
    def due_in_seconds(self) -> float:
        """When the next without a place may try; 0 or less when it may."""
        with self._lock:
            now = self._clock()
            for mailbox_id in [i for i, at in self._left.items() if now - at >= KEPT_SECONDS]:
                self._forget(mailbox_id)
            if self._due_at <= now:
                self._leave(*[i for i, is_alive in self._living.items() if not is_alive()])
            gives_way = bool(self._left) and now - self._due_at < GIVES_WAY_SECONDS
            return LOOK_AGAIN_SECONDS if gives_way else self._due_at - now

    def keeps_out(self, mailbox_id: str) -> bool:
        """Whether a mailbox has to wait for a place."""
        return self.is_full and not self._has_place(mailbox_id)

    def session_began(self, mailbox_id: str, is_alive: Callable[[], bool]) -> None:
        """The mailbox has a session, and a place with it."""
        with self._lock:
            self._let_in(mailbox_id)
            if not self._living:  # the host was away: the others come back now, too
                self._left = dict.fromkeys(self._left, self._clock())
            self._living[mailbox_id] = is_alive
            self._began[mailbox_id] = self._clock()
            self._left.pop(mailbox_id, None)

    def session_ended(self, mailbox_id: str) -> None:
        """The mailbox has none any more, and keeps its place."""
        with self._lock:
            if mailbox_id in self._living:
                self._leave(mailbox_id)

    def give_up(self, mailbox_id: str) -> None:
        """The mailbox does not come back soon: another one may have its place."""
        with self._lock:
            if self._has_place(mailbox_id):
                self._due_at = self._clock()
            self._without.discard(mailbox_id)
            self._forget(mailbox_id)

    def keep_only(self, mailbox_ids: Set[str]) -> None:
        """All other mailboxes are gone."""
        for mailbox_id in {*self._living, *self._left, *self._without} - mailbox_ids:
            self.give_up(mailbox_id)

    def record_success(self, mailbox_id: str) -> bool:
        """A mailbox was connected; returns whether the host has room for all again."""
        with self._lock:
            self._let_in(mailbox_id)
            self._without.discard(mailbox_id)
            was_full, self.is_full = self.is_full, self.is_full and bool(self._without)
            return was_full and not self.is_full

    def record_failure(self, mailbox_id: str, answered: bool) -> bool:
        """A mailbox was not taken although sessions live; returns whether it is full from now.

        Where the host did not even answer, it may be that these sessions are about to end.
        """
        with self._lock:
            if not self._has_place(mailbox_id):
                self._without.add(mailbox_id)
            if self.is_full:
                return False
            if answered:
                self._refused.append(mailbox_id)
            self.is_full = len(self._refused) >= REFUSALS_THAT_MEAN_FULL
            if self.is_full:
                self._back_off()
            return self.is_full

    def back_off(self) -> None:
        """Whoever was to try for a place did so in vain."""
        with self._lock:
            self._back_off()

    def absorb(self, other: Places) -> None:
        """The other host is this one."""
        with other._lock, self._lock:
            self._living |= other._living
            self._began |= other._began
            self._away |= other._away
            self._left |= other._left
            self._without |= other._without

    def _back_off(self) -> None:
        self._failures += 1
        self._due_at = self._clock() + self._backoff.wait_seconds(self._failures)

    def _leave(self, *mailbox_ids: str) -> None:
        for mailbox_id in mailbox_ids:
            del self._living[mailbox_id]
            now = self._clock()
            if now - self._began.pop(mailbox_id) >= WORKED_SECONDS:
                self._away.pop(mailbox_id, None)
            self._left[mailbox_id] = self._away.setdefault(mailbox_id, now)

    def _forget(self, mailbox_id: str) -> None:
        for of_mailboxes in (self._living, self._left, self._began, self._away):
            of_mailboxes.pop(mailbox_id, None)
        if not self._living and not self._left:
            self.is_full, self._failures = False, 0

    def _let_in(self, mailbox_id: str) -> None:
        is_new = not self._has_place(mailbox_id)
        if is_new or mailbox_id in self._refused:
            self._refused.clear()
        if is_new:
            self._failures, self._due_at = 0, self._clock()

    def _has_place(self, mailbox_id: str) -> bool:
        return mailbox_id in self._living or mailbox_id in self._left
