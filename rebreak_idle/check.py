"""The preflight: everything the daemon needs, tried once; a line for each finding."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from itertools import zip_longest

from .crowd import Crowd
from .errors import (
    DatabaseError,
    HostUnreachable,
    LoginRefused,
    NameUnusable,
    NotConnected,
    RebreakError,
    ScanFailed,
    SessionLost,
)
from .host import Host
from .hosts import Endpoint, Hosts
from .log import Logger, sanitize
from .log import database_logger as logger
from .mailbox import Mailbox
from .trial_login import Found, TrialLogin

# What one host gets of them is bounded on its own.
MAILBOXES_AT_ONCE = 32
# How often a mailbox that waits for its host looks whether that is given up.
LOOK_AGAIN_SECONDS = 0.5
# A server that has let go of a connection may count it for a moment more.
TRIES_ALONE = 4
NOTICES_SECONDS = 0.5


class NotTried(HostUnreachable):
    """The host is given up."""


class Trials:
    """How hosts do in the preflight. Any thread may call.

    The daemon's limits hold. A host that is down is probed once; if that fails too it is given up,
    because the daemon's patience would take hours where hundreds of mailboxes wait.
    """

    def __init__(self) -> None:
        self._failures: defaultdict[Endpoint | Host | None, int] = defaultdict(int)  # in a row
        self._given_up: set[Endpoint | Host | None] = set()

    @contextmanager
    def connecting(self, endpoint: Endpoint, mailbox_id: str) -> Iterator[None]:
        """Wait for the host's turn, as `Endpoint.connecting`; in the block the mailbox is tried.

        Raises:
            NotTried: the host is given up.
        """
        woken = threading.Event()

        def wait(seconds: float) -> None:
            self._check(endpoint)
            woken.wait(min(seconds, LOOK_AGAIN_SECONDS))
            woken.clear()

        self._check(endpoint)
        is_probe = endpoint.is_down
        try:
            with endpoint.connecting(mailbox_id, woken.set, wait):
                is_probe = endpoint.is_down
                yield
        except NotTried:
            raise
        except HostUnreachable as error:
            self._failed(endpoint if isinstance(error, NameUnusable) else endpoint.host, is_probe)
            raise
        except RebreakError:
            self._was_reached(endpoint)
            raise
        self._was_reached(endpoint)

    def _failed(self, what: Endpoint | Host | None, is_probe: bool) -> None:
        self._failures[what] += 1
        if is_probe:
            self._given_up.add(what)

    def _was_reached(self, endpoint: Endpoint) -> None:
        for what in (endpoint, endpoint.host):
            self._failures.pop(what, None)
            self._given_up.discard(what)

    def _check(self, endpoint: Endpoint) -> None:
        for what in (endpoint, endpoint.host):
            if what in self._given_up:
                raise NotTried(
                    f"not tried: {endpoint.shown} is down, {self._failures[what]} mailboxes in a "
                    "row could not connect"
                )


class Check:
    """Tries database, passwords, hosts, logins and backend; changes nothing, sends no scan."""

    def __init__(
        self,
        read_rows: Callable[[], list[Mailbox]],
        log_in: Callable[[Mailbox], TrialLogin],
        hosts: Hosts,
        reach_backend: Callable[[], str],
        show_fleet: Callable[[], None],
    ) -> None:
        self._read_rows = read_rows
        self._log_in = log_in
        self._hosts = hosts
        self._reach_backend = reach_backend
        self._show_fleet = show_fleet
        self._trials = Trials()
        self._crowd = Crowd()
        self._total = self._tried = 0

    def run(self, show: Callable[[str], None]) -> bool:
        """Log every finding and a summary; True when all is well.

        ``show`` is called again and again with how far it is.
        """
        logger.info("environment: ok")
        rows = self._rows()
        if rows is not None:
            self._show_fleet()
        ready = self._try_all(rows or [], show)
        backend = self._backend_is_well()
        all_ready = bool(rows) and ready == len(rows or []) and not self._crowd.found_full()
        well = all_ready and backend
        report = logger.info if well else logger.error
        report(
            "check %s — database %s, %d of %d mailboxes ready, backend %s",
            "passed" if well else "failed",
            "not usable" if rows is None else "ok" if rows else "without rows",
            ready,
            self._total,
            "reached" if backend else "not reached",
        )
        return well

    def say_interrupted(self) -> None:
        """Log how far it came."""
        logger.error(
            "check interrupted — %d of %d mailboxes tried, nothing is known of the rest",
            self._tried,
            self._total,
        )

    def _rows(self) -> list[Mailbox] | None:
        try:
            rows = self._read_rows()
        except DatabaseError as error:
            logger.error("database: %s", sanitize(str(error)))
            return None
        if rows:
            logger.info("database: ok, %d active connections", len(rows))
        else:
            logger.error(
                "database: the query returns no rows, so no mailbox would be watched; row-level "
                "security may hide them from the user of DATABASE_URL: give it a policy, or "
                "BYPASSRLS"
            )
        return rows

    def _try_all(self, mailboxes: list[Mailbox], show: Callable[[str], None]) -> int:
        """How many are ready."""
        ready, self._total = 0, len(mailboxes)
        show(f"0 of {self._total} …")
        with ThreadPoolExecutor(MAILBOXES_AT_ONCE, "check") as pool:
            findings = [
                pool.submit(self._mailbox_is_well, mailbox) for mailbox in _in_turns(mailboxes)
            ]
            for finding in as_completed(findings):
                ready += finding.result()
                self._tried += 1
                show(f"{self._tried} of {self._total} …")
        return ready

    def _backend_is_well(self) -> bool:
        try:
            answer = self._reach_backend()
        except ScanFailed as error:
            logger.error("backend: %s", sanitize(str(error)))
            return False
        logger.info("backend: reached (it answers %s; no scan was sent)", sanitize(answer))
        return True

    def _mailbox_is_well(self, mailbox: Mailbox) -> bool:
        login = self._log_in(mailbox)
        report = Logger(mailbox.name, login.hide)
        try:
            found = self._try_mailbox(mailbox, login)
        except RebreakError as error:
            _report_error(report, error)
            return False
        except Exception:  # noqa: BLE001  # one mailbox's trouble hides no other's
            report.exception("unexpected error:")
            return False
        report.info(
            "%s, %s:%d reached over TLS, login ok%s, %s",
            found.secret,
            mailbox.host,
            mailbox.port,
            found.by,
            found.inbox,
        )
        return True

    def _try_mailbox(self, mailbox: Mailbox, login: TrialLogin) -> Found:
        if mailbox.problem:
            raise RebreakError(f"the row cannot be used: {mailbox.problem}")
        endpoint = self._hosts.at(mailbox)
        try:
            with self._crowd.beside_others(endpoint, mailbox.id):
                return self._visit(mailbox, endpoint, login)
        except HostUnreachable as error:
            if isinstance(error, NameUnusable) or not error.answered:
                raise
            with self._crowd.alone(endpoint, mailbox.id, error):
                return self._visit_again(mailbox, endpoint, login)

    def _visit_again(self, mailbox: Mailbox, endpoint: Endpoint, login: TrialLogin) -> Found:
        for _ in range(TRIES_ALONE - 1):
            with suppress(HostUnreachable):
                return self._visit(mailbox, endpoint, login)
            time.sleep(NOTICES_SECONDS)
        return self._visit(mailbox, endpoint, login)

    def _visit(self, mailbox: Mailbox, endpoint: Endpoint, login: TrialLogin) -> Found:
        id_ = mailbox.id
        with self._trials.connecting(endpoint, id_):
            return login.run(lambda: self._crowd.trying(id_), lambda: self._crowd.connected(id_))


def _report_error(report: Logger, error: RebreakError) -> None:
    """Log what was found wrong, and who must act; lost sessions say it themselves, but for one."""
    text = sanitize(str(error))
    match error:
        case NotConnected():
            report.error("%s (the operator must act if it stays)", text)
        case SessionLost():
            report.error("%s", text)
        case LoginRefused(who=who):
            report.error("%s (%s must act)", text, who)
        case _:
            report.error("%s (%s must act)", text, "the operator")


def _in_turns(mailboxes: list[Mailbox]) -> list[Mailbox]:
    """One of each server, then the next of each: the many of a slow one do not go before others."""
    by_server: defaultdict[tuple[str, int], list[Mailbox]] = defaultdict(list)
    for mailbox in mailboxes:
        by_server[mailbox.host.lower(), mailbox.port].append(mailbox)
    return [mailbox for turn in zip_longest(*by_server.values()) for mailbox in turn if mailbox]
