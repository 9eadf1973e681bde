"""The phases of one measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from scripts.tools.bench.figures import Figures, percentile_ms
from scripts.tools.bench.load import Load
from scripts.tools.bench.rules import MAIL_EVERY_SECONDS, SLOW_SCAN_SECONDS, STORM_MAILS
from scripts.tools.bench.systems import Process
from scripts.tools.console import Failure, pause, wait_until

LOOK_SECONDS = 0.05
SETTLE_SECONDS = 1.5
SCANNED_WITHIN_SECONDS = 60.0
STOPS_WITHIN_SECONDS = 30.0
STEP = 7919  # a prime: mail goes to mailboxes all over the place


class Trial:
    """One system on one number of mailboxes, phase after phase."""

    def __init__(self, load: Load, process: Process, figures: Figures) -> None:
        self.figures = figures
        self._load = load
        self._process = process
        self._next = 0

    def start(self, seconds: float) -> None:
        """Until every mailbox is in IDLE and has had its first scan."""
        figures, number = self.figures, self._load.mailboxes
        whole = self._until(lambda status: status["idling"] == number, seconds)
        figures.sessions = self._status()["idling"]
        if not whole:
            raise Failure(f"{figures.sessions} of {number} in IDLE after {seconds:.0f} s")
        self._wait_scanned("start")
        status = self._status()
        figures.start_seconds = status["all_idling_at"] - self._process.began
        figures.start_scanned_seconds = status["all_scanned_at"] - self._process.began
        figures.start_cpu_seconds = self._process.cpu_seconds()
        self._load.ask("attempts")
        pause(SETTLE_SECONDS)

    def idle(self, seconds: float) -> None:
        """Nothing happens; the memory is looked at after it."""
        began, cpu = time.monotonic(), self._process.cpu_seconds()
        pause(seconds)
        took, used = time.monotonic() - began, self._process.cpu_seconds() - cpu
        self.figures.idle_cpu_seconds_per_minute = used / took * 60
        self.figures.pss_kib = self._process.pss_kib()

    def steady(self, mails: int) -> None:
        """One mail after the other."""
        self._load.ask("latencies")
        began = time.monotonic()
        for turn in range(mails):
            pause(max(0.0, began + turn * MAIL_EVERY_SECONDS - time.monotonic()))
            self._announce([self._next_mailbox()])
        self._wait_scanned("steady mail")
        seconds = self._load.ask("latencies")["seconds"]
        figures = self.figures
        figures.steady_mails = len(seconds)
        figures.steady_p50_ms = percentile_ms(seconds, 0.50)
        figures.steady_p99_ms = percentile_ms(seconds, 0.99)
        figures.steady_max_ms = percentile_ms(seconds, 1.0)

    def bursts(self, number: int, mails: int) -> None:
        """So many bursts, each when all mail of the one before is scanned."""
        pause(SETTLE_SECONDS)
        cpu = self._process.cpu_seconds()
        bursts = [self._burst(mails, f"burst {turn + 1}") for turn in range(number)]
        used = self._process.cpu_seconds() - cpu
        seconds = [each for burst in bursts for each in burst]
        p99s = [percentile_ms(burst, 0.99) for burst in bursts]
        figures = self.figures
        figures.burst_mails = len(seconds)
        figures.burst_p50_ms = percentile_ms(seconds, 0.50)
        figures.burst_p99s_ms = [p99 for p99 in p99s if p99 is not None]
        figures.burst_max_ms = percentile_ms(seconds, 1.0)
        figures.burst_cpu_ms_per_event = used / (number * mails) * 1000

    def slow_burst(self, mails: int) -> None:
        """One burst at a backend that takes its time for each scan."""
        self._load.ask("scans_take", seconds=SLOW_SCAN_SECONDS)
        seconds = self._burst(mails, "burst at a slow backend")
        self._load.ask("scans_take", seconds=0)
        figures = self.figures
        figures.slow_burst_mails = len(seconds)
        figures.slow_burst_p50_ms = percentile_ms(seconds, 0.50)
        figures.slow_burst_p99_ms = percentile_ms(seconds, 0.99)
        figures.slow_burst_max_ms = percentile_ms(seconds, 1.0)

    def storm(self, seconds: float) -> None:
        """Every connection is reset at once; some mail comes before anybody can be back."""
        figures, number = self.figures, self._load.mailboxes
        pause(SETTLE_SECONDS)
        self._load.ask("attempts")
        cpu = self._process.cpu_seconds()
        mailboxes = [self._next_mailbox() for _ in range(min(STORM_MAILS, number))]
        figures.announced += len(mailboxes)
        reset = self._load.ask("reset", mailboxes=mailboxes)
        figures.storm_broken = reset["broken"]
        returned = self._until(lambda status: status["all_idling_at"] > reset["at"], seconds)
        status = self._status()
        figures.storm_returned = status["idling"]
        figures.storm_cpu_seconds = self._process.cpu_seconds() - cpu
        attempts = self._load.ask("attempts")
        figures.storm_attempts = attempts["attempts"]
        figures.storm_attempts_most_in_a_second = attempts["most_in_a_second"]
        if not returned:
            raise Failure(f"{status['idling']} of {number} back after {seconds:.0f} s")
        figures.storm_seconds = status["all_idling_at"] - reset["at"]
        self._wait_scanned("storm")
        pause(SETTLE_SECONDS)
        figures.pss_at_the_end_kib = self._process.pss_kib()

    def stop(self) -> None:
        """SIGTERM to exit."""
        status = self._status()
        self.figures.unscanned = max(self.figures.unscanned or 0, status["unscanned"])
        self.figures.load_server_cpu_seconds = status["cpu_seconds"]
        self._process.check()
        ended, seconds = self._process.stop(STOPS_WITHIN_SECONDS)
        self.figures.exit_status, self.figures.stop_seconds = ended, seconds
        if ended is None:
            raise Failure(f"it did not stop within {STOPS_WITHIN_SECONDS:.0f} s")

    def _burst(self, mails: int, name: str) -> list[float]:
        """Mail in many mailboxes in the same instant; the latencies, when all is quiet again."""
        self._announce([self._next_mailbox() for _ in range(mails)])
        self._wait_scanned(name)
        pause(SETTLE_SECONDS)
        seconds: list[float] = self._load.ask("latencies")["seconds"]
        return seconds

    def _next_mailbox(self) -> int:
        self._next += 1
        return self._next * STEP % self._load.mailboxes

    def _announce(self, mailboxes: list[int]) -> None:
        self.figures.announced += len(mailboxes)
        self._load.ask("announce", mailboxes=mailboxes)

    def _wait_scanned(self, after: str) -> None:
        """Until no mailbox owes a scan; otherwise that is noted, and nothing else is lost."""
        if not self._until(lambda status: status["unscanned"] == 0, SCANNED_WITHIN_SECONDS):
            unscanned = self._status()["unscanned"]
            self.figures.unscanned = max(self.figures.unscanned or 0, unscanned)
            self.figures.problem = f"{unscanned} mailboxes unscanned after the {after}"

    def _until(self, happened: Callable[[dict[str, Any]], bool], seconds: float) -> bool:
        """Wait until it has happened; False when the time is up."""

        def look() -> bool:
            self._process.check()
            return happened(self._status())

        return wait_until(look, seconds, LOOK_SECONDS)

    def _status(self) -> dict[str, Any]:
        return self._load.ask("status")
