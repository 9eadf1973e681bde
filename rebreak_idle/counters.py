"""What happened since the program began, of all mailboxes together."""

from __future__ import annotations

import threading

from .status import State, Trouble


class Counters:
    """Counts how sessions end. Any thread."""

    def __init__(self) -> None:
        self.reconnects = 0
        """Sessions that were lost, or did not come about, and are tried again."""
        self.refused_logins = 0
        self._lock = threading.Lock()

    def ended(self, trouble: Trouble | None, state: State) -> None:
        """A session ended by this trouble, and led to this state."""
        with self._lock:
            if trouble and trouble.refused:
                self.refused_logins += 1
            elif state is State.BACKING_OFF:
                self.reconnects += 1
