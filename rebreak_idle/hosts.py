"""Kindness to providers: how many connections and logins one host gets from us at once.

All mailboxes share one IP address; a provider that sees too much from it blocks all of them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .config import Config
from .errors import HostUnreachable, LoginRefused, NameUnusable, SessionLost
from .gate import Gate, Turn
from .host import AddressKey, Clock, EndpointKey, Host, Wait, backoff
from .imap.addresses import FOUND_SECONDS, Address, Resolver
from .limits import Slots
from .mailbox import Mailbox
from .portions import in_portions


class Run(Protocol):
    """Does what may take long; ``release`` is called once, at its end, whoever still waits."""

    def __call__(
        self, task: Callable[[], list[Address]], release: Callable[[], None]
    ) -> list[Address]: ...


def _at_once(task: Callable[[], list[Address]], release: Callable[[], None]) -> list[Address]:
    try:
        return task()
    finally:
        release()


class _Name(Gate):
    """A name that may not resolve, or whose certificate may be for another one."""

    def __init__(self, shown: str, config: Config, clock: Clock) -> None:
        super().__init__(backoff(config), clock)
        self._shown = shown

    @property
    def shown(self) -> str:
        return self._shown


class Endpoint:
    """Where rows lead: a name and port, and TLS or STARTTLS. Any thread may call.

    Limits are those of the host at its addresses; trouble with the name itself is its own.
    """

    def __init__(self, hosts: Hosts, key: EndpointKey, shown: str) -> None:
        self.key = key
        self.addresses: set[AddressKey] = set()
        """What the name led to last."""
        self.host: Host | None = None
        self._hosts = hosts
        self._name = _Name(shown, hosts.config, hosts.clock)
        self._lookups = Slots(1)
        self._sessions: dict[str, Host] = {}

    @property
    def shown(self) -> str:
        """What the log calls it."""
        return self._name.shown

    @property
    def is_down(self) -> bool:
        """Whether all mailboxes wait for one that probes."""
        return self._name.is_down or (self.host is not None and self.host.is_down)

    @property
    def is_name_down(self) -> bool:
        """Whether it is the name that is in trouble, and not the host."""
        return self._name.is_down

    def holds_back(self, mailbox_id: str, unreachable: bool) -> bool:
        """Whether the mailbox's next attempt waits for the host alone: because it is down, or,
        where it was ``unreachable`` to this mailbox just now, because it is full.
        """
        is_full = self.host is not None and self.host.places.keeps_out(mailbox_id)
        return self.is_down or (unreachable and is_full)

    @contextmanager
    def connecting(
        self,
        mailbox_id: str,
        wake: Callable[[], None],
        wait: Wait,
        run: Run = _at_once,
    ) -> Iterator[None]:
        """Wait for a slot and for a turn to log in; in the block the mailbox connects and logs in.

        ``wait`` waits so many seconds, or until ``wake`` is called; ``run`` does what may take
        long; what these raise goes through. What the block raises tells how the host is doing.
        """
        at_name = Turn(self._name, mailbox_id, wake)
        host: Host | None = None
        turn: Turn | None = None
        try:
            while (seconds := at_name.wait_seconds()) > 0:
                wait(seconds)
            host, turn = self._turn_at_host(at_name, mailbox_id, wake, wait, run)
            host.wait_for_login(wait)
            host.attempt_began(mailbox_id)
            yield
        except NameUnusable as error:
            self._name.record_failure(mailbox_id, str(error), at_name.line)
            raise
        except HostUnreachable as error:
            if host is not None and turn is not None:
                host.refused(mailbox_id, error, turn.line)
            if self._name.is_down:
                self._name.record_failure(mailbox_id, str(error), at_name.line)
            raise
        except (SessionLost, LoginRefused):
            self._was_reached(host, mailbox_id)
            raise
        else:
            self._was_reached(host, mailbox_id)
        finally:
            if host is not None and turn is not None:
                host.attempt_ended(mailbox_id)
                turn.end()
            at_name.end()

    def _was_reached(self, host: Host | None, mailbox_id: str) -> None:
        if host is not None:
            host.connected(mailbox_id)
        self._name.record_success()

    def _turn_at_host(
        self, at_name: Turn, mailbox_id: str, wake: Callable[[], None], wait: Wait, run: Run
    ) -> tuple[Host, Turn]:
        """A turn that has come; while it is waited for, the name may come to lead elsewhere.

        Whoever has to wait for a place keeps the way through the name free for those that have one.
        """
        turn: Turn | None = None
        try:
            while True:
                host = self._hosts.host_of(self, self._look_up(wake, wait, run))
                if turn is None or turn.gate is not host:
                    if turn is not None:
                        turn.end()
                    turn = Turn(host, mailbox_id, wake)
                look_up_at = self._hosts.clock() + FOUND_SECONDS
                while (left := look_up_at - self._hosts.clock()) > 0:
                    if (seconds := turn.wait_seconds()) <= 0:
                        return host, turn
                    if turn.line is host.places.line:
                        at_name.end()
                    wait(min(seconds, left))
        except BaseException:
            if turn is not None:
                turn.end()
            raise

    def _look_up(self, wake: Callable[[], None], wait: Wait, run: Run) -> list[Address]:
        """What the name leads to; one mailbox looks it up for all.

        Raises:
            NameUnusable: nowhere.
        """
        resolver, (name, port, _) = self._hosts.resolver, self.key
        if (found := resolver.at_hand(name, port)) is not None:
            return found
        slot = self._lookups.request(wake)
        try:
            while not slot.granted:
                wait(math.inf)
            found = resolver.at_hand(name, port)
        except BaseException:  # the one before found that it leads nowhere, or a stop
            slot.release()
            raise
        if found is not None:
            slot.release()
            return found
        return run(lambda: resolver.addresses(name, port), slot.release)

    def look_up(self) -> None:
        """Look the name up anew, however long it takes, where it is too long ago or was of no use.

        Raises:
            NameUnusable: it leads nowhere.
        """
        self._hosts.resolver.addresses(*self.key[:2])

    def session_began(self, mailbox_id: str, is_alive: Callable[[], bool]) -> None:
        """The mailbox logged in and stays; ``is_alive`` tells whether the server has closed."""
        if self.host is not None:
            self._sessions[mailbox_id] = self.host
            self.host.places.session_began(mailbox_id, is_alive)

    def session_ended(self, mailbox_id: str) -> None:
        """The mailbox's session is over, if it had one; it will come back."""
        if (host := self._sessions.pop(mailbox_id, None)) is not None:
            host.places.session_ended(mailbox_id)

    def give_up_place(self, mailbox_id: str) -> None:
        """The mailbox does not come back soon."""
        if self.host is not None:
            self.host.places.give_up(mailbox_id)


