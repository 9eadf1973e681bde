"""A bound on how many do something at once; waiting is in order of arrival."""

from __future__ import annotations

import threading
from collections import deque

from .turns import Signal


class Gate:
    """Lets ``places`` through at once. Any thread may call."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._lock = threading.Lock()
        self._line: deque[Ticket] = deque()

    def queue(self) -> Ticket:
        """Take a place in the line; the ticket is granted at once where a place is free."""
        ticket = self._new_ticket()
        with self._lock:
            if self._free and not self._line:
                self._free -= 1
                ticket.granted = True
            else:
                self._line.append(ticket)
        return ticket

    def _new_ticket(self) -> Ticket:
        return Ticket(self)

    def leave(self, ticket: Ticket) -> None:
        """Give the place, or the place in the line, to the next."""
        with self._lock:
            if not ticket.granted:
                self._line.remove(ticket)
            elif self._line:
                self._line.popleft().grant()
            else:
                self._free += 1

    def signal_of(self, ticket: Ticket) -> Signal:
        """What wakes the holder; a ticket that nobody waits for has none."""
        with self._lock:
            if ticket.signal is None:
                ticket.signal = Signal()
                if ticket.granted:
                    ticket.signal.set()
            return ticket.signal


class Ticket:
    """A place in a gate's line; its holder waits for it on one thread."""

    def __init__(self, gate: Gate) -> None:
        self.granted = False
        self.signal: Signal | None = None
        self._gate = gate

    def grant(self) -> None:
        """The place is the holder's. Called by the gate."""
        self.granted = True
        if self.signal is not None:
            self.signal.set()

    def wake(self) -> None:
        """Let the holder look around: the wait ends, granted or not. Any thread may call."""
        self._gate.signal_of(self).set()

    def wait(self, seconds: float) -> bool:
        """Wait for the place, at most ``seconds``; True when it is there. The ticket stays good."""
        if not self.granted:
            self._gate.signal_of(self).wait(seconds)
        return self.granted

    def leave(self) -> None:
        self._gate.leave(self)
