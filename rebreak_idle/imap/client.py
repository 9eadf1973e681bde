"""IMAPClient over our own transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imapclient

from .capabilities import union
from .events import Phase
from .network import NoTimeouts
from .transport import Transport

# Without the look for IDLE among the capabilities before each call, which `idle` has done: it takes
# 512 bytes of stack from every thread that waits.
_idle_check = imapclient.IMAPClient.idle_check.__wrapped__
LONGEST_POLL_SECONDS = 86400.0  # where IMAPClient would wait for ever


class Client(imapclient.IMAPClient):  # type: ignore[misc]  # imapclient has no types
    """IMAPClient over a `Transport`. Lines that its `idle_check` could not read never reach it."""

    def __init__(self, host: str, tls: bool, make_transport: Callable[[], Transport]) -> None:
        self._make_transport = make_transport
        super().__init__(host, ssl=tls)
        del self._make_transport
        self._imap.debug = 0

    @property
    def transport(self) -> Transport:
        transport: Transport = self._imap
        return transport

    def capabilities(self) -> Any:
        """Those of all responses since the login, where there are any."""
        answers = self.transport.untagged_responses
        if told := answers.get("CAPABILITY"):
            answers["CAPABILITY"] = union(told)
        return super().capabilities()

    def _create_IMAP4(self) -> Transport:  # noqa: N802  # IMAPClient's name
        return self._make_transport()

    def socket(self) -> NoTimeouts:
        return NoTimeouts()

    def _poll_socket(self, sock: object, timeout: float | None = None) -> bool:
        """Wait for the socket, and receive what came; whether `idle_check` is to read lines."""
        stream = self.transport.stream
        stream.restart_deadline()
        if not stream.poll(LONGEST_POLL_SECONDS if timeout is None else timeout):
            return False
        stream.receive_available()
        return True

    def idle(self) -> None:
        self.transport.events.idle_over = False
        self.transport.begin_phase(Phase.IDLE_BEGINS)
        try:
            super().idle()
        finally:
            self.transport.begin_phase(Phase.ANSWERS)
        self.transport.forget_answers()

    def idle_check(self, timeout: float | None = None) -> Any:
        self.transport.begin_phase(Phase.IDLING)
        try:
            return _idle_check(self, timeout)
        finally:
            self.transport.begin_phase(Phase.ANSWERS)

    def idle_done(self) -> Any:
        self.transport.begin_phase(Phase.IDLE_ENDS)
        try:
            return super().idle_done()
        finally:
            self.transport.begin_phase(Phase.ANSWERS)
