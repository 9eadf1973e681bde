"""All systems, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.tools.bench.figures import Figures
from scripts.tools.bench.load import Load
from scripts.tools.bench.log import say
from scripts.tools.bench.peers import Aioimaplib, GoImap, ImapFlow
from scripts.tools.bench.rules import BURST, CONNECTS_AT_ONCE, SYSTEMS
from scripts.tools.bench.systems import Daemon, DaemonWithTokens, Place, System
from scripts.tools.bench.trial import SETTLE_SECONDS, Trial
from scripts.tools.console import Stopped, asked_to_stop
from scripts.tools.servers import TROUBLE, OwnPostgres, told
from tests.support.servers import Certificates, name_of_postgres, server_folder

# The daemon's limits for each host, opened; see `Bench._measure_defaults` for those that it has.
OPENED = {"HOST_CONNECTS_AT_ONCE": CONNECTS_AT_ONCE, "HOST_LOGINS_PER_SECOND": 100000}
LOGINS_PER_SECOND = 20  # the daemon's default, for the time that the row of defaults takes
DEFAULTS_AT_MOST = 1000


@dataclass(frozen=True)
class Options:
    """What is asked for on the command line."""

    sizes: list[int]
    systems: list[str]
    out: Path
    idle_seconds: float
    mails: int
    bursts: int
    defaults: bool


class Bench:
    """All systems, one after the other."""

    def __init__(self, options: Options, parts: ExitStack) -> None:
        self._options = options
        self._parts = parts
        self._folder = parts.enter_context(server_folder())
        self._certificates = Certificates(self._folder)
        self._running: OwnPostgres | None = None
        self.figures: list[Figures] = []
        self.remarks: list[str] = []

    def run(self) -> None:
        """Measure everything that is asked for and there."""
        for system in self._present():
            base = self._base(system)
            for size in self._options.sizes:
                self._measure(system, size, base)
        if self._options.defaults and "rebreak" in self._options.systems:
            self._measure_defaults()
        self.figures.sort(key=lambda each: (each.mailboxes, self._order(each.system)))

    def _order(self, name: str) -> int:
        return SYSTEMS.index(name) if name in SYSTEMS else len(SYSTEMS)

    def _present(self) -> list[System]:
        daemon = Daemon(self._postgres, **OPENED)
        with_tokens = DaemonWithTokens(self._postgres, **OPENED)
        known: list[System] = [daemon, with_tokens, ImapFlow(), Aioimaplib(), GoImap()]
        present = []
        for system in known:
            if system.name not in self._options.systems:
                continue
            if missing := system.missing():
                self.remark(f"{system.name} was left out: {missing}")
            else:
                present.append(system)
        return present

    def remark(self, text: str) -> None:
        """Say it now, and in the report."""
        self.remarks.append(text)
        say(text)

    def _postgres(self) -> OwnPostgres:
        """One for the whole run, started when it is needed first."""
        if self._running is None:
            say(f"starting PostgreSQL ({name_of_postgres()}, for this run only)")
            self._running = self._parts.enter_context(OwnPostgres())
        return self._running

    def _base(self, system: System) -> float | None:
        """PSS of its process with one mailbox."""

        def perform(trial: Trial) -> None:
            trial.start(_seconds_for(1))
            trial.idle(SETTLE_SECONDS)

        return self._try(system, Figures(system.name, 1), perform).pss_kib

    def _measure(self, system: System, size: int, base: float | None) -> None:
        def perform(trial: Trial) -> None:
            trial.start(_seconds_for(size))
            trial.idle(self._options.idle_seconds)
            trial.steady(self._options.mails)
            trial.bursts(self._options.bursts, min(BURST, size))
            trial.slow_burst(min(BURST, size))
            trial.storm(_seconds_for(size))

        figures = Figures(system.name, size, pss_of_one_kib=base)
        self.figures.append(self._try(system, figures, perform))

    def _measure_defaults(self) -> None:
        """The daemon as it comes, which is kind to a host: start and storm alone."""
        size = min(DEFAULTS_AT_MOST, *self._options.sizes)
        seconds = _seconds_for(size) + 1.5 * size / LOGINS_PER_SECOND

        def perform(trial: Trial) -> None:
            trial.start(seconds)
            trial.storm(seconds)

        figures = Figures("rebreak, default limits", size)
        self.figures.append(self._try(Daemon(self._postgres), figures, perform))

    def _try(self, system: System, figures: Figures, perform: Callable[[Trial], None]) -> Figures:
        """Perform the phases; what goes wrong stays with this system."""
        say(f"{figures.system}: {figures.mailboxes} mailboxes")
        log = self._options.out / f"{figures.system.replace(', ', '-')}-{figures.mailboxes}.log"
        try:
            with ExitStack() as parts:
                load = parts.enter_context(Load(figures.mailboxes, self._certificates))
                process = system.start(Place(load, self._folder, log), parts)
                parts.callback(process.end)
                trial = Trial(load, process, figures)
                perform(trial)
                trial.stop()
        except Stopped:
            raise
        except TROUBLE as error:
            if asked_to_stop():  # what had just been started may get the Ctrl-C too, and fail of it
                raise Stopped from error
            figures.problem = told(error)
            say(f"{figures.system} at {figures.mailboxes}: {figures.problem}")
        return figures


def _seconds_for(size: int) -> float:
    """How long a start or a storm may take, with all limits open."""
    return 60 + 0.03 * size
