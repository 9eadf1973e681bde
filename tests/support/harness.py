"""One mailbox watched by the real worker in the test's own process, and the promise that it keeps.

`Watched` wires an `IdleWorker` as the program does: a real session to a scripted server, real
requests to a `JudgingBackend`, a real line of scans. Only the waits are short.
"""

import itertools
import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Self

from rebreak_idle import log as logs
from rebreak_idle.config import Config, load
from rebreak_idle.faults import UnexpectedErrors
from rebreak_idle.hosts import Hosts
from rebreak_idle.imap.connector import Connector
from rebreak_idle.imap.responses import Line
from rebreak_idle.mailbox import Mailbox as Row
from rebreak_idle.scan.client import ScanClient
from rebreak_idle.scan.line import ScanLine
from rebreak_idle.scan.token_client import TokenClient
from rebreak_idle.services import Services, SessionLike
from rebreak_idle.tokens import Tokens
from rebreak_idle.worker import IdleWorker
from tests.support.recording_backend import RecordingBackend, Request, Script, _Handler
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.waiting import wait_for

# Whatever is found within so long was not found by a time-out, a poll or a renewal: those are a
# minute and more away unless a test asks for shorter ones.
PROMPT_SECONDS = 8.0
STOP_SECONDS = 10.0


def quick_config(**settings: Any) -> Config:
    """A configuration with short waits; `settings` are fields of `Config`."""
    required = {
        "DATABASE_URL": "postgresql://localhost/none",
        "ADMIN_SECRET": ADMIN_SECRET,
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "IMAP_ALLOW_PRIVATE_HOSTS": "true",
    }
    return replace(load(required), **{**QUICK, **settings})


QUICK: dict[str, Any] = {
    "poll_interval_seconds": 0.2,
    "reconnect_initial_seconds": 0.05,
    "reconnect_max_seconds": 0.2,
    "imap_timeout_seconds": 5.0,
    "scan_timeout_seconds": 20.0,
}


class Scans:
    """A line of scan requests to one backend, and its threads."""

    def __init__(self, config: Config) -> None:
        self.client = ScanClient(config)
        self._threads = ThreadPoolExecutor(config.scan_concurrency, "scan")
        self.line = ScanLine(self.client, self._threads, time.monotonic)

    def close(self) -> None:
        """End what is under way, as the program does at its stop, and the threads."""
        self.line.stop()
        self.line.wait_for_end(0.0)
        self._threads.shutdown()
        self.client.close()


class JudgingBackend(RecordingBackend):
    """A recording backend that knows which scan requests it answered with 2xx, in full."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script)
        self.successes: list[Request] = []

    def serve(self, request: Request, handler: _Handler) -> None:
        statuses: list[int] = []
        handler.log_request = lambda code="-", size="-": statuses.append(int(code))  # type: ignore[method-assign]
        super().serve(request, handler)
        torn = handler.connection.fileno() < 0
        if request.is_scan and not torn and all(200 <= status < 300 for status in statuses):
            self.successes.append(request)


def unscanned(mailbox: Mailbox, backend: JudgingBackend) -> list[int]:
    """The UIDs of the mails that no successful scan request followed yet."""
    last = max((scan.arrived for scan in list(backend.successes)), default=0.0)
    return [mail.uid for mail in list(mailbox.arrivals) if mail.at >= last]


def assert_promise(
    mailbox: Mailbox, backend: JudgingBackend, within_seconds: float = PROMPT_SECONDS
) -> None:
    """Wait until mail arrived and each was followed by a successful scan request.

    Raises:
        AssertionError: one was not, within `within_seconds`.
    """

    def kept() -> bool:
        return bool(mailbox.arrivals) and not unscanned(mailbox, backend)

    try:
        wait_for(kept, within_seconds, "the scans")
    except AssertionError as error:
        raise AssertionError(f"{error} of the mails {unscanned(mailbox, backend)}") from None


def assert_stays(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Watch for so long that `condition` does not cease to hold: for what must *not* happen."""
    try:
        wait_for(lambda: not condition(), seconds, what)
    except AssertionError:
        return
    raise AssertionError(f"this did not last: {what}")


