"""Which of the mailboxes are this instance's, as it sees the fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .instance import Instance
from .sharing import Sharing, slot_of, view_text


class Share:
    """The mailboxes and the view. Without a view every mailbox is this instance's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sharing: Sharing | None = None
        self._slots: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        """How many mailboxes each instance has in this view."""

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
        return f"{self.mine} of {len(self._slots)} mailboxes are watched here"

    def is_mine(self, mailbox_id: str) -> bool:
        return self._owner_of(mailbox_id) == self._name

    def adopt(self, names: frozenset[str] | None) -> None:
        """Share with these from now on; None: with nobody."""
        self._sharing = Sharing(names) if names is not None else None
        self._count()

    def set_mailboxes(self, mailbox_ids: Iterable[str]) -> None:
        self._slots = {id_: self._slot_of(id_) for id_ in mailbox_ids}
        self._count()

    def released(self, watched: Iterable[str], others: Mapping[str, Instance]) -> dict[str, str]:
        """Those of the mailboxes that may be left to their owners, and to whom."""
        ready = self._sharing.ready(others, self.counts) if self._sharing else frozenset()
        owners = {id_: self._owner_of(id_) for id_ in watched} if ready else {}
        return {id_: owner for id_, owner in owners.items() if owner in ready}

    def _owner_of(self, mailbox_id: str) -> str:
        if self._sharing is None:
            return self._name
        return self._sharing.owner_of(self._slot_of(mailbox_id))

    def _slot_of(self, mailbox_id: str) -> int:
        slot = self._slots.get(mailbox_id)
        return slot_of(mailbox_id) if slot is None else slot

    def _count(self) -> None:
        self.counts = Counter(map(self._owner_of, self._slots))
