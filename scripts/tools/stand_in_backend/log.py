"""The log of the stand-in."""

import threading


def one_line(text: str) -> str:
    """``text`` fit for a log line: nothing in it can end the line or steer a terminal."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(clean.split())[:300]


_saying = threading.Lock()


def say(text: str) -> None:
    """Write one log line at once."""
    with _saying:
        print(f"[backend] {one_line(text)}", flush=True)
