"""Kindness to providers: how many connections and logins one host gets from us at once.

All mailboxes share one IP address; a provider that sees too much from it blocks all of them.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from .config import Config
from .errors import HostUnreachable, LoginRefused, SessionLost
from .limits import Backoff, CircuitBreaker, Slot, Slots, TokenBucket, seconds_text
from .log import Logger, sanitize
from .mailbox import Mailbox

FAILURES_THAT_MEAN_DOWN = 5
# How often whoever is to probe a host looks whether another attempt has reached it meanwhile.
LOOK_AGAIN_SECONDS = 1.0
logger = Logger("host")

HostKey = tuple[str, int, bool]


class Host:
    """One server, by name and port. Any thread may call.

    After five different mailboxes in a row could not connect, it is the host that is down: from
    then on one mailbox at a time probes, with the host's own back-off, and the others wait in line
    without attempts of their own. The first success lets them return, as fast as the limits allow.
    """

    def __init__(self, name: str, config: Config, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._connects = Slots(config.host_connects_at_once)
        self._probes = Slots(1)
        self._logins = TokenBucket(config.host_logins_per_second, clock)
        backoff = Backoff(
            config.reconnect_initial_seconds, config.reconnect_max_seconds, random.random
        )
        self._breaker = CircuitBreaker(FAILURES_THAT_MEAN_DOWN, backoff, clock)

    @property
    def is_down(self) -> bool:
        return self._breaker.is_open

    @contextmanager
    def connecting(
        self, mailbox_id: str, wake: Callable[[], None], wait: Callable[[float], None]
    ) -> Iterator[None]:
        """Wait for a slot and for a turn to log in; in the block the mailbox connects and logs in.

        ``wait`` waits so many seconds, or until ``wake`` is called; what it raises goes through.
        What the block raises tells how the host is doing.
        """
        slot, probe = self._take_slot(wake, wait)
        try:
            self._wait_for_login(wait)
            yield
        except HostUnreachable as error:
            self.record_failure(mailbox_id, str(error), probe)
            raise
        except (SessionLost, LoginRefused):
            self.record_success()
            raise
        else:
            self.record_success()
        finally:
            slot.release()

    def _take_slot(
        self, wake: Callable[[], None], wait: Callable[[float], None]
    ) -> tuple[Slot, bool]:
        """A slot, and whether it is the probe's, which is due then."""
        while True:
            probe = self.is_down
            slot = (self._probes if probe else self._connects).request(wake)
            try:
                while not slot.granted:
                    wait(math.inf)
                while probe and self.is_down and (left := self._breaker.probe_in_seconds) > 0:
                    wait(min(left, LOOK_AGAIN_SECONDS))
            except BaseException:
                slot.release()
                raise
            if probe == self.is_down:
                return slot, probe
            slot.release()

    def _wait_for_login(self, wait: Callable[[float], None]) -> None:
        until = self._clock() + self._logins.take()
        while (left := until - self._clock()) > 0:
            wait(left)

    def record_success(self) -> None:
        """A mailbox was connected, whatever became of its login."""
        if self._breaker.record_success():
            logger.info("%s answers again: its mailboxes return", sanitize(self._name))

    def record_failure(self, mailbox_id: str, why: str, probe: bool) -> None:
        """A mailbox could not connect; while the host is down only a probe tells anything new."""
        if self._breaker.record_failure(mailbox_id, probe):
            logger.warning(
                "%s is down: %d mailboxes in a row could not connect (%s); one tries again in %s, "
                "the others wait for it",
                sanitize(self._name),
                FAILURES_THAT_MEAN_DOWN,
                sanitize(why),
                seconds_text(round(self._breaker.probe_in_seconds, 1)),
            )


class Hosts:
    """The hosts that mailboxes lead to. Any thread may call."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[HostKey, Host] = {}

    def at(self, mailbox: Mailbox) -> Host:
        """The host of a mailbox, the same one for each that leads there.

        Rows that use it in the wrong way, TLS or STARTTLS, must not make it look down to others.
        """
        key = _key(mailbox)
        with self._lock:
            if key not in self._hosts:
                shown = f"{mailbox.host}:{mailbox.port}"
                self._hosts[key] = Host(shown, self._config, self._clock)
            return self._hosts[key]

    def forget_all_but(self, mailboxes: Iterable[Mailbox]) -> None:
        """Let go of the hosts that none of these mailboxes leads to."""
        named = {_key(mailbox) for mailbox in mailboxes}
        with self._lock:
            self._hosts = {key: host for key, host in self._hosts.items() if key in named}


def _key(mailbox: Mailbox) -> HostKey:
    return mailbox.host.lower(), mailbox.port, mailbox.starttls
