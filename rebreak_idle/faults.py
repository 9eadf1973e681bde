"""Faults of our own: told with their traceback once for each kind, in one line afterwards."""

from __future__ import annotations

import traceback

from .log import Logger, sanitize


class UnexpectedErrors:
    """Logs errors that nobody foresaw. Any thread may call."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, int | None]] = set()

    def log(self, logger: Logger, error: Exception) -> None:
        """Log an error that is being handled. Its kind is its class and where it was raised."""
        name = error.__class__.__name__
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = (name, where.filename, where.lineno)
        if kind in self._seen:
            logger.error("unexpected error: %s (as before): %s", name, sanitize(str(error)))
            return
        self._seen.add(kind)
        logger.exception("unexpected error:")
