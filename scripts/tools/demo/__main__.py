"""The demo as a process: its command line, its end and its exit status."""

from __future__ import annotations

import argparse
import sys

from scripts.tools import console

console.listen_for_signals()  # before the imports, which take a while

from scripts.tools.console import BOLD, GREEN, RED, Stopped, painted
from scripts.tools.demo.daemons import NAMES
from scripts.tools.demo.mails import addresses
from scripts.tools.demo.play import Tally, perform
from scripts.tools.demo.stage import say, stage
from scripts.tools.servers import TROUBLE, told

MOST_MAILBOXES = 200
"""Each takes some files in each of the servers, of which 1,024 is the usual limit."""
MAILBOXES = 3
MAILBOXES_AN_INSTANCE = 3


def main() -> int:
    """Run the demo. Exit status 0; 1 where something did not happen."""
    options = _options()
    console.show_any_character()
    tally = Tally()
    problems = _run(tally, options)
    for problem in problems:
        say(f"{painted('FAILED:', BOLD, RED)} {problem}")
    if not problems:
        say(painted(_ending(options.once), GREEN))
    console.show(str(tally) if tally.delivered else "stopped before any mail was delivered")
    return 1 if problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Rebreak's mail protection, to watch."
    )
    parser.add_argument("--once", action="store_true", help="one round, then say whether all went")
    parser.add_argument(
        "--mailboxes", type=int, metavar="N",
        help=f"1 to {MOST_MAILBOXES}; default {MAILBOXES}, and {MAILBOXES_AN_INSTANCE} for each "
        "of several instances",
    )  # fmt: skip
    parser.add_argument(
        "--instances", type=int, default=1, metavar="N",
        help=f"1 to {len(NAMES)} daemons; of several one is killed, and the others take over",
    )  # fmt: skip
    options = parser.parse_args()
    if not 1 <= options.instances <= len(NAMES):
        parser.error(f"--instances takes a number from 1 to {len(NAMES)}")
    if options.mailboxes is None:
        several = options.instances > 1
        options.mailboxes = MAILBOXES_AN_INSTANCE * options.instances if several else MAILBOXES
    if not 1 <= options.mailboxes <= MOST_MAILBOXES:
        parser.error(f"--mailboxes takes a number from 1 to {MOST_MAILBOXES}")
    return options


def _run(tally: Tally, options: argparse.Namespace) -> list[str]:
    """The whole demo, from start to end; what went wrong, each once."""
    problems: list[str] = []
    ending: list[str] = []
    try:
        with stage(addresses(options.mailboxes), options.instances, ending) as on:
            perform(on, tally, options.once)
    except Stopped:
        problems += ["stopped before the round was complete"] if options.once else []
    except TROUBLE as error:
        # A tool that starts a server may get the Ctrl-C as well, and fail of it.
        problems += [] if console.asked_to_stop() and not options.once else [told(error)]
    return list(dict.fromkeys(problems + ending))


def _ending(once: bool) -> str:
    how = "the round is complete" if once else "stopped as you asked"
    return f"{how}: all servers are stopped, and nothing is left behind"


if __name__ == "__main__":
    sys.exit(main())
