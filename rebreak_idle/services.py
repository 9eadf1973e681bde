"""What all workers share, and what they use of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from .access_token import AccessToken
from .config import Config
from .counters import Counters
from .faults import UnexpectedErrors
from .hosts import Hosts
from .imap.responses import Line
from .imap.uids import Snapshot
from .mailbox import Mailbox
from .proof import Proof
from .scan.line import ScanLine
from .tokens import Tokens


class SessionLike(Protocol):
    """What the worker uses of a session: see `imap.session.Session`."""

    @property
    def offers_idle(self) -> bool: ...
    @property
    def idling(self) -> bool: ...
    @property
    def rest_seconds(self) -> float: ...
    def open(self, secret: str | AccessToken) -> None: ...
    def examine(self) -> Snapshot: ...
    def start_idle(self) -> bool: ...
    def wait(self, seconds: float) -> list[Line]: ...
    def end_idle(self) -> list[Line]: ...
    def take_events(self) -> list[Line]: ...
    def close(self, wait: bool = True) -> None: ...
    def is_alive(self) -> bool: ...
    def interrupt(self) -> None: ...
    def abort(self) -> None: ...


class ConnectorLike(Protocol):
    """What makes sessions: see `imap.connector.Connector`."""

    def session(self, mailbox: Mailbox, is_stopping: Callable[[], bool]) -> SessionLike: ...
    def forget_all_but(self, mailboxes: list[Mailbox]) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What all workers share."""

    config: Config
    connector: ConnectorLike
    decrypt: Callable[[str], str]
    connects: Executor
    """Threads for what goes deep: passwords, TLS handshakes, logins. The memory of a stack that
    went deep once stays touched, so a few threads do it for all."""
    scans: ScanLine
    tokens: Tokens
    hosts: Hosts
    unexpected_errors: UnexpectedErrors
    clock: Callable[[], float]
    """`time.monotonic`"""
    make_event: Callable[[], threading.Event] = threading.Event
    counters: Counters = field(default_factory=Counters)
    proof: Proof = field(default_factory=Proof)
    good_logins: set[int] = field(default_factory=set)
    """Hashes of the logins that worked since the program began: see `recovery.Recovery`."""

    def forget_all_but(self, mailboxes: list[Mailbox]) -> None:
        """Let go of what is kept of servers that none of these mailboxes leads to."""
        self.hosts.forget_all_but(mailboxes)
        self.connector.forget_all_but(mailboxes)
