"""What the daemon's own log lines tell about each mailbox."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable

CONNECTED = re.compile(r"\[idle/(?P<email>\S+)\] connected \(")
SCANNED = re.compile(r"\[idle/(?P<email>\S+)\] scan-triggered → scanned=(?P<scanned>\d+) ")


class Watch:
    """Reads the lines as they come, on the thread that calls `take`; any other may look."""

    def __init__(self) -> None:
        self.scanned: Counter[str] = Counter()
        """How many messages of each mailbox the daemon has had scanned."""
        self.scanned_at: dict[str, float] = {}
        """When the last of them was reported (`time.monotonic`)."""
        self._connected: set[str] = set()
        self._reported: set[str] = set()

    def take(self, line: str) -> None:
        """Take the next line."""
        if found := CONNECTED.search(line):
            self._connected.add(found["email"])
        elif found := SCANNED.search(line):
            email, scanned = found["email"], int(found["scanned"])
            self._reported.add(email)
            if scanned:
                self.scanned_at[email] = time.monotonic()
                self.scanned[email] += scanned

    def sees(self, emails: Iterable[str]) -> bool:
        """Whether the daemon is connected to each of these and has had it scanned once."""
        return self._connected & self._reported >= set(emails)
