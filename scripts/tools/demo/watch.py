"""What the daemons' own log lines tell about each mailbox."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterable

CONNECTED = re.compile(r"\[idle/(?P<email>\S+)\] connected \(")
SCANNED = re.compile(r"\[idle/(?P<email>\S+)\] scan-triggered → scanned=(?P<scanned>\d+) ")


class Watch:
    """Reads the lines as they come, of one daemon or of several; any thread may look."""

    def __init__(self) -> None:
        self._taking = threading.Lock()
        self.scanned: Counter[str] = Counter()
        """How many messages of each mailbox the daemon has had scanned."""
        self.scanned_at: dict[str, float] = {}
        """When the last of them was reported (`time.monotonic`)."""
        self._connected: set[str] = set()
        self._reported: set[str] = set()

    def take(self, line: str) -> None:
        """Take the next line. Any thread may call."""
        with self._taking:
            self._take(line)

    def _take(self, line: str) -> None:
        if found := CONNECTED.search(line):
            self._connected.add(found["email"])
        elif found := SCANNED.search(line):
            email, scanned = found["email"], int(found["scanned"])
            self._reported.add(email)
            if scanned:
                self.scanned_at[email] = time.monotonic()
                self.scanned[email] += scanned

    def sees(self, emails: Iterable[str]) -> bool:
        """Whether a daemon is connected to each of these and has had it scanned once."""
        return self._connected & self._reported >= set(emails)
