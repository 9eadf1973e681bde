"""The long run, made short: it keeps its books rightly, ends well, and leaves nothing behind."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.tools.soak.accounts import Account
from scripts.tools.soak.scans import Scans
from scripts.tools.soak.timetable import Timetable
from tests.conftest import require
from tests.support.recording_backend import Request
from tests.support.script_run import ScriptRun, left_behind
from tests.support.scripted_imap import Arrival
from tests.support.servers import server_folder

# --- the books ------------------------------------------------------------------------------------


def account_with(*arrived: float) -> Account:
    """A mailbox in which mail arrived at these moments."""
    return Account("a@example.org", [Arrival(at, uid) for uid, at in enumerate(arrived)])


def scan(account: Account, arrived: float, failing: bool = False) -> None:
    """A scan request that came to the backend at this moment."""
    scans = Scans(random.Random(1))
    scans.by_id = {"1": account}
    scans.failing = (lambda handler: None) if failing else None
    request = Request("POST", "/", {}, '{"connectionId": "1"}', 0, arrived)
    behaviour = scans(request)
    closing = threading.Event()
    closing.set()
    handler: Any = SimpleNamespace(
        server=SimpleNamespace(backend=SimpleNamespace(closing=closing)), send=lambda *_: None
    )
    behaviour(handler)


def test_a_scan_covers_what_had_arrived_before_it() -> None:
    """A mail that came after the request is still owed when that one has succeeded."""
    account = account_with(1.0, 2.0, 3.0)
    scan(account, arrived=2.5)
    assert (account.covered, account.owed, account.scans) == (2, 1, 1)
    assert [each.seconds for each in account.reactions] == [1.5, 0.5]


def test_an_earlier_scan_that_ends_later_takes_nothing_back() -> None:
    """What is covered stays so, and each mail has one reaction."""
    account = account_with(1.0, 2.0)
    scan(account, arrived=2.5)
    scan(account, arrived=1.5)
    assert account.owed == 0
    assert len(account.reactions) == 2


def test_a_failed_scan_covers_nothing() -> None:
    """What the backend did not answer with success stays owed."""
    account = account_with(1.0)
    scan(account, arrived=2.0, failing=True)
    assert (account.owed, account.scans) == (1, 0)


def test_mail_of_a_row_that_was_taken_away_is_owed_and_not_measured() -> None:
    """It must be scanned once the row is back, but says nothing about the daemon's speed."""
    account = account_with(1.0)
    account.do_not_measure()
    assert account.owed == 1
    scan(account, arrived=2.0)
    assert account.owed == 0
    assert account.reactions == []


def test_a_phase_ends_what_it_began() -> None:
    """What was to be done later is done at the phase's end, once."""
    done: list[str] = []
    table = Timetable(random.Random(1), lambda seconds: None)
    table.after(0.0, lambda: done.append("due"))
    table.after(3600.0, lambda: done.append("late"))
    table.run(0.01)
    assert done == ["due", "late"]


# --- the run --------------------------------------------------------------------------------------


class Run(ScriptRun):
    """The soak."""

    end_seconds = 100.0

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder, "soak", *arguments)


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Starts a soak; `start(*arguments)`."""
    require("dovecot")
    with server_folder() as folder, ExitStack() as runs:

        def starting(*arguments: str) -> Run:
            run = Run(folder, *arguments)
            runs.callback(run.close)
            return run

        yield starting


def test_a_short_run_misses_nothing(start: Callable[..., Run]) -> None:
    """A few seconds of mails and faults end with the table, nothing missed, and status 0."""
    run = start("0.1", "--mailboxes", "12", "--renew-seconds", "5")
    assert run.end() == 0, run.text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in run.lines]
    table = {row[0]: row[1:] for row in cells if len(row) > 1}
    assert table["missed"] == ["0"]
    assert table["mailboxes"] == ["12 (2 on Dovecot)"]
    assert int(table["mails"][0]) >= 12
    assert int(table["faults and changes"][0]) > 0
    assert table["requests at once"][0].endswith("1 for one mailbox (of 1)")
    assert table["daemon's stop"][0].startswith("exit status 0")
    assert {"threads", "file descriptors", "memory, RSS", "memory, PSS"} <= set(table)
    assert left_behind(run.folder) == []


def test_ctrl_c_leaves_nothing_behind(start: Callable[..., Run]) -> None:
    """Ctrl-C at the terminal ends everything, and is no success."""
    run = start("10", "--mailboxes", "6")
    run.wait_line("all mailboxes are watched")
    run.press_ctrl_c()
    assert run.end() == 1
    assert "stopped before the end" in run.text
    assert left_behind(run.folder) == []
