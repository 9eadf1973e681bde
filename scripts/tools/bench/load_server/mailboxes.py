"""What is in the mailboxes."""

from __future__ import annotations

import time
from typing import Protocol


class Listener(Protocol):
    """A connection in IDLE."""

    def say(self, line: str) -> None:
        """Send one line."""


class Mailboxes:
    """What is in the mailboxes, who listens to them, and what was announced and scanned."""

    def __init__(self, number: int) -> None:
        self.messages = [1] * number
        self.idling: dict[int, Listener] = {}
        self.unscanned = set(range(number))
        self.all_idling_at = 0.0
        """When the last of all mailboxes was listened to."""
        self.all_scanned_at = 0.0
        """When the last mailbox that owed a scan got it."""
        self.scan_seconds = 0.0
        """How long each scan takes: so long the answer to its POST is held back."""
        self.scans = 0
        self.latencies: list[float] = []
        """Seconds from the write of each EXISTS to the arrival of the next POST."""
        self._announced: dict[int, list[float]] = {}

    def arrive(self, mailbox: int) -> bool:
        """A mail arrives; whether somebody listens, to whom it is announced."""
        self.messages[mailbox] += 1
        self.unscanned.add(mailbox)
        connection = self.idling.get(mailbox)
        if connection is None:
            return False
        self._announced.setdefault(mailbox, []).append(time.monotonic())
        connection.say(f"* {self.messages[mailbox]} EXISTS")
        return True

    def scanned(self, mailbox: int, at: float) -> None:
        """A scan was asked for: it covers what has arrived so far."""
        self.scans += 1
        self.latencies += [at - written for written in self._announced.pop(mailbox, ())]
        if mailbox in self.unscanned:
            self.unscanned.remove(mailbox)
            self.all_scanned_at = at

    def listens(self, mailbox: int, connection: Listener) -> None:
        """IDLE has begun."""
        self.idling[mailbox] = connection
        if len(self.idling) == len(self.messages):
            self.all_idling_at = time.monotonic()

    def listens_no_more(self, mailbox: int, connection: Listener) -> None:
        """IDLE has ended, if it was this connection's."""
        if self.idling.get(mailbox) is connection:
            del self.idling[mailbox]
