"""The thread of one mailbox: its states and its loop."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import NoReturn, Protocol

from .backoff import Backoff, interval_text, seconds_text
from .crew import Crew
from .errors import (
    HostUnreachable,
    Interrupted,
    LoginRefused,
    MailboxUnusable,
    PasswordUnreadable,
    SessionLost,
)
from .gate import Gate, Ticket
from .imap.renewal import Renewal
from .imap.responses import Kind, Line
from .imap.uids import Finding, Snapshot, UidTracker
from .limits import Hosts
from .log import Logger, RepeatFilter, sanitize
from .mailbox import Mailbox
from .scan.pending import CATCH_UP, EXISTS, POLL, PendingScan
from .scan.scanner import BackendLike, Scanner
from .turns import last_turn
from .wake import Stop

# A session that held this long counts as having worked.
WORKED_SECONDS = 60.0
# From connect to EXAMINE no server is asked for more answers than this, each with its time-out.
COMMANDS_IN_A_ROW = 12
PROGRESS_SLACK_SECONDS = 60.0
AUTH_RETRY_MAX_SECONDS = 6 * 3600.0
EXACT_ALWAYS = 2**31
# Long enough to stand for ever, short enough for any clock.
UNTIL_STOPPED_SECONDS = 366 * 86400.0
# A server that ends IDLE by itself within ten seconds, three times in a row, is left alone for a
# poll interval: it would be asked thousands of times a second.
SHORT_IDLE_SECONDS = 10.0
SHORT_IDLES = 3


class State(StrEnum):
    """What a mailbox is doing."""

    CONNECTING = "CONNECTING"
    IDLING = "IDLING"
    SCANNING = "SCANNING"
    POLLING = "POLLING"
    BACKING_OFF = "BACKING_OFF"
    PARKED = "PARKED"
    STOPPED = "STOPPED"


class _Remedy(Enum):
    """What the end of a session asks for."""

    RECONNECT = auto()
    HOST = auto()
    """As RECONNECT, unless the host is down for all its mailboxes."""
    CREDENTIALS = auto()
    ROW = auto()


@dataclass(frozen=True, slots=True)
class _End:
    text: str
    remedy: _Remedy


@dataclass(frozen=True, slots=True)
class Status:
    """How one mailbox is doing, for whoever asks; times in seconds."""

    state: State
    for_seconds: float
    owes: bool
    next_try_seconds: float | None
    late_seconds: float
    """How long its thread's next step is overdue; negative when it is not."""
    trouble: str


