"""What the log tells of the fleet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ..limits import seconds_text
from ..log import RepeatFilter, sanitize
from ..log import fleet_logger as logger
from .share import Share
from .table import NoTable, TableUnusable


class News:
    """Each thing is said when it begins and ends, and once an hour while it lasts."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._alone = RepeatFilter(clock)
        self._unreachable = RepeatFilter(clock)
        self._namesake = RepeatFilter(clock)

    def alone(self, why: NoTable | TableUnusable, is_new: bool) -> None:
        """There is no fleet; ``is_new`` where there was one until now."""
        if is_new:
            self._alone.forget()
        if isinstance(why, NoTable):
            if self._alone.last != str(why):
                self._alone.should_log(str(why))
                logger.info("alone: %s, so every mailbox is watched here", why)
        elif self._alone.should_log(str(why)):
            logger.error(
                "alone: the table idle_instances cannot be used (%s), so every mailbox is watched "
                "here; tried again at the next refresh: see scripts/idle_instances.sql",
                sanitize(str(why)),
            )

    def joined(self, name: str, share: Share) -> None:
        self._alone.forget()
        others = ", ".join(sorted(share.names - {name})) or "nobody else yet"
        logger.info("joined as %s, with %s: %s", sanitize(name), sanitize(others), share)

    def changed(
        self, gone: Mapping[str, int], silent: Collection[str], came: Collection[str], share: Share
    ) -> None:
        """Instances went, each with the number of its mailboxes, or came."""
        for name in sorted(gone):
            is_silent = name in silent
            report = logger.warning if is_silent else logger.info
            report(
                "%s %s: its %d mailboxes are taken over; %s",
                sanitize(name),
                "fell silent" if is_silent else "left",
                gone[name],
                share,
            )
        for name in sorted(came):
            logger.info("%s came; %s", sanitize(name), share)

    def unreachable(self, text: str) -> None:
        if self._unreachable.should_log(text):
            logger.error(
                "cannot reach the table idle_instances: %s; what is watched here goes on, nothing "
                "is taken over and nothing released",
                sanitize(text),
            )

    def reachable(self) -> None:
        if self._unreachable.last:
            self._unreachable.forget()
            logger.info("the table idle_instances answers again")

    @staticmethod
    def given_up() -> None:
        logger.warning(
            "the others took this instance for dead, and its mailboxes over: it shares them again"
        )

    def namesake(self, name: str) -> None:
        if self._namesake.should_log(name):
            logger.error(
                "another daemon is called %s as well, and both watch the same mailboxes: "
                "give each an INSTANCE_NAME of its own",
                sanitize(name),
            )

    @staticmethod
    def stood_still(seconds: float) -> None:
        logger.warning(
            "this process stood still for %s: the others are observed anew, and each session here "
            "must answer before it counts",
            seconds_text(seconds),
        )

    @staticmethod
    def released(numbers: Mapping[str, int]) -> None:
        """So many mailboxes were left to each of these."""
        for name in sorted(numbers):
            logger.info("released %d mailboxes to %s", numbers[name], sanitize(name))
