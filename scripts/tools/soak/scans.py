"""The backend's answers."""

from __future__ import annotations

import random
from typing import Any

from scripts.tools.soak.accounts import Account
from tests.support.recording_backend import Behaviour, Request, answer

LONGEST_SCAN_SECONDS = 0.3


class Scans:
    """The script of the backend: keeps the accounts' books, and fails when it is told to."""

    def __init__(self, rng: random.Random) -> None:
        self.by_id: dict[str, Account] = {}
        self.failing: Behaviour | None = None
        self.failed = 0
        self._rng = rng

    def __call__(self, request: Request) -> Behaviour:
        account = self.by_id.get(request.connection_id or "")
        if account is None:
            return answer(404, {"error": "no such connection"})  # its row is gone
        if self.failing is not None:
            self.failed += 1
            return self.failing
        covers = account.arrived_by(request.arrived)
        seconds = LONGEST_SCAN_SECONDS * self._rng.random() ** 2

        def scan(handler: Any) -> None:
            handler.server.backend.closing.wait(seconds)
            answer(200, {"scanned": covers, "blocked": 0})(handler)
            account.cover(covers, request.arrived)

        return scan
