"""User name and password: what can be sent, and in which forms it goes over the line; pure."""

from __future__ import annotations

import base64

from ..errors import MailboxUnusable

# Fewer could be part of any ordinary word.
MIN_BASE64_CHARACTERS = 4


def forms(username: str, password: str) -> tuple[str, ...]:
    """The password in the forms in which it goes over the line, the longest first.

    Base64 of it looks different at each of three offsets, so that it is found behind any prefix.
    """
    sasl = _base64(f"\0{username}\0{password}".encode())
    alone = _base64(password.encode())
    within = {_base64_within(password.encode(), offset) for offset in range(3)}
    found = {sasl, alone, _escaped(password), password}
    found |= {text for text in within if len(text) >= MIN_BASE64_CHARACTERS}
    return tuple(sorted(found - {""}, key=len, reverse=True))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _base64_within(data: bytes, offset: int) -> str:
    """The characters of base64 that ``data`` alone decides, ``offset`` bytes after a boundary."""
    text = _base64(b"\0" * offset + data)
    end = (offset + len(data)) * 8 // 6
    return text[-(-offset * 8 // 6) : end]


def quoted(text: str) -> bytes:
    """A quoted string (RFC 9051, section 4.3), in UTF-8."""
    return f'"{_escaped(text)}"'.encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def refuse_control_characters(username: str, password: str) -> None:
    """CR, LF and NUL would end the command line or the SASL message."""
    for what, text in (("the user name", username), ("the password", password)):
        if any(character in text for character in "\r\n\0"):
            raise MailboxUnusable(f"{what} contains a line break or NUL: fix the row")
