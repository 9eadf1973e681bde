"""What the backend is told of a mailbox: that it is parked, not watched, or watched again; pure but
for the clocks.

Nothing is kept on disk. After a start nobody knows what was told before, so that the first state of
a mailbox is told where it is bad, and not where it is good: docs/states.md says what the backend
makes of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from .mailbox import Mailbox
from .roster import UNWATCHED_SECONDS
from .status import State, Status, Who


class Told(StrEnum):
    """The states that the backend knows."""

    PARKED = "parked"
    UNWATCHED = "unwatched"
    WATCHED = "watched"


class Notice(NamedTuple):
    """One message to the backend; ``since`` is seconds since the epoch."""

    mailbox: Mailbox
    state: Told
    who: Who
    reason: str
    since: float

    @property
    def body(self) -> dict[str, object]:
        """What stands in the request."""
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="milliseconds")
        return {
            "connectionId": self.mailbox.id,
            "userId": self.mailbox.user_id,
            "state": self.state.value,
            "who": self.who.value,
            "reason": self.reason,
            "since": since.replace("+00:00", "Z"),
        }


class _Seen:
    """A mailbox that is not watched, or was not a moment ago."""

    def __init__(self, mailbox: Mailbox, unwatched_since: float) -> None:
        self.mailbox = mailbox
        self.unwatched_since = unwatched_since
        self.last: Notice | None = None
        """What was told of the row as it is."""
        self.bad_was_told = False


class Notices:
    """Decides what is news. Used by one thread.

    ``clock`` is `time.monotonic`; ``shown`` makes a text fit for others: one line, no secrets.
    """

    def __init__(
        self,
        shown: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._shown = shown
        self._clock = clock
        self._wall_clock = wall_clock
        self._seen: dict[str, _Seen] = {}

    @property
    def ids(self) -> set[str]:
        """The mailboxes of which something is kept."""
        return set(self._seen)

    def keep_only(self, ids: set[str]) -> None:
        """The rows of the others are gone."""
        for id_ in self._seen.keys() - ids:
            del self._seen[id_]

    def watched(self, mailbox: Mailbox) -> Notice | None:
        """It is watched; what the backend is to be told, if anything."""
        seen = self._seen.pop(mailbox.id, None)
        if seen is None or not seen.bad_was_told:
            return None
        return Notice(
            mailbox, Told.WATCHED, Who.NOBODY, "the mailbox is watched again", self._wall_clock()
        )

    def unwatched(self, mailbox: Mailbox, status: Status) -> Notice | None:
        """It is not; what the backend is to be told, if anything."""
        since = self._clock() if status.unwatched_since is None else status.unwatched_since
        seen = self._seen.setdefault(mailbox.id, _Seen(mailbox, since))
        seen.unwatched_since = min(seen.unwatched_since, since)
        if seen.mailbox != mailbox:  # what was told was of the row as it was
            seen.mailbox, seen.last = mailbox, None
        notice = self._notice(seen, status)
        if notice is None or (seen.last and seen.last[:3] == notice[:3]):
            return None
        seen.last, seen.bad_was_told = notice, True
        return notice

    def _notice(self, seen: _Seen, status: Status) -> Notice | None:
        now = self._clock()
        is_parked = status.state is State.PARKED
        if not is_parked and now - seen.unwatched_since < UNWATCHED_SECONDS:
            return None
        was_parked = seen.last is not None and seen.last.state is Told.PARKED
        if was_parked and status.state in (State.CONNECTING, State.STOPPED):
            return None  # it is tried once more, and parked as long as that does not work
        trouble = status.ended_by
        if is_parked and trouble is None:
            return None  # it was a moment ago
        return Notice(
            seen.mailbox,
            Told.PARKED if is_parked else Told.UNWATCHED,
            trouble.who if trouble else Who.NOBODY,
            self._shown(trouble.text if trouble else "no connection has come about yet"),
            self._wall_clock() - (status.for_seconds if is_parked else now - seen.unwatched_since),
        )
