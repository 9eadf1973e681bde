"""What EXAMINE tells of mail that nobody announced; pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Finding(Enum):
    """What a snapshot tells beside what was announced."""

    NOTHING = auto()
    """No mail came but what was announced."""
    UNANNOUNCED = auto()
    """Mail came that was not announced."""
    UNKNOWN = auto()
    """Nothing is known: the first snapshot, new UIDs, a server that does not tell, or that says two
    things which contradict each other."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """INBOX as EXAMINE shows it (RFC 9051, section 6.3.3); None is what the server did not say."""

    exists: int
    uidnext: int | None
    uidvalidity: int | None
    is_plain: bool = True
    """False where news was mixed with the answer, so that the count may be wrong."""


@dataclass(slots=True)
class UidTracker:
    """How far a mailbox is known, so that mail which nobody announced is found by UIDNEXT.

    UIDNEXT grows by one or more with each message (RFC 9051, section 2.3.1.1), and while INBOX is
    selected each arrival raises EXISTS by one, and nothing but EXPUNGE lowers it. So UIDNEXT less
    the last one is never below the number of arrivals, the announced ones are never above it, and
    where the two are equal nothing came unannounced. Three things break this, and make a snapshot
    say nothing: a count that falls without EXPUNGE; a mail that came while EXAMINE was answered, is
    in its UIDNEXT and was announced all the same; and one that is not in its UIDNEXT and in its
    EXISTS. The last two show in the number of messages.
    """

    _last: Snapshot | None = None
    _count: int = 0
    _announced: int = 0
    _doubtful: bool = False
    _lowered: bool = False
    _unsure: bool = False
    grew: bool = False
    """Whether the last snapshot had more messages than were announced."""

    @property
    def count(self) -> int:
        """How many messages there are, as far as was told."""
        return self._count

    def announced(self, exists: int) -> bool:
        """The server announced ``* <exists> EXISTS``; False where that is only what EXPUNGE left,
        which Courier says after it.
        """
        is_what_is_left = self._lowered and exists == self._count and not self._unsure
        self._doubtful |= exists < self._count
        self._announced += max(0, exists - self._count)
        self._count, self._lowered = exists, False
        return not is_what_is_left

    def expunged(self, messages: int = 1) -> None:
        """The server announced so many EXPUNGE."""
        self._doubtful |= self._count < messages
        self._count = max(0, self._count - messages)
        self._lowered = True

    def lose_count(self) -> None:
        """More was announced than was counted."""
        self._doubtful = self._unsure = True

    def doubt_count(self) -> None:
        """What was said may have been an EXPUNGE."""
        self._unsure = True

    def examined(self, now: Snapshot) -> Finding:
        """Take the new snapshot; anything but `Finding.NOTHING` means that a scan is owed."""
        last, announced, doubtful = self._last, self._announced, self._doubtful
        count = self._count
        self.grew = last is not None and now.exists > count
        self._last, self._count, self._announced = now, now.exists, 0
        self._doubtful, self._lowered, self._unsure = False, False, not now.is_plain
        if doubtful or last is None or now.uidnext is None or last.uidnext is None:
            return Finding.UNKNOWN
        if now.uidvalidity is None or now.uidvalidity != last.uidvalidity:
            return Finding.UNKNOWN
        came = now.uidnext - last.uidnext
        if came > announced:
            return Finding.UNANNOUNCED
        if came == announced and now.exists > count:
            self._announced = now.exists - count  # the next UIDNEXT includes them
            return Finding.UNKNOWN
        if came < announced or (announced and now.exists != count):
            return Finding.UNKNOWN
        return Finding.NOTHING
