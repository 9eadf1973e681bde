"""The program: command line, wiring, signals, exit status."""

from __future__ import annotations

import os
import signal
import sys

# Until the handlers are installed there is nothing to stop in order: a stop ends the process with
# the status that it has later, and SIGHUP and SIGUSR1 do not end it.
if __name__ == "__main__":
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, lambda _signum, _frame: os._exit("check" in sys.argv))
    for _number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(_number, signal.SIG_IGN)

import argparse
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from . import __version__, process
from .changes import Changes
from .check import Check
from .cipher import PasswordCipher
from .config import Config, read_settings
from .database_url import password_of
from .endpoint import Endpoint
from .errors import ConfigError
from .faults import UnexpectedErrors
from .fingerprint import Fingerprint
from .fleet.membership import Membership
from .fleet.sharing import fleet_fingerprint
from .fleet.show import show_table
from .fleet.table import FleetTable
from .hosts import Hosts
from .imap.connector import Connector, tls_context
from .log import Log, escape, open_standard_descriptors, sanitize
from .log import database_logger as logger
from .mailbox import Mailbox
from .outside import Outside
from .progress import Progress
from .proof import Proof
from .scan.client import ScanClient
from .scan.line import ScanLine
from .scan.scanner import Scanner
from .scan.token_client import TokenClient
from .services import Services
from .store import ConnectionStore
from .supervisor import Supervisor
from .tokens import Tokens
from .trial_login import TrialLogin, TrialTokens
from .worker import IdleWorker

