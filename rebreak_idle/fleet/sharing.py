"""Whose a mailbox is, and when it may be left to its owner."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b

from .instance import Instance

# Rendezvous hashing over slots, so that a change of the view costs one hash for each slot and
# instance, not for each mailbox.
SLOTS = 4096
HASH_VERSION = "1"


def fleet_fingerprint(query: str, schema: str) -> str:
    """Instances with another query, schema or way of sharing are another fleet."""
    text = "\0".join((HASH_VERSION, query, schema))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _weight(name: str, slot: int) -> bytes:
    return blake2b(f"{name}\0{slot}".encode(), digest_size=16).digest()


def hash_of(mailbox_id: str) -> int:
    """A number of 64 bits for a mailbox: the same on every machine and Python. Modulo `SLOTS`
    it is the slot."""
    digest = blake2b(mailbox_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def owners_of_slots(names: Iterable[str]) -> list[str]:
    """For each slot the name with the highest hash of name and slot (rendezvous hashing): where
    an instance comes or goes, only the slots that it takes or had change hands.
    """
    ordered = sorted(names)
    return [max(ordered, key=lambda name: _weight(name, slot)) for slot in range(SLOTS)]


def view_text(names: Iterable[str]) -> str:
    """A view as it stands in the table."""
    return json.dumps(sorted(names), ensure_ascii=False)


class Sharing:
    """Whose each slot is in one view, and what the others say of theirs."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.view = view_text(self.names)
        self._owners = owners_of_slots(self.names)

    def owner_of(self, slot: int) -> str:
        """The instance that watches the mailboxes of a slot."""
        return self._owners[slot]

    def ready(self, others: Mapping[str, Instance], shares: Mapping[str, str]) -> frozenset[str]:
        """The instances to which their mailboxes may be left.

        Each has the same view and has settled in it, and its share is the same by its rows as by
        those that are known here (``shares``, fingerprints): one whose row it has not read yet it
        cannot watch. Their number would not do: where one was added and one removed, it is the
        same.
        """
        return frozenset(
            name
            for name, row in others.items()
            if name in self.names and self._has_settled(row) and row.share == shares[name]
        )

    def _has_settled(self, row: Instance) -> bool:
        return row.settled and row.view == self.view and not row.leaving
