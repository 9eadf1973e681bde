"""User name and password: what can be sent, and in which forms it goes over the line; pure."""

from __future__ import annotations

import base64

from ..errors import MailboxUnusable


def forms(username: str, password: str) -> tuple[str, ...]:
    """The password in the forms in which it goes over the line, the longest first."""
    sasl = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
    alone = base64.b64encode(password.encode()).decode()
    return tuple(form for form in (sasl, alone, _escaped(password), password) if form)


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
