"""How often a mailbox's IDLE is renewed: more often where the server fails to announce mail."""

from __future__ import annotations

# Some servers offer IDLE and never announce, or stop after a while; the mail is then found by
# UIDNEXT at the renewal, and the next ones come after 5 and then every 2 minutes.
SHORTENED_SECONDS = (300.0, 120.0)


class Renewal:
    """The interval of one mailbox, ``normal_seconds`` as long as its server announces mail."""

    def __init__(self, normal_seconds: float) -> None:
        self._intervals = (normal_seconds, *(min(normal_seconds, s) for s in SHORTENED_SECONDS))
        self._step = 0

    @property
    def interval_seconds(self) -> float:
        return self._intervals[self._step]

    def unannounced(self) -> None:
        """Mail was found that the server had not announced."""
        self._step = min(self._step + 1, len(self._intervals) - 1)

    def announced(self) -> bool:
        """The server announced mail; True when it had failed to before."""
        was_shortened, self._step = self._step > 0, 0
        return was_shortened
