"""How the server of one mailbox takes IDLE: whether it is tried, and how soon again."""

from __future__ import annotations

from collections.abc import Callable

from .config import Config
from .errors import IdleUnanswered
from .limits import interval_text
from .log import Logger, RepeatFilter

# A server that ends IDLE by itself within ten seconds, three times in a row, is left alone for a
# poll interval: it would be asked thousands of times a second.
SHORT_IDLE_SECONDS = 10.0
SHORT_IDLES = 3
# One session may be lost by chance at the very moment when IDLE is to begin.
UNANSWERED_IDLES = 2


class IdleTries:
    """Outlives the sessions of its mailbox. Used by the mailbox's thread."""

    def __init__(self, config: Config, logger: Logger, clock: Callable[[], float]) -> None:
        self._logger = logger
        self._clock = clock
        self._poll_seconds = config.poll_interval_seconds
        self._renew_seconds = config.idle_renew_seconds
        self._polling_notes = RepeatFilter(clock)
        self._short_notes = RepeatFilter(clock)
        self._short = 0
        self._unanswered = 0
        self._next_at = clock()

    def begin(self, start: Callable[[], bool]) -> bool:
        """``start`` IDLE; False where it does not begin, or is not tried because the server gave no
        answer to it, in two sessions in a row and within the time of a renewal.
        """
        if self._clock() < self._next_at:
            return False
        try:
            idling = start()
        except IdleUnanswered:
            self._unanswered += 1
            if self._unanswered >= UNANSWERED_IDLES:
                self._next_at = self._clock() + self._renew_seconds
            raise
        self._unanswered = 0
        return idling

    def pause_after(self, renewed: bool, lasted_seconds: float) -> float:
        """How long to wait after an IDLE that was ``renewed``, or that the server ended by itself:
        one that keeps doing so is not asked in a rush.
        """
        short = not renewed and lasted_seconds < SHORT_IDLE_SECONDS
        self._short = self._short + 1 if short else 0
        if self._short < SHORT_IDLES:
            return 0.0
        if self._short_notes.should_log("short"):
            self._logger.warning(
                "the server ends IDLE at once, again and again: next IDLE in %s",
                interval_text(self._poll_seconds),
            )
        return self._poll_seconds

    def note_polling(self) -> None:
        """The server is asked for mail, because there is no IDLE."""
        is_mute = self._unanswered >= UNANSWERED_IDLES
        if not self._polling_notes.should_log("mute" if is_mute else "none"):
            return
        interval = interval_text(self._poll_seconds)
        if is_mute:
            self._logger.info("the server does not answer IDLE: asking every %s", interval)
        else:
            self._logger.info("the server has no IDLE: asking every %s", interval)
