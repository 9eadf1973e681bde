"""One mailbox, as a row of the connection table describes it, and how two readings differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .portions import in_portions


@dataclass(frozen=True, slots=True)
class Mailbox:
    """What the daemon needs to know to watch one mailbox.

    ``problem`` is empty, or the sentence that says why the row cannot be used. With ``oauth2`` the
    backend hands out access tokens, and ``stored_password`` is a hash of what the row has there: no
    more is wanted of it than to notice that it changed.
    """

    id: str
    user_id: str
    email: str
    host: str
    port: int
    username: str
    stored_password: str = field(repr=False)
    starttls: bool = False
    oauth2: bool = False
    problem: str = ""

    @property
    def name(self) -> str:
        """How the log calls it."""
        return self.email or self.id


@dataclass(frozen=True, slots=True)
class Difference:
    """Ids of mailboxes to start, to replace and to stop."""

    added: list[str]
    changed: list[str]
    removed: list[str]


def diff(running: Mapping[str, Mailbox], wanted: Iterable[Mailbox]) -> Difference:
    """What it takes to get from the mailboxes that run to those that are wanted."""
    target = {mailbox.id: mailbox for mailbox in wanted}
    return Difference(
        added=[id_ for id_ in target if id_ not in running],
        changed=[
            id_ for id_ in in_portions(target) if id_ in running and running[id_] != target[id_]
        ],
        removed=[id_ for id_ in running if id_ not in target],
    )