EX_OK = 0
EX_FAULT = 1
EX_CONFIG = 78  # sysexits.h
# Connections that are made at once; what one host gets of them is bounded on its own.
CONNECT_THREADS = 128
# How often the preflight shows its progress anew, which the log's lines have covered.
PROGRESS_SECONDS = 0.25


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon or the preflight; returns the exit status."""
    descriptor = open_standard_descriptors()
    options = _parser().parse_args(arguments)
    preflight = options.command == "check"
    try:
        values, config = read_settings(Path.cwd())
        endpoint = None
        if config.metrics_listen and not preflight:
            endpoint = Endpoint(config.metrics_listen)
    except ConfigError as error:
        return _report(error, preflight)
    process.set_up_memory()
    process.set_up_threads()
    process.set_up_garbage_collection()
    process.forbid_core_files()
    max_sessions = process.raise_descriptor_limit()
    level = "info" if preflight else config.log_level
    output = Log(level, descriptor, _secrets(values, config))
    if not preflight:
        _run_daemon(config, max_sessions, output, endpoint)
    return _run_check(config, output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rebreak_idle",
        description="Holds one IMAP IDLE session for every active mail connection and asks the "
        "backend for a scan the moment mail arrives. Settings come from the environment and .env.",
    )
    parser.add_argument("--version", action="version", version=f"rebreak_idle {__version__}")
    parser.add_argument(
        "command",
        nargs="?",
        choices=["check"],
        help="check: a preflight of settings, database, mailboxes and backend; sends no scan",
    )
    return parser


def _report(error: ConfigError, preflight: bool) -> int:
    if preflight:
        error.problems.append("check failed — the environment cannot be used")
    for problem in error.problems:
        print(escape(f"[idle/db] {problem}"), file=sys.stderr)  # noqa: T201  # no log yet
    return EX_FAULT if preflight else EX_CONFIG


def _secrets(values: Mapping[str, str], config: Config) -> list[str]:
    """What no log line may show, whoever says it."""
    return [values["ADMIN_SECRET"], values["ENCRYPTION_KEY"], password_of(config.database)]


def _run_check(config: Config, output: Log) -> int:
    """The preflight, on a thread of its own: whatever it waits for, Ctrl-C ends it at once."""
    check = _check(config)
    events: queue.SimpleQueue[str | bool | None] = queue.SimpleQueue()

    def run() -> None:
        well = False
        try:
            well = check.run(events.put)
        finally:
            events.put(well)

    _install_stop(lambda: events.put(None))
    threading.Thread(target=run, name="check", daemon=True).start()
    well = _outcome(events)
    if well is None:
        check.say_interrupted()
    output.drain()
    if well is None:
        os._exit(EX_FAULT)  # as in the daemon: its threads may hang
    return EX_OK if well else EX_FAULT


def _outcome(events: queue.SimpleQueue[str | bool | None]) -> bool | None:
    """What the preflight ends with, None where it is interrupted; texts are its progress."""
    progress = Progress()
    text = ""
    while True:
        with suppress(queue.Empty):
            event = events.get(timeout=PROGRESS_SECONDS)
            if not isinstance(event, str):
                progress.show("")
                return event
            text = event
        progress.show(text)


def _check(config: Config) -> Check:
    connector = Connector(tls_context(), config)
    client = ScanClient(config)
    decrypt = PasswordCipher(config.encryption_key, config.encryption_layout).decrypt
    tokens = TrialTokens(TokenClient(client, config, time.monotonic), config)
    return Check(
        ConnectionStore(config.database, config.query).read,
        lambda mailbox: TrialLogin(mailbox, connector.session, decrypt, tokens),
        Hosts(config, time.monotonic, connector.resolver),
        client.reach,
        lambda: show_table(_fleet_table(config)),
    )


def _run_daemon(
    config: Config, max_sessions: int, output: Log, endpoint: Endpoint | None
) -> NoReturn:
    services = _services(config)
    outside = Outside(config, services, lambda event: supervisor.post(event))

    def make_worker(
        mailbox: Mailbox, ended: Callable[[IdleWorker], None], scanner: Scanner | None
    ) -> IdleWorker:
        def note_end(worker: IdleWorker) -> None:
            outside.roster.ended(worker)
            ended(worker)

        worker = IdleWorker(mailbox, services, note_end, scanner)
        outside.roster.add(worker)
        return worker

    def refreshed(mailboxes: list[Mailbox]) -> None:
        services.forget_all_but(mailboxes)
        outside.refreshed()

    changes = _changes(config)
    supervisor = Supervisor(
        changes.read,
        make_worker,
        services.scans,
        refreshed,
        _membership(config, services.proof),
        config,
        max_sessions,
        outside.roster.keep_only,
    )
    _install_signal_handlers(supervisor)
    changes.start(lambda: supervisor.post(supervisor.rows_changed))
    outside.start(endpoint, output.shown)
    hanging = supervisor.run()
    if hanging:
        logger.warning("stopped without waiting for %s", sanitize(", ".join(hanging)))
    else:
        logger.info("stopped")
    output.drain()
    os._exit(EX_OK)  # not sys.exit: threads that hang in a system call would be waited for


def _changes(config: Config) -> Changes:
    return Changes(
        ConnectionStore(config.database, config.query).read,
        Fingerprint(config.database, config.query),
        config.change_check_seconds,
        config.refresh_interval_seconds,
    )


def _fleet_table(config: Config) -> FleetTable:
    return FleetTable(config.database, fleet_fingerprint(config.query, config.database.schema))


def _membership(config: Config, proof: Proof) -> Membership:
    return Membership(
        _fleet_table(config),
        config.instance_name,
        config.instance_silence_seconds,
        process.clock_that_runs_on,
        random.random,
        proof,
    )


def _services(config: Config) -> Services:
    scan_threads = ThreadPoolExecutor(config.scan_concurrency, "scan")
    process.start_threads(scan_threads, config.scan_concurrency)
    connector = Connector(tls_context(), config)
    client = ScanClient(config)
    return Services(
        config=config,
        connector=connector,
        decrypt=PasswordCipher(config.encryption_key, config.encryption_layout).decrypt,
        connects=ThreadPoolExecutor(CONNECT_THREADS, "connect"),
        scans=ScanLine(client, scan_threads, time.monotonic),
        tokens=Tokens(TokenClient(client, config, time.monotonic), config, time.monotonic),
        hosts=Hosts(config, time.monotonic, connector.resolver),
        unexpected_errors=UnexpectedErrors(),
        clock=time.monotonic,
    )


def _install_stop(stop: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT call ``stop``; a second one ends the process at once."""

    def handle(_signum: int, _frame: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def _install_signal_handlers(supervisor: Supervisor) -> None:
    """SIGTERM and SIGINT stop in order; SIGHUP reads the rows now, SIGUSR1 logs how the mailboxes
    are doing.
    """
    _install_stop(supervisor.stop)
    signal.signal(signal.SIGHUP, lambda _signum, _frame: supervisor.post(supervisor.refresh))
    signal.signal(signal.SIGUSR1, lambda _signum, _frame: supervisor.post(supervisor.report))


if __name__ == "__main__":
    sys.exit(main())
