"""What the daemon takes."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.tools.child import Child


@dataclass(frozen=True)
class Footprint:
    """What the daemon's process takes, as /proc shows it."""

    threads: int
    descriptors: int
    rss_kib: int
    pss_kib: int

    @classmethod
    def of(cls, process: Child) -> Footprint:
        return cls(process.threads(), process.descriptors(), process.rss_kib(), process.pss_kib())
