"""The soak as a process: its command line, its end and its exit status."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from scripts.tools import console

console.listen_for_signals()  # before the imports, which take a while

from scripts.tools.console import Stopped
from scripts.tools.servers import TROUBLE, told
from scripts.tools.soak.chronicle import Chronicle, say
from scripts.tools.soak.report import conclude, report
from scripts.tools.soak.run import Soak
from scripts.tools.soak.world import World


def main() -> int:
    """Run the soak. Exit status 0 when nothing was missed and the daemon stopped cleanly."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    say(f"{options.mailboxes} mailboxes, {options.minutes:g} minutes, seed {options.seed}")
    with Chronicle(options.log or folder / "soak.log") as chronicle:
        good = _run(options, chronicle)
    if not good or options.log:
        say(f"the log of the run: {chronicle.path}")
    if good or options.log:
        shutil.rmtree(folder)
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description="The daemon among mails and faults at random."
    )
    parser.add_argument("minutes", nargs="?", type=float, default=10.0, help="default 10")
    parser.add_argument("--mailboxes", type=int, default=60, help="default 60")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random; default 1")
    parser.add_argument("--renew-seconds", default="30", help="IDLE_RENEW_SECONDS; default 30")
    parser.add_argument("--log", type=Path, help="keep the log of the run in this file")
    parser.add_argument("--log-level", default="info", help="the daemon's; default info")
    options = parser.parse_args()
    if options.mailboxes < 1 or options.minutes <= 0:
        parser.error("minutes and mailboxes must be more than none")
    return options


def _run(options: argparse.Namespace, chronicle: Chronicle) -> bool:
    """The whole of it, from start to end; whether all was well."""
    world = World(options.seed, options.mailboxes, chronicle)
    soak = Soak(world)
    settings = {"IDLE_RENEW_SECONDS": options.renew_seconds, "LOG_LEVEL": options.log_level}
    try:
        with world.stage(settings):
            soak.connect()
            soak.phases(options.minutes * 60)
            say("the faults are over; what is owed must come in")
            outcome = conclude(world, soak)
            report(world, soak, outcome, f"{options.minutes:g} min, seed {options.seed}")
    except Stopped:
        say("stopped before the end")
        return False
    except TROUBLE as error:
        # What had just been started may get the Ctrl-C too, and fail of it.
        say("stopped before the end" if console.asked_to_stop() else f"FAILED: {told(error)}")
        return False
    return outcome.good


if __name__ == "__main__":
    sys.exit(main())
