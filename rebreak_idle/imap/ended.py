"""Who ended a session: the server by its own word, or whatever broke the connection; pure."""

from __future__ import annotations

import re

from imapclient.exceptions import IMAPClientError

from ..errors import NotConnected, SessionEnded, SessionLost
from .events import IdleEvents

_REFUSAL = re.compile(rb"(?:[A-Za-z0-9]+ +)?(?:NO|BAD)\b", re.IGNORECASE)
# Outlook after a login that succeeded: another account's token, a scope that is missing, IMAP that
# is switched off, or trouble on their side. https://github.com/mscdex/node-imap/issues/523,
# https://learn.microsoft.com/answers/questions/940540
_NOT_CONNECTED = re.compile(rb"authenticated but not connected", re.IGNORECASE)


def kind_of_loss(events: IdleEvents, error: Exception | None = None) -> type[SessionLost]:
    """The error that a session ends with, by what the server said last."""
    if isinstance(error, IMAPClientError) and _REFUSAL.match(events.last) and not events.bye:
        return NotConnected if _NOT_CONNECTED.search(events.last) else SessionEnded
    return SessionEnded if events.bye else SessionLost
