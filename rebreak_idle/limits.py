"""Kindness to providers: how many connections and logins one host gets from us at once.

All mailboxes share one IP address; a provider that sees too much from it blocks all of them.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from .backoff import Backoff, seconds_text
from .gate import Gate, Ticket
from .log import Logger, sanitize

FAILURES_THAT_MEAN_DOWN = 5
LOOK_AGAIN_SECONDS = 1.0
logger = Logger("host")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one host gets from us; times in seconds."""

    connects_at_once: int
    logins_per_second: float
    probe_initial_seconds: float
    probe_max_seconds: float


class TokenBucket:
    """A lasting rate with a burst of twice that many; turns are given in order. Any thread.

    ``clock`` returns seconds, as `time.monotonic`.
    """

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self._most = max(1.0, 2 * per_second)
        self._counted_at = clock()

    def take(self) -> float:
        """Take the next turn; returns after how many seconds it comes."""
        with self._lock:
            now = self._clock()
            grown = self._tokens + (now - self._counted_at) * self._per_second
            self._tokens, self._counted_at = min(self._most, grown) - 1, now
            return max(0.0, -self._tokens / self._per_second)


class Waiter(Protocol):
    """Whoever wants to connect: see `worker.IdleWorker`. All may raise `errors.Interrupted`."""

    def wait_for_place(self, ticket: Ticket) -> bool: ...
    def pay_for(self, seconds: float) -> None: ...
    def pause(self, seconds: float) -> None: ...


class Host:
    """One server, by name and port. Any thread may call.

    After five different mailboxes in a row could not connect, it is the host that is down: from
    then on one mailbox at a time probes, with the host's own back-off, and the others wait in line
    without attempts of their own. The first success lets them return, as fast as the limits allow.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        clock: Callable[[], float],
        make_gate: Callable[[int], Gate],
    ) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._connects = make_gate(limits.connects_at_once)
        self._probes = make_gate(1)
        self._logins = TokenBucket(limits.logins_per_second, clock)
        self._backoff = Backoff(
            limits.probe_initial_seconds, limits.probe_max_seconds, random.random
        )
        self._failed: set[str] = set()
        self._probes_failed = 0
        self._probe_at = 0.0

    @property
    def is_down(self) -> bool:
        return self._probes_failed > 0

    @contextmanager
    def admission(self, waiter: Waiter) -> Iterator[bool]:
        """Wait for a place, and for a turn to log in; the place is held to the end of the block.

        Yields whether the attempt is a probe of a host that is down.
        """
        ticket, probe = self._place(waiter)
        try:
            waiter.pause(self._logins.take())
            yield probe
        finally:
            ticket.leave()

    def _place(self, waiter: Waiter) -> tuple[Ticket, bool]:
        while True:
            down = self.is_down
            ticket = (self._probes if down else self._connects).queue()
            try:
                granted = waiter.wait_for_place(ticket)
                if granted and down:
                    self._wait_to_probe(waiter)
            except BaseException:
                ticket.leave()
                raise
            if granted and down == self.is_down:
                return ticket, down
            ticket.leave()
            waiter.pay_for(0.0)  # never while a place is held, or about to be given

    def _wait_to_probe(self, waiter: Waiter) -> None:
        """Until the probe is due; an attempt that was under way before may end it sooner."""
        while self.is_down and (left := self._probe_at - self._clock()) > 0:
            waiter.pay_for(min(left, LOOK_AGAIN_SECONDS))

    def worked(self) -> None:
        """A mailbox was connected, whatever became of its login."""
        with self._lock:
            was_down = self.is_down
            self._failed.clear()
            self._probes_failed = 0
        if was_down:
            logger.info("%s answers again: its mailboxes return", sanitize(self._name))

    def failed(self, mailbox_id: str, why: str, probe: bool) -> None:
        """A mailbox could not connect; while the host is down only a probe tells anything new."""
        with self._lock:
            if self.is_down and not probe:
                return
            self._failed.add(mailbox_id)
            if not self.is_down and len(self._failed) < FAILURES_THAT_MEAN_DOWN:
                return
            self._probes_failed += 1
            wait = self._backoff.wait_seconds(self._probes_failed)
            self._probe_at = self._clock() + wait
            went_down = self._probes_failed == 1
        if went_down:
            logger.warning(
                "%s is down: %d mailboxes in a row could not connect (%s); one tries again in %s, "
                "the others wait for it",
                sanitize(self._name),
                FAILURES_THAT_MEAN_DOWN,
                sanitize(why),
                seconds_text(wait),
            )


class Hosts:
    """The hosts that mailboxes lead to. Any thread may call."""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        make_gate: Callable[[int], Gate] = Gate,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._make_gate = make_gate
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, int, bool], Host] = {}

    def at(self, name: str, port: int, starttls: bool = False) -> Host:
        """The host of that name and port, the same one each time.

        Rows that use it in the wrong way, TLS or STARTTLS, must not make it look down to others.
        """
        key = (name.lower(), port, starttls)
        with self._lock:
            if key not in self._hosts:
                shown = f"{name}:{port}"
                self._hosts[key] = Host(shown, self._limits, self._clock, self._make_gate)
            return self._hosts[key]
