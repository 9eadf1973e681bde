"""The load server as a process."""

from __future__ import annotations

import argparse
import signal
import ssl

from scripts.tools.bench.load_server.server import LoadServer


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description="The load server of scripts/bench.")
    parser.add_argument("--mailboxes", type=int, required=True)
    parser.add_argument("--certificate", required=True, help="PEM file")
    parser.add_argument("--key", required=True, help="PEM file")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    LoadServer(options.mailboxes, context).run()


if __name__ == "__main__":
    main()