class SessionLike(Protocol):
    """What the worker uses of a session: see `imap.Session`."""

    @property
    def offers_idle(self) -> bool: ...
    @property
    def idling(self) -> bool: ...
    def connect(self) -> None: ...
    def login(self, password: str) -> None: ...
    def open(self, password: str) -> None: ...
    def examine(self) -> Snapshot: ...
    def start_idle(self) -> bool: ...
    def wait(self, seconds: float) -> list[Line]: ...
    def end_idle(self) -> list[Line]: ...
    def take_events(self) -> list[Line]: ...
    def close(self) -> None: ...
    def cut(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """The intervals of the contract that a worker keeps, in seconds."""

    idle_renew_seconds: float
    idle_check_seconds: float
    poll_interval_seconds: float
    reconnect_initial_seconds: float
    reconnect_max_seconds: float
    auth_retry_seconds: float
    imap_timeout_seconds: float
    scan_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Services:
    """What all workers share."""

    connect: Callable[[Mailbox, Stop], SessionLike]
    open_password: Callable[[str], str]
    backend: BackendLike
    crew: Crew
    scans: Gate
    hosts: Hosts
    timing: Timing
    clock: Callable[[], float]
    """`time.monotonic`"""


class IdleWorker(threading.Thread):
    """Watches one mailbox until it is told to stop.

    ``debt`` is what its predecessor still owed, if it had one. ``ended`` is called, on this
    thread, as the last thing it does.
    """

    # Slots, because a dict of so many names costs a kilobyte more.
    __slots__ = (
        "_attempt", "_before_scan", "_cut_at", "_cut_short", "_ended", "_host", "_host_ticket",
        "_logger", "_login_retries", "_next_step_by", "_next_try_at", "_opened_at", "_pollings",
        "_reconnects", "_refusals", "_renewal", "_scanner", "_session", "_shared", "_state_since",
        "_troubles", "_watermark", "mailbox", "state", "stop",
    )  # fmt: skip

    def __init__(
        self,
        mailbox: Mailbox,
        shared: Services,
        stop: Stop,
        ended: Callable[[IdleWorker], None],
        debt: PendingScan | None = None,
    ) -> None:
        super().__init__(name=f"idle-{mailbox.id}", daemon=True)
        self.mailbox = mailbox
        self.stop = stop
        self.state = self._before_scan = State.CONNECTING
        self._shared = shared
        self._ended = ended
        self._logger = Logger(mailbox.name)
        self._watermark = UidTracker()
        self._session: SessionLike | None = None
        self._host = shared.hosts.at(mailbox.host, mailbox.port, mailbox.starttls)
        self._host_ticket: Ticket | None = None
        self._scanner = Scanner(
            mailbox,
            debt or PendingScan(),
            shared.backend,
            shared.scans,
            self._logger,
            shared.clock,
            stop,
            self._scanning,
        )
        self._attempt = 0
        self._refusals = 0
        self._opened_at = math.inf
        self._cut_short = 0
        self._troubles = RepeatFilter(shared.clock)
        self._pollings = RepeatFilter(shared.clock)
        self._next_step_by = math.inf
        self._cut_at = -math.inf
        self._next_try_at = -math.inf
        self._state_since = shared.clock()
        self._renewal = Renewal(shared.timing.idle_renew_seconds)
        timing = shared.timing
        self._reconnects = Backoff(
            timing.reconnect_initial_seconds, timing.reconnect_max_seconds, random.random
        )
        self._login_retries = Backoff(
            timing.auth_retry_seconds,
            max(timing.auth_retry_seconds, AUTH_RETRY_MAX_SECONDS),
            random.random,
            exact=EXACT_ALWAYS,
        )

    @property
    def debt(self) -> PendingScan:
        """What the mailbox owes; for the successor, once this thread has ended."""
        return self._scanner.debt

    # From other threads

    def ask_to_stop(self) -> None:
        """Wake the thread in whatever wait it is."""
        self.stop.set()
        self._scanner.wake()
        if (ticket := self._host_ticket) is not None:
            ticket.wake()

    def cut(self) -> None:
        """Free the thread if it hangs in its session."""
        self._cut_at = self._shared.clock()
        if (session := self._session) is not None:
            session.cut()

    def status(self) -> Status:
        """How it is doing. Any thread may call; what it reads may be a moment old."""
        now = self._shared.clock()
        next_try = max(self._next_try_at, self._scanner.not_before)
        return Status(
            state=self.state,
            for_seconds=now - self._state_since,
            owes=self.debt.owed,
            next_try_seconds=next_try - now if next_try > now else None,
            late_seconds=now - self._next_step_by,
            trouble=self._troubles.last or self._scanner.troubles.last,
        )

    def is_overdue(self) -> bool:
        """Whether the thread should long have made its next step, a scan's length included, and
        was not cut just now.
        """
        slack = self._shared.timing.scan_timeout_seconds + PROGRESS_SLACK_SECONDS
        return self._shared.clock() > max(self._next_step_by, self._cut_at) + slack

    # On its own thread

    def run(self) -> None:
        try:
            with last_turn, suppress(Interrupted):
                while not self.stop.is_set():
                    self._one_round()
        finally:
            self._scanner.leave_line()
            self._change_state(State.STOPPED)
            self._ended(self)

    def _one_round(self) -> None:
        """One session, and the wait that its end asks for."""
        try:
            self._recover(self._run_session())
        except Interrupted:
            raise
        except Exception:  # the guard: a thread never dies silently
            self._logger.exception("unexpected error outside of a session:")
            self.stop.wait(self._shared.timing.reconnect_max_seconds)

    def _run_session(self) -> _End:
        """A session from connect to end; what ended it, without the frames that an error holds."""
        self._attempt += 1
        self._opened_at = math.inf
        try:
            self._pay_at_once()
            self._watch(self._connect())
        except (PasswordUnreadable, MailboxUnusable) as error:
            return _End(str(error), _Remedy.ROW)
        except LoginRefused as error:
            return _End(str(error), _Remedy.CREDENTIALS)
        except HostUnreachable as error:
            return _End(str(error), _Remedy.HOST)
        except SessionLost as error:
            return _End(str(error), _Remedy.RECONNECT)
        except Interrupted:
            raise
        except Exception:  # one mailbox's trouble touches no other
            self._logger.exception("unexpected error:")
            return _End("the session is given up", _Remedy.RECONNECT)
        finally:
            self._close()

    def _recover(self, end: _End) -> None:
        if end.remedy is _Remedy.HOST and self._host.is_down:
            self._attempt -= 1  # it was the host's failure; the next try waits in the host's line
            self._change_state(State.BACKING_OFF)
        elif end.remedy in (_Remedy.RECONNECT, _Remedy.HOST):
            self._back_off(end)
        else:
            self._park(end)

    def _connect(self) -> SessionLike:
        mailbox = self.mailbox
        if mailbox.problem:
            raise MailboxUnusable(f"the row cannot be used: {mailbox.problem}")
        do, open_password = self._shared.crew.do, self._shared.open_password
        password = do(lambda: open_password(mailbox.stored_password))
        with self._host.admission(self) as probe:
            try:
                session = do(lambda: self._open(password))
            except HostUnreachable as error:
                self._host.failed(mailbox.id, str(error), probe)
                raise
            except (SessionLost, LoginRefused):
                self._host.worked()
                raise
            self._host.worked()
        self._refusals = 0
        self._troubles.forget()
        return session

    def _open(self, password: str) -> SessionLike:
        self._change_state(State.CONNECTING)
        self._expect_progress(COMMANDS_IN_A_ROW * self._shared.timing.imap_timeout_seconds)
        self._session = session = self._shared.connect(self.mailbox, self.stop)
        session.open(password)
        return session

    def wait_for_place(self, ticket: Ticket) -> bool:
        """Wait for a place at the host; False when a scan is to be paid first. On its own thread.

        Raises:
            Interrupted: the stop came first.
        """
        self._expect_progress(math.inf)
        self._host_ticket = ticket
        try:
            self.stop.check()
            granted = ticket.wait(max(1.0, self._scanner.next_try(math.inf) - self._shared.clock()))
            self.stop.check()
            return granted
        finally:
            self._host_ticket = None

    def pause(self, seconds: float) -> None:
        """Wait, and do nothing else. On its own thread.

        Raises:
            Interrupted: the stop came first.
        """
        if self.stop.wait(seconds):
            raise Interrupted("stopping")

    def _close(self) -> None:
        """Leave the session; what it had still heard counts."""
        session, self._session = self._session, None
        if session is not None:
            self._hear(session.take_events())
            if self.stop.is_set():
                session.close()  # all at once where the daemon stops
            else:
                self._shared.crew.do(session.close)

    def _watch(self, session: SessionLike) -> NoReturn:
        """Watch INBOX for as long as the session lasts."""
        do = self._shared.crew.do
        _, idling = do(lambda: self._examine_and_idle(session))
        self._logger.info("connected (%s:%d)", self.mailbox.host, self.mailbox.port)
        self._opened_at = self._shared.clock()
        while True:
            if idling:
                idling = self._idle_once(session)
            else:
                self._poll(session)
                idling = do(lambda: self._start_idle(session))

    def _poll(self, session: SessionLike) -> None:
        """Ask for new mail at intervals, until it is time to try IDLE again."""
        timing = self._shared.timing
        self._change_state(State.POLLING)
        if self._pollings.should_log("no IDLE"):
            self._logger.info(
                "the server has no IDLE: asking every %s",
                interval_text(timing.poll_interval_seconds),
            )
        until = self._shared.clock() + timing.idle_renew_seconds
        while self._shared.clock() < until:
            self.pay_for(timing.poll_interval_seconds)
            self._shared.crew.do(lambda: self._take_snapshot(session, POLL))

    def _idle_once(self, session: SessionLike) -> bool:
        """One IDLE, to its renewal or to where the server ends it; INBOX is examined after it.

        Returns whether the next IDLE has begun.
        """
        do = self._shared.crew.do
        self._change_state(State.IDLING)
        interval = self._renewal.interval_seconds
        began_at = self._shared.clock()
        self._listen(session, began_at + interval)
        if renewed := session.idling:
            self._logger.info("idle renewing (%s threshold)", interval_text(interval))
            self._cut_short = 0
        else:
            self._after_cut_short(self._shared.clock() - began_at)
        self._expect_progress(COMMANDS_IN_A_ROW * self._shared.timing.imap_timeout_seconds)
        self._hear(do(session.end_idle))
        if self.debt.owed:
            self._pay_at_once()
            renewed = False  # what came during the scan could not be announced
        finding, idling = do(lambda: self._examine_and_idle(session))
        if finding is Finding.UNANNOUNCED and renewed:
            self._renewal.unannounced()
            self._logger.warning(
                "the server did not announce mail that came: idle is now renewed every %s",
                interval_text(self._renewal.interval_seconds),
            )
        return idling

    def _listen(self, session: SessionLike, until: float) -> None:
        """Listen in IDLE and send what is owed, for as long as both may last."""
        clock, longest = self._shared.clock, self._shared.timing.idle_check_seconds
        try:
            while session.idling and (now := clock()) < until:
                self.stop.check()
                look_up = min(until, now + longest)
                self._expect_progress(longest)
                self._scanner.pay(look_up)
                if lines := session.wait(max(0.0, self._scanner.next_try(look_up) - clock())):
                    self._hear(lines)
        finally:
            self._scanner.leave_line()

    def _after_cut_short(self, lasted_seconds: float) -> None:
        """The server ended IDLE by itself; one that keeps doing so is not asked in a rush."""
        self._cut_short = self._cut_short + 1 if lasted_seconds < SHORT_IDLE_SECONDS else 0
        if self._cut_short >= SHORT_IDLES:
            interval = self._shared.timing.poll_interval_seconds
            self._logger.warning(
                "the server ends IDLE at once, again and again: next IDLE in %s",
                interval_text(interval),
            )
            self.pay_for(interval)

    def _examine_and_idle(self, session: SessionLike) -> tuple[Finding, bool]:
        """What EXAMINE found is owed even if the session breaks before IDLE."""
        return self._take_snapshot(session, CATCH_UP), self._start_idle(session)

    def _start_idle(self, session: SessionLike) -> bool:
        return session.offers_idle and session.start_idle()

    def _take_snapshot(self, session: SessionLike, reason: str) -> Finding:
        finding = self._watermark.examined(session.examine())
        if finding is not Finding.NOTHING:
            self._scanner.owe(reason)
        return finding

    def _hear(self, lines: list[Line]) -> None:
        """Take in what the server said."""
        has_exists = unreadable = False
        for line in lines:
            if line.kind is Kind.EXISTS:
                has_exists = True
                self._watermark.announced(line.number)
            elif line.kind is Kind.EXPUNGE:
                self._watermark.expunged(line.number)
            elif line.kind is Kind.UNREADABLE:
                unreadable = True
        if has_exists:
            self._logger.info("exists-event received (new mail)")
            self._scanner.owe(EXISTS)
            if self._renewal.announced():
                self._logger.info(
                    "the server announces mail again: idle is renewed every %s as usual",
                    interval_text(self._renewal.interval_seconds),
                )
        elif unreadable:
            self._logger.warning(
                "the server said what cannot be understood, a scan is made in case it was mail: %s",
                sanitize(ascii(next(line.text for line in lines if line.text))),
            )
            self._scanner.owe(CATCH_UP)

    # What is owed

    def _pay_at_once(self) -> None:
        """Send what is owed, if it is due and a place is free now."""
        self.pay_for(0.0)

    def pay_for(self, seconds: float) -> None:
        """Send what is owed when it is due; nothing else is to be done for ``seconds``."""
        clock = self._shared.clock
        until = clock() + seconds
        self._expect_progress(seconds)
        try:
            while True:
                self._scanner.pay(until)
                if (now := clock()) >= until:
                    return
                if self.stop.wait(self._scanner.next_try(until) - now):
                    raise Interrupted("stopping")
        finally:
            self._scanner.leave_line()

    def _scanning(self, begins: bool) -> None:
        if begins:
            self._before_scan = self.state
        self._change_state(State.SCANNING if begins else self._before_scan)

    # What follows the end of a session

    def _back_off(self, end: _End) -> None:
        if self._shared.clock() - self._opened_at >= WORKED_SECONDS:
            self._attempt = 1
        wait = self._reconnects.wait_seconds(self._attempt)
        if self._troubles.should_log(end.text):
            self._logger.warning("%s", sanitize(end.text))
        self._logger.info("reconnecting in %s (attempt %d)", seconds_text(wait), self._attempt + 1)
        self._change_state(State.BACKING_OFF)
        self._next_try_at = self._shared.clock() + wait
        self.pay_for(wait)

    def _park(self, end: _End) -> None:
        self._attempt = 0
        wait, who, next_try = UNTIL_STOPPED_SECONDS, "the operator", "the row changes"
        if end.remedy is _Remedy.CREDENTIALS:
            self._refusals += 1
            wait = self._login_retries.wait_seconds(self._refusals)
            who = "the user"
            next_try += f", or in {interval_text(wait)}"
        if self._troubles.should_log(end.text):
            self._logger.error(
                "%s (%s must act) — parked: next try when %s", sanitize(end.text), who, next_try
            )
        self._change_state(State.PARKED)
        self._next_try_at = self._shared.clock() + wait
        self.pay_for(wait)

    def _expect_progress(self, seconds: float) -> None:
        """The next step comes within ``seconds``, if all is well and no scan is under way."""
        self._next_step_by = self._shared.clock() + seconds

    def _change_state(self, state: State) -> None:
        if state is not self.state:
            self._logger.debug("%s → %s", self.state, state)
            self.state, self._state_since = state, self._shared.clock()
