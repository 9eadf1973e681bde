"""What a server offers, of all that it says about it; pure."""

from __future__ import annotations

from typing import Any

# What is in IMAP4rev2 and need not be named beside it (RFC 9051, appendix E); imaplib knows a
# server by IMAP4rev1, and all that we use of that is in IMAP4rev2 too.
IN_REV2 = (b"IMAP4REV1", b"IDLE")


def union(told: list[Any]) -> list[Any]:
    """The CAPABILITY responses of one answer as one response, in upper case.

    imaplib takes the last and IMAPClient the first. What is offered too much costs a refusal, and
    what is overlooked costs IDLE. That LOGIN is *disabled* is believed of the last one only.
    """
    responses = [line.upper().split() for line in told if isinstance(line, bytes)]
    if not responses:
        return told
    names = dict.fromkeys(name for response in responses for name in response)
    if b"LOGINDISABLED" not in responses[-1]:
        names.pop(b"LOGINDISABLED", None)
    if b"IMAP4REV2" in names:
        names |= dict.fromkeys(IN_REV2)
    return [b" ".join(names)]
