"""The tests' servers out of reach of the terminal's Ctrl-C: who started them ends them."""

import contextlib
import os
import signal
from pathlib import Path

import psycopg
from imapclient.exceptions import IMAPClientError

from scripts.tools.child import OWN_SESSION
from scripts.tools.console import Failure
from tests.support.servers import Dovecot, MissingProgramError, Postgres, Pymap

ROOT = Path(__file__).parents[2]

# What starting a server, or talking to one, can fail with.
TROUBLE = (
    Failure, MissingProgramError, RuntimeError, AssertionError, OSError, psycopg.Error,
    IMAPClientError,
)  # fmt: skip


def told(error: BaseException) -> str:
    """A trouble in one sentence."""
    if isinstance(error, MissingProgramError):
        return f"{error}: install that first, then start again"
    return str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"


def base_environment() -> dict[str, str]:
    """For children: nothing of the caller's settings leaks in."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


class OwnPostgres(Postgres):
    """PostgreSQL."""

    run_options = {**Postgres.run_options, **OWN_SESSION}  # noqa: RUF012  # the base's type


class OwnPymap(Pymap):
    """The IMAP server that needs no installation."""

    run_options = OWN_SESSION


class OwnDovecot(Dovecot):
    """Dovecot."""

    run_options = OWN_SESSION

    def kill_sessions(self, *emails: str) -> None:
        """End sessions at once, those of some mailboxes or all."""
        for pid in self.session_pids(*emails):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
