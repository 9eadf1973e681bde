"""The thread of one mailbox: its states and its loop."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import NoReturn

from .access_token import AccessToken
from .errors import Interrupted, MailboxUnusable, RebreakError
from .imap.responses import Line
from .imap.uids import Finding
from .inbox import Inbox
from .limits import interval_text
from .log import Logger
from .logins import login_of
from .mailbox import Mailbox
from .pooled import COMMANDS_IN_A_ROW, PooledTask
from .recovery import Ending, Recovery, Remedy
from .scan.pending import CATCH_UP, EXISTS, POLL
from .scan.scanner import Scanner
from .services import Services, SessionLike
from .status import Progress, State, Status


class IdleWorker(threading.Thread):
    """Watches one mailbox until it is told to stop.

    ``scanner`` is its predecessor's, if it had one, with what that still owed. ``ended`` is
    called, on this thread, as the last thing it does.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        services: Services,
        ended: Callable[[IdleWorker], None],
        scanner: Scanner | None = None,
    ) -> None:
        super().__init__(name=f"idle-{mailbox.id}", daemon=True)
        self.mailbox = mailbox
        self._services = services
        self._clock = clock = services.clock
        self._ended = ended
        self._logger = Logger(mailbox.name, lambda text: self._login.hide(text))
        self._progress = Progress(self._logger, clock)
        self._woken = services.make_event()
        self._stopping = False
        self._session: SessionLike | None = None
        self._host = services.hosts.at(mailbox)
        self.scanner = scanner or Scanner(services.scans, clock, services.unexpected_errors)
        self.scanner.serve(mailbox, self._logger, self._woken.set)
        self._recovery = Recovery(services.config, self._logger, clock, services.good_logins)
        self._login = login_of(mailbox, services, self._logger, self._recovery)
        self._inbox = Inbox(services.config, self._logger, clock)
        self._opened_at = math.inf
        self._pool = PooledTask(services, self._progress, self._woken.set, self._wait)

    # From other threads

    def ask_to_stop(self) -> None:
        """End the thread, in whatever wait it is."""
        self._stopping = True
        self._woken.set()
        if (session := self._session) is not None:
            session.interrupt()

    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping

    def abort(self) -> None:
        """Free the thread if it hangs in its session."""
        self._progress.aborted()
        if (session := self._session) is not None:
            session.abort()

    @property
    def state(self) -> State:
        return self._progress.state

    @property
    def works_on(self) -> int | None:
        """The thread that works for this mailbox: its own, or one of the pool."""
        return self._pool.thread or self.ident

    def status(self) -> Status:
        """How it is doing."""
        scanner, recovery = self.scanner, self._recovery
        last = scanner.troubles.last
        if self._opened_at == math.inf:  # there is no session
            last = recovery.troubles.last or last
        owed, in_line, next_try_at = scanner.owed, scanner.in_line, scanner.next_try_at()
        hide = self._login.hide
        return self._progress.status(owed, in_line, next_try_at, last, recovery, hide)

    def is_overdue(self) -> bool:
        """Whether it should long have made its next step."""
        return self._progress.is_overdue()

    # The loop

    def run(self) -> None:
        try:
            while not self._stopping:
                self._run_guarded()
        finally:
            self._progress.change_state(State.STOPPED)
            self._ended(self)

    def _run_guarded(self) -> None:
        """One session, and the wait that its end asks for; a thread never dies silently."""
        try:
            self._recover(self._run_session())
        except Exception as error:  # noqa: BLE001
            if self._stopping:
                return
            self._services.unexpected_errors.log(self._logger, error)
            self._woken.wait(self._services.config.reconnect_max_seconds)
            self._woken.clear()

    def _run_session(self) -> Ending:
        """A session from connect to end; what ended it."""
        self._recovery.begin_attempt()
        try:
            self._watch(self._connect())
        except Interrupted:
            raise
        except RebreakError as error:
            return self._login.ending(error, self._clock() - self._opened_at)
        except Exception as error:  # noqa: BLE001  # one mailbox's trouble touches no other
            self._services.unexpected_errors.log(self._logger, error)
            return Ending("the session is given up", Remedy.BACK_OFF)
        finally:
            self._close()

    def _recover(self, ending: Ending) -> None:
        lasted_seconds, self._opened_at = self._clock() - self._opened_at, math.inf
        is_held_back = self._host.holds_back(self.mailbox.id, ending.remedy is Remedy.HOST)
        state, wait = self._recovery.next_try(ending, lasted_seconds, is_held_back)
        self._services.counters.ended(self._recovery.ended_by, state)
        if state is State.PARKED:
            self._host.give_up_place(self.mailbox.id)
        self._progress.change_state(state)
        self._progress.expect_try(wait)
        self._pause(wait)

    def _connect(self) -> tuple[SessionLike, bool]:
        """An open session, logged in, and whether it is in IDLE; kind to its host."""
        mailbox, pool = self.mailbox, self._pool
        if mailbox.problem:
            raise MailboxUnusable(f"the row cannot be used: {mailbox.problem}")
        secret = self._login.obtain(pool)
        with self._host.connecting(mailbox.id, self._woken.set, pool.wait_in_line, pool.run):
            self._login.check()
            return pool.run(lambda: self._open(secret), must_end=lambda: self._session is not None)

    def _open(self, secret: str | AccessToken) -> tuple[SessionLike, bool]:
        """On a thread of the pool; one task, because each takes two hand-overs between threads."""
        self._progress.change_state(State.CONNECTING)
        self._host.look_up()
        self._session = session = self._services.connector.session(self.mailbox, self.is_stopping)
        session.open(secret)
        self._host.session_began(self.mailbox.id, session.is_alive)
        self._login.worked()
        return session, self._examine_and_idle(session)[1]

    def _close(self) -> None:
        """Leave the session; what it had still heard counts."""
        session, self._session = self._session, None
        self._host.session_ended(self.mailbox.id)
        if session is not None:
            try:
                self._hear(session.take_events())
            finally:
                session.close(wait=not self._stopping)
                if not self._stopping:  # else this thread's memory goes with it
                    last_reference: list[object] = [session]
                    del session
                    self._pool.let_go(last_reference)

    def _watch(self, opened: tuple[SessionLike, bool]) -> NoReturn:
        """Watch INBOX as long as the session lasts, which nobody else holds: see `_close`."""
        session, idling = opened
        self._recovery.opened_inbox()
        self._logger.info("connected (%s:%d)", self.mailbox.host, self.mailbox.port)
        self._opened_at = self._clock()
        while True:
            if idling:
                idling = self._idle_once(session)
            else:
                self._poll(session)
                idling = self._start_idle(session)

    def _poll(self, session: SessionLike) -> None:
        """Ask for new mail at intervals, until it is time to try IDLE again."""
        self._progress.change_state(State.POLLING)
        self._inbox.idle_tries.note_polling()
        until = self._clock() + self._services.config.idle_renew_seconds
        while self._clock() < until:
            self._pause(self._services.config.poll_interval_seconds)
            self._take_snapshot(session, POLL)

    def _idle_once(self, session: SessionLike) -> bool:
        """One IDLE, to its renewal or to where the server ends it; INBOX is examined after it.

        Returns whether the next IDLE has begun.
        """
        self._progress.change_state(State.IDLING)
        interval = self._login.idle_seconds(self._inbox.renew_seconds)
        began_at = self._clock()
        self._listen(session, began_at + interval)
        if renewed := session.idling:
            self._logger.info("idle renewing (%s threshold)", interval_text(interval))
        self._pause(self._inbox.idle_tries.pause_after(renewed, self._clock() - began_at))
        self._progress.expect(COMMANDS_IN_A_ROW * self._services.config.imap_timeout_seconds)
        told_late = self._hear(session.end_idle(), in_idle=not renewed)
        finding, idling = self._examine_and_idle(session)
        if renewed and finding is Finding.UNANNOUNCED:
            self._inbox.mail_was_not_announced()
        elif renewed and (told_late == EXISTS or self._inbox.grew):
            self._inbox.mail_was_told_late()
        return idling

    def _listen(self, session: SessionLike, until: float) -> None:
        """Listen in IDLE and send what is owed, for as long as both may last."""
        proof, progress = self._services.proof, self._progress
        longest = min(self._services.config.idle_check_seconds, proof.look_up_seconds)
        while session.idling and (now := self._clock()) < until and progress.epoch == proof.epoch:
            self._check_stop()
            look_up = min(until, now + longest)
            self._send_owed(look_up)
            progress.expect(longest)
            left = min(look_up, self.scanner.next_try_at()) - self._clock()
            self._hear(session.wait(max(0.0, left)))
            if self._clock() - look_up > proof.gap_seconds:
                progress.stood_still()
            self._pause(session.rest_seconds)

    def _examine_and_idle(self, session: SessionLike) -> tuple[Finding, bool]:
        """What EXAMINE found is owed even if the session breaks before IDLE."""
        return self._take_snapshot(session, CATCH_UP), self._start_idle(session)

    def _start_idle(self, session: SessionLike) -> bool:
        return session.offers_idle and self._inbox.idle_tries.begin(session.start_idle)

    def _take_snapshot(self, session: SessionLike, reason: str) -> Finding:
        epoch = self._services.proof.epoch
        finding = self._inbox.examined(session.examine())
        self._login.examined()
        self._progress.epoch = epoch
        if finding is not Finding.NOTHING:
            self.scanner.owe(reason)
        return finding

    def _hear(self, lines: list[Line], in_idle: bool = True) -> str | None:
        """Take in what the server said; why a scan is owed for it, if one is."""
        if reason := self._inbox.hear(lines, in_idle):
            self.scanner.owe(reason)
            self.scanner.send_due()
        return reason

    # What is owed, and the waits

    def _send_owed(self, until: float) -> None:
        """Send what is owed and due, and wait for its end, ``until`` at the latest."""
        self.scanner.send_due()
        if not self.scanner.in_line:
            return
        before = self.state
        self._progress.change_state(State.SCANNING)
        self._progress.expect(until - self._clock())
        while self.scanner.in_line and (left := until - self._clock()) > 0:
            self._wait(left)
        self._progress.change_state(before)

    def _pause(self, seconds: float) -> None:
        """Nothing is to be done for ``seconds`` but to send what is owed."""
        self._progress.expect(seconds)
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            self._wait(left)

    def _wait(self, seconds: float) -> None:
        """Wait until something concerns this mailbox, at most ``seconds``; what is owed is sent.

        Raises:
            Interrupted: the thread is to stop.
        """
        self._check_stop()
        self.scanner.send_due()
        seconds = min(seconds, self.scanner.next_try_at() - self._clock(), threading.TIMEOUT_MAX)
        self._woken.wait(max(0.0, seconds))
        self._woken.clear()
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stopping:
            raise Interrupted("stopping")
