"""Kindness to providers: how many connections and logins one host gets from us at once.

All mailboxes share one IP address; a provider that sees too much from it blocks all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .gate import Gate


class Rate:
    """A lasting rate with a burst of twice that many; turns are given in order. Any thread.

    ``clock`` returns seconds, as `time.monotonic`.
    """

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._most = 2 * per_second
        self._counted_at = clock()

    def take(self) -> float:
        """Take the next turn; returns after how many seconds it comes."""
        with self._lock:
            now = self._clock()
            grown = self._tokens + (now - self._counted_at) * self._per_second
            self._tokens, self._counted_at = min(self._most, grown) - 1, now
            return max(0.0, -self._tokens / self._per_second)


class Host:
    """One server, by name and port."""

    def __init__(self, connects_at_once: int, logins: Rate) -> None:
        self.connects = Gate(connects_at_once)
        self.logins = logins


class Hosts:
    """The hosts that mailboxes lead to. Any thread may call."""

    def __init__(
        self, connects_at_once: int, logins_per_second: float, clock: Callable[[], float]
    ) -> None:
        self._connects_at_once = connects_at_once
        self._logins_per_second = logins_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, int], Host] = {}

    def at(self, name: str, port: int) -> Host:
        """The host of that name and port, the same one each time."""
        with self._lock:
            key = (name.lower(), port)
            if key not in self._hosts:
                logins = Rate(self._logins_per_second, self._clock)
                self._hosts[key] = Host(self._connects_at_once, logins)
            return self._hosts[key]
