"""A backend that hands out access tokens, and a server that takes these and no others."""

import itertools
import random
import string
import threading
import time

from tests.support.recording_backend import Behaviour, RecordingBackend, Request, answer
from tests.support.scripted_imap import ScriptedImap

LETTERS = string.ascii_letters + string.digits + "-_"


class TokenMint:
    """Hands out tokens that live `life_seconds`, and knows which are still good.

    `problems` are behaviours that answer the next requests instead.
    """

    def __init__(self, life_seconds: float = 3599.0) -> None:
        self.life_seconds = life_seconds
        self.problems: list[Behaviour] = []
        self.more: dict[str, object] = {}
        """What stands beside the token in the answer."""
        self.ends: dict[str, float] = {}
        """When each token that was handed out runs out, by `time.monotonic`."""
        self.made: list[str] = []
        """All of them, the newest last."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def serve(self, backend: RecordingBackend, server: ScriptedImap) -> None:
        """Have the backend hand out the tokens, and the server take them."""
        backend.tokens = self.behaviour
        server.takes_token = lambda _login, token: self.is_good(token)
        server.capabilities_before_login = ("IMAP4rev1", "SASL-IR", "AUTH=XOAUTH2")

    def behaviour(self, request: Request) -> Behaviour:
        with self._lock:
            if self.problems:
                return self.problems.pop(0)
            token = self.make()
        body = {"accessToken": token, "expiresIn": self.life_seconds, **self.more}
        return answer(200, body)

    def make(self) -> str:
        """A token as Google's look, that says `canary`."""
        noise = "".join(random.choices(LETTERS, k=200))
        token = f"ya29.canary-{next(self._numbers)}-{noise}"
        self.made.append(token)
        self.ends[token] = time.monotonic() + self.life_seconds
        return token

    def is_good(self, token: str) -> bool:
        return time.monotonic() < self.ends.get(token, 0.0)

    def revoke_all(self) -> None:
        """What was handed out is good no more."""
        self.ends.clear()