class Hosts:
    """The hosts that mailboxes lead to. Any thread may call."""

    def __init__(self, config: Config, clock: Clock, resolver: Resolver | None = None) -> None:
        self.config = config
        self.clock = clock
        self.resolver = resolver or Resolver(config.imap_allow_private_hosts, time.monotonic)
        self._lock = threading.Lock()
        self._endpoints: dict[EndpointKey, Endpoint] = {}
        self._by_address: dict[AddressKey, Host] = {}

    def at(self, mailbox: Mailbox) -> Endpoint:
        """Where a mailbox leads, the same for each that leads there.

        Rows that use it in the wrong way, TLS or STARTTLS, must not make it look down to others.
        """
        key = _key(mailbox)
        with self._lock:
            if key not in self._endpoints:
                self._endpoints[key] = Endpoint(self, key, f"{mailbox.host}:{mailbox.port}")
            return self._endpoints[key]

    def host_of(self, endpoint: Endpoint, addresses: list[Address]) -> Host:
        """The host at these addresses, to which the endpoint's name leads now.

        Hosts that have an address in common are one. So are those that one name leads to in turn,
        as long as no other name leads there: its addresses may change with each look-up.
        """
        _, port, starttls = endpoint.key
        keys = {(str(sockaddr[0]), port, starttls) for _, sockaddr in addresses}
        with self._lock:
            old = endpoint.host
            known = list(dict.fromkeys(self._by_address[k] for k in keys if k in self._by_address))
            if old is not None and (old in known or (not known and old.names == {endpoint.key})):
                host = old
            else:
                host = known[0] if known else Host(self.config, self.clock)
            if old is not None and old is not host:
                old.names -= {endpoint.key}
            for other in known:
                if other is not host:
                    self._merge(host, other)
            host.names |= {endpoint.key}
            endpoint.host, endpoint.addresses = host, keys
            self._by_address.update(dict.fromkeys(keys, host))
            return host

    def _merge(self, host: Host, other: Host) -> None:
        host.absorb(other)
        self._by_address = {k: host if h is other else h for k, h in self._by_address.items()}
        for endpoint in self._endpoints.values():
            if endpoint.host is other:
                endpoint.host = host

    def count_down(self) -> int:
        """How many hosts, or names of hosts, all their mailboxes wait for now."""
        with self._lock:
            hosts = set(self._by_address.values())
            names = [endpoint.is_name_down for endpoint in self._endpoints.values()]
        return sum(host.is_down for host in hosts) + sum(names)

    def forget_all_but(self, mailboxes: Iterable[Mailbox]) -> None:
        """Let go of the names that none of these mailboxes leads to, of addresses that none of
        the others led to last, and of the other mailboxes' places.
        """
        ids: defaultdict[EndpointKey, set[str]] = defaultdict(set)
        for mailbox in in_portions(mailboxes):
            ids[_key(mailbox)].add(mailbox.id)
        with self._lock:
            for key in self._endpoints.keys() - ids.keys():
                if (host := self._endpoints.pop(key).host) is not None:
                    host.names -= {key}
            led_to = {a for endpoint in self._endpoints.values() for a in endpoint.addresses}
            self._by_address = {k: h for k, h in self._by_address.items() if k in led_to}
            for host in set(self._by_address.values()):
                host.places.keep_only({i for name in host.names for i in ids[name]})
        self.resolver.forget_all_but({(name, port) for name, port, _ in ids})


def _key(mailbox: Mailbox) -> EndpointKey:
    return mailbox.host.lower(), mailbox.port, mailbox.starttls
