"""What was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Figures:
    """What was measured of one system at one number of mailboxes; None where it was not."""

    system: str
    mailboxes: int
    problem: str = ""
    sessions: int = 0
    """Mailboxes that were in IDLE at the end of the start."""
    start_seconds: float | None = None
    start_scanned_seconds: float | None = None
    """Until each mailbox had its first scan as well."""
    start_cpu_seconds: float | None = None
    pss_kib: float | None = None
    pss_of_one_kib: float | None = None
    """PSS of the process with one mailbox."""
    idle_cpu_seconds_per_minute: float | None = None
    steady_mails: int = 0
    steady_p50_ms: float | None = None
    steady_p99_ms: float | None = None
    steady_max_ms: float | None = None
    burst_mails: int = 0
    """Of all bursts at a backend that answers at once; so are p50, max and CPU."""
    burst_p50_ms: float | None = None
    burst_p99s_ms: list[float] = field(default_factory=list)
    """The p99 of each burst."""
    burst_max_ms: float | None = None
    burst_cpu_ms_per_event: float | None = None
    slow_burst_mails: int = 0
    """Of one burst at a backend that takes its time for each scan."""
    slow_burst_p50_ms: float | None = None
    slow_burst_p99_ms: float | None = None
    slow_burst_max_ms: float | None = None
    storm_broken: int = 0
    storm_returned: int = 0
    storm_seconds: float | None = None
    storm_cpu_seconds: float | None = None
    storm_attempts: int = 0
    storm_attempts_most_in_a_second: int = 0
    pss_at_the_end_kib: float | None = None
    announced: int = 0
    unscanned: int | None = None
    """Mailboxes that still owed a scan after any of the phases."""
    load_server_cpu_seconds: float | None = None
    stop_seconds: float | None = None
    exit_status: int | None = None

    @property
    def kib_per_mailbox(self) -> float | None:
        """What a further mailbox costs: without what the process takes with one."""
        if self.pss_kib is None or self.pss_of_one_kib is None:
            return None
        return (self.pss_kib - self.pss_of_one_kib) / self.mailboxes

    @property
    def kib_per_mailbox_whole(self) -> float | None:
        """The whole process, shared out."""
        return None if self.pss_kib is None else self.pss_kib / self.mailboxes

    @property
    def burst_p99_ms(self) -> float | None:
        """The median of the bursts' p99s."""
        return statistics.median(self.burst_p99s_ms) if self.burst_p99s_ms else None

    @property
    def burst_p99_worst_ms(self) -> float | None:
        """The worst of the bursts' p99s."""
        return max(self.burst_p99s_ms, default=None)

    def raw(self) -> dict[str, Any]:
        """All of it, for JSON."""
        derived = (
            "kib_per_mailbox", "kib_per_mailbox_whole", "burst_p99_ms", "burst_p99_worst_ms",
        )  # fmt: skip
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def percentile_ms(seconds: Sequence[float], part: float) -> float | None:
    """The smallest of these that so large a part of them does not exceed, in milliseconds."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] * 1000 if ordered else None
