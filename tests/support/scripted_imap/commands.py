"""What clients send: commands, and what is in them."""

import re
from typing import NamedTuple

LITERAL = re.compile(rb"\{(\d+)(\+?)\}\r\n")
QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"')
ATOM = re.compile(rb'[^ "\r\n]+')


class Received(NamedTuple):
    """One command as it came, literals and CRLF included; `at` is `time.monotonic()`."""

    at: float
    line: bytes


def bearer(message: bytes) -> tuple[str, str]:
    """User name and token in what XOAUTH2 and OAUTHBEARER say first; empty where there is none."""
    first, *rest = message.decode().split("\x01")
    user = first.removeprefix("user=") if first.startswith("user=") else first.split(",")[1][2:]
    tokens = [part.removeprefix("auth=Bearer ") for part in rest if part.startswith("auth=")]
    return user.replace("=2C", ",").replace("=3D", "="), tokens[0] if tokens else ""


def parse_command(command: bytes) -> list[bytes]:
    """Split a command into tag, name and arguments; atoms, quoted strings and literals alike.

    Returns fewer than two words when it is none.
    """
    words: list[bytes] = []
    text = command.removesuffix(b"\n").removesuffix(b"\r")
    at = 0
    while at < len(text):
        if literal := LITERAL.match(text, at):
            end = literal.end() + int(literal[1])
            words.append(text[literal.end() : end])
        elif quoted := QUOTED.match(text, at):
            end = quoted.end()
            words.append(re.sub(rb"\\(.)", rb"\1", quoted[1]))
        elif atom := ATOM.match(text, at):
            end = atom.end()
            words.append(atom[0])
        else:
            return []
        at = end + (text[end : end + 1] == b" ")
    return words
