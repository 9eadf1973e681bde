"""The table at the end."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.tools import console
from scripts.tools.soak.accounts import DovecotAccount
from scripts.tools.soak.chronicle import Chronicle, say
from scripts.tools.soak.footprint import Footprint
from scripts.tools.soak.run import Soak
from scripts.tools.soak.world import World
from tests.support.recording_backend import RecordingBackend

SCAN_CONCURRENCY = 16  # the daemon's default


@dataclass
class Outcome:
    """How the run ended."""

    missed: dict[str, int]
    """Mails that no successful scan covers, by mailbox."""
    exit_status: int | None
    """None: the daemon did not stop in time."""
    stopped_in_seconds: float
    server_errors: int

    @property
    def good(self) -> bool:
        return not self.missed and self.exit_status == 0 and not self.server_errors


def conclude(world: World, soak: Soak) -> Outcome:
    """Collect what is owed, send the last mails, and stop the daemon."""
    missed = Counter({account.email: account.owed for account in soak.collect()})
    missed |= Counter({account.email: account.owed for account in soak.last_mails()})
    status, seconds = world.daemon.stop()
    errors = [error for site in world.sites for error in site.errors()]
    for error in errors:
        say(f"a scripted server failed of itself: {error!r}")
    return Outcome(dict(missed), status, seconds, len(errors))


def report(world: World, soak: Soak, outcome: Outcome, run: str) -> None:
    """The table, and what else whoever ran this wants to know."""
    on_dovecot = sum(isinstance(account, DovecotAccount) for account in world.accounts)
    rows = [
        ("run", run),
        ("mailboxes", f"{world.mailboxes} ({on_dovecot} on Dovecot)"),
        ("mails", f"{soak.mails}"),
        ("scans", f"{soak.scans_made} ({world.scans.failed} more were failed by the backend)"),
        ("missed", f"{sum(outcome.missed.values())}"),
        ("faults and changes", f"{sum(world.chronicle.happened.values())}"),
        *_reaction_rows(soak, world.chronicle),
        ("requests at once", _concurrency(world.backend)),
        ("daemon's stop", _stop(outcome)),
    ]
    happened = sorted(world.chronicle.happened.items())
    console.show(f"{_table([('', ''), *rows])}\n")
    console.show(f"{_table(_footprint_rows(soak.footprints))}\n")
    console.show("what happened: " + ", ".join(f"{name} {count}" for name, count in happened))
    for email, count in outcome.missed.items():
        console.show(f"missed: {count} in {email}")


def _stop(outcome: Outcome) -> str:
    if outcome.exit_status is None:
        return f"killed after {outcome.stopped_in_seconds:.1f} s"
    return f"exit status {outcome.exit_status} in {outcome.stopped_in_seconds:.1f} s"


def _reaction_rows(soak: Soak, chronicle: Chronicle) -> list[tuple[str, str]]:
    """The slowest reactions, with where to look for them in the log."""
    rows = []
    for quiet, when in ((True, "without faults"), (False, "with faults")):
        for on_dovecot, where in ((False, ""), (True, ", Dovecot")):
            if reactions := soak.reactions(quiet, on_dovecot):
                slowest = max(reactions)
                median = statistics.median(each.seconds for each in reactions)
                chronicle.write(
                    f"[soak] slowest reaction {when}: {slowest.seconds:.2f} s to what came at "
                    f"{chronicle.second(slowest.arrived):.3f} for {slowest.email}"
                )
                told = f"{slowest.seconds:.2f} s (median {median:.3f} s, {len(reactions)} mails)"
                rows.append((f"slowest reaction {when}{where}", told))
    return rows


def _concurrency(backend: RecordingBackend) -> str:
    for_one = max(backend.concurrent_max_by_connection.values(), default=0)
    return f"{backend.concurrent_max} (of {SCAN_CONCURRENCY}), {for_one} for one mailbox (of 1)"


def _footprint_rows(footprints: dict[str, Footprint]) -> list[tuple[str, ...]]:
    """All sessions stand at each of these moments; threads and descriptors can be compared."""
    taken = footprints.values()
    return [
        ("daemon", *footprints),
        ("threads", *(str(each.threads) for each in taken)),
        ("file descriptors", *(str(each.descriptors) for each in taken)),
        ("memory, RSS", *(f"{each.rss_kib / 1024:.1f} MiB" for each in taken)),
        ("memory, PSS", *(f"{each.pss_kib / 1024:.1f} MiB" for each in taken)),
    ]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """A table as Markdown has it; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *body])
