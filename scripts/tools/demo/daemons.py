"""The daemons of the demo: one, or several that share the mailboxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rebreak_idle.fleet.sharing import view_text
from scripts.tools import console
from scripts.tools.child import Program
from scripts.tools.console import BOLD, CYAN, painted
from scripts.tools.servers import ROOT
from tests.support.servers import Database

NAMES = "abcde"
SILENCE_SECONDS = 3
"""How long one may be silent before the others take over: short, for somebody watches."""
MODULE = ("-m", "rebreak_idle")


class Daemons:
    """All that run; where there are several they share the mailboxes by a table."""

    def __init__(self, number: int, database: Database, take: Callable[[str], None]) -> None:
        self.running: dict[str, Program] = {}
        self.are_several = number > 1
        self._names = NAMES[:number]
        self._database = database
        self._take = take
        if self.are_several:
            database.execute((ROOT / "scripts" / "idle_instances.sql").read_text("utf-8"))

    def start(self, environment: Mapping[str, str], folder: Path) -> None:
        """Start all of them.

        Raises:
            Stopped: somebody asked for it meanwhile.
        """
        for name in self._names:
            console.pause(0)
            several = {"INSTANCE_NAME": name, "INSTANCE_SILENCE_SECONDS": str(SILENCE_SECONDS)}
            self.running[name] = Program(
                f"daemon {name}" if self.are_several else "the daemon",
                *MODULE,
                environment={**environment, **(several if self.are_several else {})},
                folder=folder,
                on_line=self._reader(f"{name} | " if self.are_several else ""),
            )

    def _reader(self, mark: str) -> Callable[[str], None]:
        """Shows each line, with the daemon's mark before it."""

        def read(line: str) -> None:
            self._take(line)
            prefix, bracket, text = line.partition("]")
            shown = painted(prefix + bracket, CYAN) + text if bracket else line
            console.show(painted(mark, BOLD) + shown if mark else shown)

        return read

    def check(self) -> None:
        """Raises Failure where one has ended by itself."""
        for daemon in self.running.values():
            daemon.check()

    def shares(self) -> dict[str, int]:
        """How many mailboxes each has, by its row in the table."""
        rows = self._database.execute("SELECT name, mailboxes FROM idle_instances ORDER BY name")
        return dict(rows)

    def have_settled(self) -> bool:
        """Whether each counts those that run as alive, and no other, and watches its share."""
        rows = self._database.execute("SELECT name, settled, view FROM idle_instances")
        names = sorted(self.running)
        return sorted(name for name, _, _ in rows) == names and all(
            settled and view.startswith(view_text(names)) for _, settled, view in rows
        )

    def kill_one(self) -> tuple[str, int]:
        """Kill the one with the most mailboxes (SIGKILL): its name, and how many it had."""
        shares = self.shares()
        name = max(self.running, key=lambda each: shares.get(each, 0))
        self.running.pop(name).end()
        return name, shares.get(name, 0)

    def end(self) -> list[str]:
        """Stop all of them at once, in order; what was wrong with their ends."""
        if not self.running:
            return []
        with ThreadPoolExecutor(len(self.running)) as threads:
            problems = list(threads.map(Program.end_in_order, self.running.values()))
        return [problem for problem in problems if problem]


def shares_text(shares: Mapping[str, int]) -> str:
    """Who watches how many: `a watches 2, b 1`."""
    first, *rest = [f"{name} {number}" for name, number in sorted(shares.items())]
    return ", ".join([first.replace(" ", " watches ", 1), *rest])
