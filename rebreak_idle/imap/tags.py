"""The tags of commands (RFC 9051, section 2.2.1)."""

from __future__ import annotations


class SharedTags:
    """To be put before `imaplib.IMAP4`: has all connections begin their tags alike.

    imaplib begins those of each connection at random, and compiles a pattern for it: 1 KiB, and a
    twentieth of the processor time of a login.
    """

    @property
    def tagpre(self) -> bytes:
        """How all tags begin."""
        return b"AAAA"

    @tagpre.setter
    def tagpre(self, own: bytes) -> None:
        """Ignored."""
