"""Whose fault an error in a session is: the server's and the network's, or ours."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from imapclient.exceptions import IMAPClientError

from ..errors import RebreakError, SessionLost

PACKAGE = str(Path(__file__).parent.parent)


class Translated:
    """In its block, what IMAPClient, imaplib, sockets and TLS raise at what a server sends becomes
    the `SessionLost` that ``lost`` makes of the error and of what was being done.

    An error that was raised by our own code is a fault of ours, and stays what it is. This is no
    generator because the wait in IDLE is in such a block: it would take half a KiB a mailbox.
    """

    __slots__ = ("_doing", "_lost")

    def __init__(self, lost: Callable[[Exception, str], SessionLost], doing: str) -> None:
        self._lost = lost
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _frames: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, RebreakError):
            return
        if isinstance(error, OSError | IMAPClientError) or not _is_ours(error):
            raise self._lost(error, self._doing) from error


def _is_ours(error: Exception) -> bool:
    """Whether the innermost frame of the error is one of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(PACKAGE)
