"""The benchmark as a process: its command line, its end and its exit status."""

from __future__ import annotations

import argparse
import resource
import sys
from contextlib import ExitStack
from pathlib import Path

from scripts.tools import console

console.listen_for_signals()  # before the imports, which take a while

from scripts.tools.bench.log import say
from scripts.tools.bench.report import write
from scripts.tools.bench.rules import BURSTS, SYSTEMS, WITH_TOKENS
from scripts.tools.bench.run import Bench, Options
from scripts.tools.console import Stopped
from scripts.tools.servers import ROOT

SPARE_DESCRIPTORS = 1000


def raise_descriptor_limit(wanted: int) -> str:
    """Let this process and its children open so many files; what stands against it, or nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(hard, wanted)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return (
            f"only {hard:,} files may be open (ulimit -Hn), {wanted:,} are wanted: run it as root"
        )
    if most > hard:
        say(f"as root: the limit of open files is raised from {hard:,} to {most:,}")
    return ""


def _options() -> Options:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="What a mailbox costs, beside other programs."
    )
    parser.add_argument("--sizes", default="1000,3000,10000", help="numbers of mailboxes")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="a folder")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="how long nothing happens")
    parser.add_argument("--mails", type=int, default=500, help="of the steady phase")
    parser.add_argument(
        "--bursts", type=int, default=BURSTS, help="how many, at a backend that answers at once"
    )
    parser.add_argument("--no-defaults", action="store_true", help="no row with default limits")
    given = parser.parse_args()
    systems = given.systems.split(",")
    if unknown := sorted(set(systems) - {*SYSTEMS, WITH_TOKENS}):
        parser.error(
            f"unknown: {', '.join(unknown)}; there are {', '.join((*SYSTEMS, WITH_TOKENS))}"
        )
    try:
        sizes = sorted({int(size) for size in given.sizes.split(",")})
    except ValueError:
        parser.error("--sizes takes numbers with commas between them")
    if min(sizes[0], given.mails, given.bursts) < 1 or given.idle_seconds <= 0:
        parser.error("sizes, mails, bursts and seconds begin at one")
    return Options(
        sizes, systems, given.out.resolve(), given.idle_seconds, given.mails,
        given.bursts, not given.no_defaults,
    )  # fmt: skip


def main() -> int:
    """Run the benchmark. Exit status 0; 1 where a system failed or left mail unscanned."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as parts:
            bench = Bench(options, parts)
            if problem := raise_descriptor_limit(max(options.sizes) + SPARE_DESCRIPTORS):
                bench.remark(problem)
            bench.run()
    except Stopped:
        say("stopped")
        return 1
    write(bench, options)
    return 1 if any(each.problem or each.exit_status for each in bench.figures) else 0


if __name__ == "__main__":
    sys.exit(main())
