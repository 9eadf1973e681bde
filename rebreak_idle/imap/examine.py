"""EXAMINE, and what it tells of a mailbox (RFC 9051, section 6.3.3)."""

from __future__ import annotations

from .answers import last_number, status_numbers
from .transport import Transport
from .uids import Snapshot


def examine(transport: Transport, mailbox: str) -> Snapshot:
    """EXAMINE; where it tells no UIDNEXT or UIDVALIDITY, STATUS is asked (section 6.3.11).

    With more than one EXISTS, or an EXPUNGE, news is mixed with the answer, and UIDNEXT counts as
    not told.
    """
    transport.has_expunged = False
    typ, data = transport.select(mailbox, readonly=True)
    if typ != "OK":
        raise transport.error(f"EXAMINE refused: {data!r}")
    uidnext, uidvalidity = _number(transport, "UIDNEXT"), _number(transport, "UIDVALIDITY")
    if not (uidnext and uidvalidity):
        answer = transport.if_known(transport.status, mailbox, "(UIDNEXT UIDVALIDITY)")
        told = status_numbers(answer)
        uidnext, uidvalidity = uidnext or told[0], uidvalidity or told[1]
    is_plain = len(transport.untagged_responses.get("EXISTS", [])) == 1
    is_plain &= not transport.has_expunged
    return Snapshot(
        exists=_number(transport, "EXISTS") or 0,
        uidnext=uidnext if is_plain else None,
        uidvalidity=uidvalidity,
        is_plain=is_plain,
    )


def _number(transport: Transport, name: str) -> int | None:
    return last_number(transport.untagged_responses.get(name, []))
