"""The stand-in for the backend as a process."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from rebreak_idle.config import environment, load
from rebreak_idle.errors import ConfigError
from scripts.tools.console import show_any_character
from scripts.tools.stand_in_backend.judge import Judge, read_blocklist
from scripts.tools.stand_in_backend.log import one_line, say
from scripts.tools.stand_in_backend.server import Backend
from scripts.tools.stand_in_backend.tokens import LIFE_SECONDS, TokenMaker

DEFAULT_PORT = 3016
BLOCKLIST = Path(__file__).parents[2] / "blocklist.txt"


def main() -> int:
    """Serve until SIGTERM or SIGINT. Exit status 0; 78 where the environment is wrong."""
    arguments = _arguments()
    show_any_character()
    try:
        config = load(environment(Path.cwd()))
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 78
    try:
        judge = Judge(read_blocklist(arguments.blocklist))
        tokens = TokenMaker(arguments.token_key, arguments.token_seconds)
        server = Backend(arguments.port, config, judge, tokens)
    except (OSError, ValueError) as error:
        print(f"cannot start: {one_line(str(error))}", file=sys.stderr)
        return 1
    _serve(server)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="stand_in_backend.py", description="The development stand-in for the backend."
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes any free one")
    parser.add_argument("--blocklist", type=Path, default=BLOCKLIST, metavar="FILE")
    parser.add_argument(
        "--token-key", type=Path, metavar="FILE", help="signs access tokens; made if not there"
    )
    parser.add_argument("--token-seconds", type=float, default=LIFE_SECONDS, metavar="SECONDS")
    return parser.parse_args()


def _serve(server: Backend) -> None:
    """Serve until told to stop; scans under way are finished. A second signal ends at once."""
    asked = {signal.SIGTERM, signal.SIGINT}
    # Blocked and waited for, here and in every thread that begins later: a handler could come
    # while this very thread holds the lock of what it waits on.
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    say(f"listening on http://127.0.0.1:{server.server_port}")
    signal.sigwait(asked)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, asked)
    server.shutdown()
    thread.join()
    server.server_close()
    say("stopped")


if __name__ == "__main__":
    sys.exit(main())
