"""Which of the mailboxes are this instance's, as it sees the fleet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from .instance import Instance
from .sharing import SLOTS, Sharing, hash_of, view_text


class Share:
    """The mailboxes and the view. Without a view every mailbox is this instance's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sharing: Sharing | None = None
        self._hashes: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        """How many mailboxes each instance has in this view."""
        self.fingerprints: defaultdict[str, str] = defaultdict(str)
        """A fingerprint of these mailboxes, in whatever order they came: the sum of their hashes,
        modulo 2^64, in hex; empty where there are none."""

    @property
    def is_alone(self) -> bool:
        return self._sharing is None

    @property
    def names(self) -> frozenset[str]:
        """The instances of the view."""
        return self._sharing.names if self._sharing else frozenset({self._name})

    @property
    def view(self) -> str:
        return self._sharing.view if self._sharing else view_text(self.names)

    @property
    def mine(self) -> int:
        return self.counts[self._name]

    def __str__(self) -> str:
        return f"{self.mine} of {len(self._hashes)} mailboxes are this one's"

    def is_mine(self, mailbox_id: str) -> bool:
        return self._owner_of(mailbox_id) == self._name

    def adopt(self, names: frozenset[str] | None) -> None:
        """Share with these from now on; None: with nobody."""
        self._sharing = Sharing(names) if names is not None else None
        self._count()

    def set_mailboxes(self, mailbox_ids: Iterable[str]) -> None:
        self._hashes = {id_: self._hash_of(id_) for id_ in mailbox_ids}
        self._count()

    def released(self, watched: Iterable[str], others: Mapping[str, Instance]) -> dict[str, str]:
        """Those of the mailboxes that may be left to their owners, and to whom."""
        ready = self._sharing.ready(others, self.fingerprints) if self._sharing else frozenset()
        owners = {id_: self._owner_of(id_) for id_ in watched} if ready else {}
        return {id_: owner for id_, owner in owners.items() if owner in ready}

    def _owner_of(self, mailbox_id: str) -> str:
        if self._sharing is None:
            return self._name
        return self._sharing.owner_of(self._hash_of(mailbox_id) % SLOTS)

    def _hash_of(self, mailbox_id: str) -> int:
        known = self._hashes.get(mailbox_id)
        return hash_of(mailbox_id) if known is None else known

    def _count(self) -> None:
        self.counts = Counter()
        sums: dict[str, int] = defaultdict(int)
        for id_, number in self._hashes.items():
            owner = self._owner_of(id_)
            self.counts[owner] += 1
            sums[owner] += number
        texts = {name: f"{total % 2**64:016x}" for name, total in sums.items()}
        self.fingerprints = defaultdict(str, texts)
