"""Lines for whoever watches."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A line for whoever watches."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)
