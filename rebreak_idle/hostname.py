"""The `imap_host` of a row, as people type and paste it."""

from __future__ import annotations

import re
from ipaddress import ip_address

SHOWN_CHARACTERS = 60
MAX_NAME_CHARACTERS = 253  # RFC 1035, section 2.3.4, as text
# Blanks, controls, and what else is ASCII but for letters, digits, "-", "." and "_".
_NOT_IN_A_NAME = re.compile(r"[\s\x00-,/:-@\[-^`{-\x9f]")


def host_problem(host: str) -> str:
    """Why ``host`` cannot be a server's name or address, and what to mend; else empty."""
    if _is_address(host) or _is_name(host):
        return ""
    shown = host if len(host) <= SHOWN_CHARACTERS else host[:SHOWN_CHARACTERS] + "…"
    # What stands before an @ may be a password.
    what = "has an @ in it" if "@" in host else f"is {shown!a}"
    return (
        f"imap_host {what}: it takes the server's name alone, without scheme, port, path and "
        "blanks; a port goes into imap_port"
    )


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    if _NOT_IN_A_NAME.search(host) or len(host) > MAX_NAME_CHARACTERS:
        return False
    try:
        host.encode("idna")
    except UnicodeError:  # such as an empty label
        return False
    return True
