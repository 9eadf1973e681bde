"""The server: its settings, its scripts, its connections."""

import contextlib
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.scripted_imap.connection import Connection
from tests.support.scripted_imap.mailbox import Mailbox
from tests.support.scripted_imap.providers import gmail_refuses
from tests.support.scripted_imap.wire import CutAfter

WAIT_SECONDS = 10.0  # how long a test waits for something that should happen at once
STEPS = (
    *("tls-handshake", "greeting", "capability", "id", "starttls", "login", "examine", "status"),
    *("noop", "idle", "done", "logout"),
)


Action = Callable[[Connection], object] | bytes


@dataclass
class Script:
    """What a test wants done at a step, and how many times more (None: always)."""

    act: Callable[[Any], Any]
    times: int | None
    glued: bool = False
    instead: bool = False


@dataclass(kw_only=True, eq=False)
class ScriptedImap:
    """An IMAP server on a loopback port: with implicit TLS, with STARTTLS, or neither.

    The settings may be changed while it runs.
    """

    mailboxes: Mailbox | Mapping[str, Mailbox] = field(kw_only=False)
    """One INBOX for everybody, or one for each user name."""
    tls_context: ssl.SSLContext | None = None
    """For TLS from the first byte."""
    starttls_context: ssl.SSLContext | None = None
    """For TLS by STARTTLS, which is then offered."""
    users: Mapping[str, str] = field(default_factory=lambda: {"user@example.org": "secret"})
    """User names and their passwords."""
    takes_token: Callable[[str, str], bool] = lambda _login, _token: False
    """Whether a token is good for a user name."""
    refuse_token: Callable[["Connection"], object] = gmail_refuses
    """What follows one that is not."""
    capabilities_before_login: Sequence[str] = ("IMAP4rev1", "ID", "SASL-IR", "AUTH=PLAIN")
    capabilities_after_login: Sequence[str] = ("IMAP4rev1", "ID", "LITERAL+", "IDLE")
    capability_code_in: Sequence[str] = ("greeting", "login")
    """The answers that carry [CAPABILITY …] of their own accord."""
    tell_uidnext: bool = True
    cut: CutAfter | None = None
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        self.connections: list[Connection] = []
        self.errors: list[Exception] = []
        self._scripts: dict[tuple[str, str], list[Script]] = defaultdict(list)
        self._changed = threading.Condition()
        self._stopping = False
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="scripted-imap", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if self.errors and kind is None:
            raise ExceptionGroup("actions of the scripted server failed", self.errors)

    def close(self) -> None:
        """End every connection and thread."""
        with self._changed:
            self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(WAIT_SECONDS)
        self._listener.close()
        for connection in self.connections:
            connection.stop()
        deadline = time.monotonic() + WAIT_SECONDS
        for connection in self.connections:
            connection.thread.join(max(0.0, deadline - time.monotonic()))
        alive = [each.thread.name for each in self.connections if each.thread.is_alive()]
        assert not alive, f"still running: {alive}"

    # Scripts

    def on(
        self,
        step: str,
        action: Action,
        *,
        times: int | None = None,
        glued: bool = False,
        instead: bool = False,
        when: str = "before",
    ) -> None:
        """At each `step`, or the next `times`, do `action` before the default answer.

        An action is bytes to send, or is called with the connection. `instead`, or an action that
        returns False, leaves the default answer out, and the connection's state as it was.
        `glued`: what the action sends goes out in one segment with the default answer.
        "idling" is the same as after "idle".
        """
        if step == "idling":
            step, when = "idle", "after"
        act = action if callable(action) else lambda connection: connection.send(action)
        self._add(step, when, Script(act, times, glued, instead))

    def after(
        self, step: str, action: Action, *, times: int | None = None, glued: bool = False
    ) -> None:
        """As `on`, but after the default answer."""
        self.on(step, action, times=times, glued=glued, when="after")

    def rewrite(
        self, step: str, change: Callable[[bytes], bytes], *, times: int | None = None
    ) -> None:
        """Pass the default answer of `step`, whole, through `change`, and send the result."""
        self._add(step, "change", Script(change, times))

    def off(self, step: str) -> None:
        """Forget what was scripted for `step`."""
        with self._changed:
            for when in ("before", "change", "after"):
                self._scripts.pop((step, when), None)

    def take(self, step: str, when: str) -> list[Script]:
        """Return the scripts that are due now, counted as used. For connections."""
        with self._changed:
            due = [each for each in self._scripts[step, when] if each.times != 0]
            for script in due:
                if script.times is not None:
                    script.times -= 1
            return due

    def _add(self, step: str, when: str, script: Script) -> None:
        assert step in STEPS, step
        with self._changed:
            self._scripts[step, when].append(script)

    # What can be seen and waited for

    @property
    def connects(self) -> int:
        return len(self.connections)

    @property
    def idling(self) -> list[Connection]:
        return [connection for connection in list(self.connections) if connection.idling]

    def wait_until(self, condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        """Wait for something to come true that a connection, a command or a state brings about."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), "did not come true in time"

    def wait_for_connections(self, n: int, seconds: float = WAIT_SECONDS) -> None:
        self.wait_until(lambda: self.connects >= n, seconds)

    def wait_for_idling(self, n: int = 1, seconds: float = WAIT_SECONDS) -> None:
        self.wait_until(lambda: len(self.idling) >= n, seconds)

    def notify(self) -> None:
        """Let `wait_until` look again. For connections."""
        with self._changed:
            self._changed.notify_all()

    def mailbox_of(self, login: str) -> Mailbox | None:
        if isinstance(self.mailboxes, Mailbox):
            return self.mailboxes
        return self.mailboxes.get(login)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if not self._stopping:
                    self.errors.append(error)
                return
            with self._changed:
                if self._stopping:
                    sock.close()
                    return
                connection = Connection(self, sock, len(self.connections) + 1)
                self.connections.append(connection)
                self._changed.notify_all()
            connection.thread.start()
