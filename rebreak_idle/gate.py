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
        ticket = Ticket(self)
        with self._lock:
            self._line.append(ticket)
            self._grant()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give the place, or the place in the line, to the next."""
        with self._lock:
            if ticket.granted:
                self._free += 1
            elif ticket in self._line:
                self._line.remove(ticket)
            self._grant()

    def _grant(self) -> None:
        while self._free and self._line:
            self._free -= 1
            self._line.popleft().grant()


class Ticket:
    """A place in a gate's line; its holder waits for it on one thread."""

    def __init__(self, gate: Gate) -> None:
        self.granted = False
        self._gate = gate
        self._woken = Signal()

    def grant(self) -> None:
        """The place is the holder's. Called by the gate."""
        self.granted = True
        self._woken.set()

    def wake(self) -> None:
        """Let the holder look around: the wait ends, granted or not. Any thread may call."""
        self._woken.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the place, at most ``seconds``; True when it is there. The ticket stays good."""
        if not self.granted:
            self._woken.wait(seconds)
        return self.granted

    def leave(self) -> None:
        self._gate.leave(self)
