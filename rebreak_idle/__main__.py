"""The program: command line, wiring, signals, exit status."""

from __future__ import annotations

import os
import signal

# Until the handlers are installed there is nothing to stop in order: a stop ends the process with
# status 0, as later, and SIGHUP and SIGUSR1 do not end it.
if __name__ == "__main__":
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, lambda _signum, _frame: os._exit(0))
    for _number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(_number, signal.SIG_IGN)

import argparse
import functools
import gc
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from . import __version__
from . import log as logs
from .check import Check
from .cipher import PasswordCipher
from .config import Config, environment, load
from .crew import Crew
from .errors import ConfigError
from .gate import Gate
from .imap.session import Connector, tls_context
from .limits import Hosts, Limits
from .log import database_logger as logger
from .mailbox import Mailbox
from .poller import poller
from .scan.client import Backend
from .scan.pending import PendingScan
from .store import ConnectionStore, password_of
from .supervisor import Supervisor
from .turns import prepare_kernel
from .wake import Stop
from .worker import IdleWorker, Services, Timing

EX_OK = 0
EX_FAULT = 1
EX_CONFIG = 78  # sysexits.h
# Deep enough for TLS handshakes and requests; 32 KiB crash CPython 3.13 on nested answers.
THREAD_STACK_BYTES = 256 * 1024
# Looks for cycles of garbage are rare (gc.set_threshold): there hardly are any, and a look through
# the objects of ten thousand mailboxes keeps all of them waiting, for up to half a second.
GARBAGE_THRESHOLDS = (50_000, 20, 20)
# For the database, the backend, modules that are being read and the like.
OTHER_DESCRIPTORS = 128


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon or the preflight; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        values = environment(Path.cwd())
        config = load(values)
    except ConfigError as error:
        return _report(error, preflight=options.command == "check")
    prepare_kernel()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    threading.stack_size(THREAD_STACK_BYTES)
    preflight = options.command == "check"
    logs.set_up("info" if preflight else config.log_level, secrets=_secrets(values, config))
    _harden()
    if not preflight:
        _run_daemon(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    well = _check(config).run()
    logs.drain()
    return EX_OK if well else EX_FAULT


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
        print(logs.escape(f"[idle/db] {problem}"), file=sys.stderr)  # noqa: T201  # no log yet
    return EX_FAULT if preflight else EX_CONFIG


def _secrets(values: Mapping[str, str], config: Config) -> list[str]:
    """What no log line may show, whoever says it."""
    return [values["ADMIN_SECRET"], values["ENCRYPTION_KEY"], password_of(config.database)]


def _harden() -> None:
    """No core file, which would hold all secrets; as many descriptors as we may have."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _most_sessions() -> int:
    """How many sessions the file descriptors suffice for, at one each."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return descriptors - OTHER_DESCRIPTORS


def _backend(config: Config) -> Backend:
    return Backend(
        config.backend_url,
        config.admin_secret_header,
        config.admin_secret,
        config.scan_timeout_seconds,
    )


def _connector(config: Config) -> Connector:
    return Connector(tls_context(), config.imap_timeout_seconds, config.imap_allow_private_hosts)


def _store(config: Config) -> ConnectionStore:
    return ConnectionStore(config.database, config.query)


def _check(config: Config) -> Check:
    return Check(
        _store(config).read,
        PasswordCipher(config.encryption_key, config.encryption_layout).open,
        _connector(config).session,
        _backend(config).reach,
    )


def _run_daemon(config: Config) -> NoReturn:
    poller.start()
    backend = _backend(config)
    supervisor = Supervisor(
        _store(config).read,
        _worker_factory(config, backend),
        backend,
        config.refresh_interval_seconds,
        _most_sessions(),
    )
    _install_signal_handlers(supervisor)
    hanging = supervisor.run()
    backend.close()
    if hanging:
        logger.warning("stopped without waiting for %s", logs.truncate(", ".join(hanging)))
    else:
        logger.info("stopped")
    logs.drain()
    os._exit(EX_OK)  # not sys.exit: threads that hang in a system call would be waited for


def _worker_factory(config: Config, backend: Backend) -> functools.partial[IdleWorker]:
    surroundings = Services(
        connect=_connector(config).session,
        open_password=PasswordCipher(config.encryption_key, config.encryption_layout).open,
        backend=backend,
        crew=Crew(),
        scans=Gate(config.scan_concurrency),
        hosts=Hosts(
            Limits(
                config.host_connects_at_once,
                config.host_logins_per_second,
                config.reconnect_initial_seconds,
                config.reconnect_max_seconds,
            ),
            time.monotonic,
        ),
        clock=time.monotonic,
        timing=Timing(
            idle_renew_seconds=config.idle_renew_seconds,
            idle_check_seconds=config.idle_check_seconds,
            poll_interval_seconds=config.poll_interval_seconds,
            reconnect_initial_seconds=config.reconnect_initial_seconds,
            reconnect_max_seconds=config.reconnect_max_seconds,
            auth_retry_seconds=config.auth_retry_seconds,
            imap_timeout_seconds=config.imap_timeout_seconds,
            scan_timeout_seconds=config.scan_timeout_seconds,
        ),
    )
    return functools.partial(_make_worker, surroundings)


def _make_worker(
    surroundings: Services,
    mailbox: Mailbox,
    ended: Callable[[IdleWorker], None],
    debt: PendingScan | None,
) -> IdleWorker:
    return IdleWorker(mailbox, surroundings, Stop(), ended, debt)


def _install_signal_handlers(supervisor: Supervisor) -> None:
    """SIGTERM and SIGINT stop in order, a second one ends at once; SIGHUP reads the rows now,
    SIGUSR1 logs how the mailboxes are doing.
    """

    def stop(_signum: int, _frame: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        supervisor.post(supervisor.stop)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, lambda _signum, _frame: supervisor.post(supervisor.refresh))
    signal.signal(signal.SIGUSR1, lambda _signum, _frame: supervisor.post(supervisor.report))


if __name__ == "__main__":
    sys.exit(main())
