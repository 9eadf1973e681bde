"""The instances, for people: in the preflight, and on SIGUSR1."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import RebreakError
from ..limits import seconds_text
from ..log import fleet_logger as logger
from ..log import sanitize
from .instance import Instance
from .table import FleetTable, NoTable


def show_table(table: FleetTable) -> None:
    """Log what the table says; it is only read."""
    try:
        rows = table.show()
    except NoTable as error:
        logger.info("%s: a daemon is alone, and watches every mailbox", error)
    except RebreakError as error:
        logger.error("the table idle_instances cannot be used: %s", sanitize(str(error)))
    else:
        if not rows:
            logger.info("no instances: a daemon would be the first")
        for name, mailboxes, watched, settled, version, silent_seconds in rows:
            logger.info(
                "instance %s; version %s, last beat %s ago",
                _described(name, mailboxes, watched, settled),
                sanitize(version),
                seconds_text(round(silent_seconds)),
            )


def show_instances(instances: Iterable[Instance], own_name: str) -> None:
    """Log these instances, as they said of themselves in their last beats."""
    for each in sorted(instances, key=lambda instance: instance.name):
        described = _described(each.name, each.mailboxes, each.watched, each.settled)
        logger.info("instance %s%s", described, " (this one)" if each.name == own_name else "")


def _described(name: str, mailboxes: int, watched: int, settled: bool) -> str:
    state = "settled" if settled else "not settled yet"
    return f"{sanitize(name)}: {mailboxes} mailboxes, {watched} watched, {state}"
