"""One INBOX: its mail, and the news of it."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Arrival(NamedTuple):
    """A mail's arrival: `at` is `time.monotonic()`."""

    at: float
    uid: int


class Snapshot(NamedTuple):
    """What EXAMINE tells of a mailbox; `position` is where the news after it begin."""

    exists: int
    uidnext: int
    uidvalidity: int
    position: int


class Mailbox:
    """One account's INBOX. Any thread may call any method."""

    def __init__(self, exists: int = 4, uidvalidity: int = 1) -> None:
        self.uids = list(range(1, exists + 1))
        self.uidnext = exists + 1
        self.uidvalidity = uidvalidity
        self.announcing = True
        """False: arrivals are swallowed; nothing but EXAMINE and STATUS shows them."""
        self.arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        self._news: list[bytes] = []
        self._watchers: list[Callable[[], None]] = []

    @property
    def exists(self) -> int:
        return len(self.uids)

    def arrive(self, n: int = 1, announce: bool = True) -> None:
        """Add `n` mails and tell every idling connection, in one line, before returning."""
        with self._lock:
            for _ in range(n):
                self.arrivals.append(Arrival(time.monotonic(), self.uidnext))
                self.uids.append(self.uidnext)
                self.uidnext += 1
            line = b"* %d EXISTS\r\n" % len(self.uids)
        self._announce(line, announce)

    def expunge(self, index: int, announce: bool = True) -> None:
        """Remove the mail with the message sequence number `index`, which counts from 1."""
        with self._lock:
            del self.uids[index - 1]
        self._announce(b"* %d EXPUNGE\r\n" % index, announce)

    def renumber(self, uidvalidity: int) -> None:
        """Give all mails new UIDs under a new UIDVALIDITY (RFC 9051 2.3.1.1)."""
        with self._lock:
            self.uidvalidity = uidvalidity
            self.uids = list(range(1, len(self.uids) + 1))
            self.uidnext = len(self.uids) + 1

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(len(self.uids), self.uidnext, self.uidvalidity, len(self._news))

    def news_since(self, position: int) -> tuple[bytes, int]:
        """Return the untagged lines that were announced since `position`, and the new position."""
        with self._lock:
            return b"".join(self._news[position:]), len(self._news)

    def watch(self, watcher: Callable[[], None]) -> None:
        with self._lock:
            self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._watchers.remove(watcher)

    def _announce(self, line: bytes, announce: bool) -> None:
        if not (announce and self.announcing):
            return
        with self._lock:
            self._news.append(line)
            watchers = list(self._watchers)
        for watcher in watchers:  # outside the lock: each takes its connection's own
            watcher()
