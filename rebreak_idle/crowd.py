"""Who is tried at a host beside whom in the preflight, and what that tells of the host's limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .errors import HostUnreachable
from .host import Host
from .hosts import Endpoint


class _TurnedAway(NamedTuple):
    """A mailbox that was not let in: where, who was being tried there then, and whether anybody had
    been let in before.
    """

    endpoint: Endpoint
    beside: set[str]
    is_open: bool


class Crowd:
    """The mailboxes that are being tried. Any thread may call.

    A host that turns one away while it lets others in may have a limit: the one is tried again
    when nobody else is there. If that works the host is full, and from then on one is tried there
    at a time.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[str, Endpoint] = {}
        """Those whose turn it is, or who wait for it at the host."""
        self._trying: set[str] = set()
        self._let_in: dict[str, Endpoint] = {}
        """Who was connected, beside others."""
        self._turned_away: dict[str, _TurnedAway] = {}
        self._to_be_alone: dict[str, Endpoint] = {}
        self._full: set[Host | None] = set()

    @contextmanager
    def beside_others(self, endpoint: Endpoint, mailbox_id: str) -> Iterator[None]:
        """In the block the mailbox is tried, unless somebody there has to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_kept_out(endpoint))
            self._inside[mailbox_id] = endpoint
        try:
            yield
        finally:
            self._leave(mailbox_id)

    @contextmanager
    def alone(self, endpoint: Endpoint, mailbox_id: str, error: HostUnreachable) -> Iterator[None]:
        """In the block the mailbox is tried again that was turned away with ``error``.

        Raises:
            HostUnreachable: that error, where nobody was let in before it or beside it.
        """
        with self._changed:
            self._to_be_alone[mailbox_id] = endpoint
            self._changed.wait_for(lambda: not self._at(endpoint, self._inside))
            del self._to_be_alone[mailbox_id]
            self._inside[mailbox_id] = endpoint
        try:
            host, turned_away = endpoint.host, self._turned_away[mailbox_id]
            is_crowded = not turned_away.beside.isdisjoint(self._let_in)
            if host is None or not (turned_away.is_open or is_crowded):
                raise error
            yield
            if is_crowded and host not in self._full:
                self._full.add(host)
                host.log_full(self._most(endpoint), str(error), 0.0)
        finally:
            self._leave(mailbox_id)

    @contextmanager
    def trying(self, mailbox_id: str) -> Iterator[None]:
        """In the block the mailbox connects, and logs in."""
        with self._changed:
            self._trying.add(mailbox_id)
        try:
            yield
        except HostUnreachable:
            with self._changed:
                endpoint = self._inside[mailbox_id]
                others = self._trying.intersection(self._at(endpoint, self._inside))
                is_open = bool(self._at(endpoint, self._let_in))
                away = _TurnedAway(endpoint, others - {mailbox_id}, is_open)
                self._turned_away.setdefault(mailbox_id, away)
            raise
        finally:
            with self._changed:
                self._trying.discard(mailbox_id)

    def connected(self, mailbox_id: str) -> None:
        """The host lets the mailbox in."""
        with self._changed:
            if mailbox_id not in self._turned_away:
                self._let_in[mailbox_id] = self._inside[mailbox_id]

    def found_full(self) -> bool:
        """Whether a host takes fewer connections than there are mailboxes."""
        return bool(self._full)

    def _most(self, endpoint: Endpoint) -> int:
        """How many had been let in when the first was turned away."""
        there = self._at(endpoint, {i: away.endpoint for i, away in self._turned_away.items()})
        beside = (len(self._turned_away[each].beside & self._let_in.keys()) for each in there)
        return next(filter(None, beside))

    def _is_kept_out(self, endpoint: Endpoint) -> bool:
        is_full = endpoint.host is not None and endpoint.host in self._full
        inside = self._at(endpoint, self._inside) if is_full else []
        return bool(inside or self._at(endpoint, self._to_be_alone))

    def _at(self, endpoint: Endpoint, mailboxes: dict[str, Endpoint]) -> list[str]:
        """Which of them are tried at the same host, by whatever name."""
        return [
            mailbox_id
            for mailbox_id, other in mailboxes.items()
            if other is endpoint or (other.host is not None and other.host is endpoint.host)
        ]

    def _leave(self, mailbox_id: str) -> None:
        with self._changed:
            del self._inside[mailbox_id]
            self._changed.notify_all()
