"""What an instance says of itself in the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instance:
    """A row of the table."""

    name: str
    incarnation: str
    """Another at each start of the program."""
    beat: int
    """Grows by one each time that it writes its row."""
    leaving: bool
    view: str
    """The instances that it counts as alive: see `view_text`."""
    settled: bool
    """Whether it watches what the view gives to it."""
    share: str
    """A fingerprint of the mailboxes that the view gives to it: see `share.Share`."""
    mailboxes: int
    """How many the view gives to it."""
    watched: int
    """How many of these it watches."""