class _Lines(logging.Handler):
    """Keeps the log lines of one mailbox and of the backend, as the program writes them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._prefixes = (f"idle/{name}", "idle/backend")
        self.setFormatter(logs.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "prefix", "") in self._prefixes:
            self.lines += self.format(record).split("\n")


class _CountedSession:
    """A real session that counts how often the worker waits on it: a spin would show."""

    def __init__(self, session: SessionLike, count: Callable[[], None]) -> None:
        self._session = session
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def wait(self, seconds: float) -> list[Line]:
        self._count()
        return self._session.wait(seconds)


class _CountingConnector:
    """Makes real sessions and counts how often the worker waits on them."""

    def __init__(self, connector: Connector, count: Callable[[], None]) -> None:
        self._connector = connector
        self._count = count

    def session(self, row: Row, is_stopping: Callable[[], bool]) -> SessionLike:
        return _CountedSession(self._connector.session(row, is_stopping), self._count)

    def forget_all_but(self, rows: list[Row]) -> None:
        self._connector.forget_all_but(rows)


class Watched:
    """One mailbox on `server`, watched for the length of a `with` block.

    `settings` are fields of `Config` and override what `QUICK` says. `scans` are made where they
    are not given.
    """

    _numbers = itertools.count(1)

    def __init__(
        self,
        server: ScriptedImap,
        backend: RecordingBackend,
        context: ssl.SSLContext,
        *,
        login: str = "user@example.org",
        oauth2: bool = False,
        scans: Scans | None = None,
        **settings: Any,
    ) -> None:
        id_ = str(next(self._numbers))
        self.row = Row(
            id=id_,
            user_id=f"owner-of-{id_}",
            email=f"{id_}@example.org",
            host=server.host,
            port=server.port,
            username=login,
            stored_password=server.users.get(login, "secret"),
            starttls=server.starttls_context is not None,
            oauth2=oauth2,
        )
        self.waits = 0
        """How often the worker began to wait for the server in IDLE."""
        self.config = quick_config(backend_url=backend.url, **settings)
        self._handler = _Lines(self.row.name)
        self._context = context
        self._shared_scans = scans is not None
        self._scans = scans or Scans(self.config)
        self._connects = ThreadPoolExecutor(2, "connect")
        self.worker = IdleWorker(self.row, self._services(), lambda _worker: None)

    def _services(self) -> Services:
        connector = Connector(self._context, self.config)
        return Services(
            config=self.config,
            connector=_CountingConnector(connector, self._count_wait),
            decrypt=str,
            connects=self._connects,
            scans=self._scans.line,
            tokens=Tokens(
                TokenClient(self._scans.client, self.config, time.monotonic),
                self.config,
                time.monotonic,
            ),
            hosts=Hosts(self.config, time.monotonic),
            unexpected_errors=UnexpectedErrors(),
            clock=time.monotonic,
        )

    def __enter__(self) -> Self:
        logs.log.setLevel(logging.INFO)
        logs.log.addHandler(self._handler)
        self.worker.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.stop()
        finally:
            logs.log.removeHandler(self._handler)
        if kind is None:
            assert "unexpected error" not in self.text, self.text

    def stop(self) -> None:
        """Stop in order, and see that the threads end."""
        self.worker.ask_to_stop()
        self.worker.join(STOP_SECONDS)
        if not self._shared_scans:
            self._scans.close()
        assert not self.worker.is_alive(), f"did not stop: {self.text}"
        self._connects.shutdown()

    # What it does

    @property
    def lines(self) -> list[str]:
        """Its log so far."""
        return list(self._handler.lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def mark(self) -> int:
        """The present end of the log, for `wait_line` and `count`."""
        return len(self._handler.lines)

    def count(self, part: str, after: int = 0) -> int:
        """How many lines have `part` in them."""
        return sum(part in line for line in self.lines[after:])

    def wait_line(self, part: str, after: int = 0, seconds: float = PROMPT_SECONDS) -> str:
        """The first line, from `after` on, that has `part` in it; waited for."""
        self._wait_for(lambda: self.count(part, after), seconds, f"a line with {part!r}")
        return next(line for line in self.lines[after:] if part in line)

    def wait_listening(self, since: int = 0, seconds: float = PROMPT_SECONDS) -> int:
        """Wait until it listens in IDLE, having done all else; returns `waits`.

        With `since` it must have begun to wait once more after that many waits.
        """
        self._wait_for(lambda: self.waits > since, seconds, "the worker listening in IDLE")
        return self.waits

    def _wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        try:
            wait_for(condition, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the log is:\n{self.text}") from None

    def _count_wait(self) -> None:
        self.waits += 1
