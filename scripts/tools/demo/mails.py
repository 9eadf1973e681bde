"""What is delivered, and to whom."""

from __future__ import annotations

from typing import NamedTuple

NAMES = ("anna", "ben", "clara")
TURNS = 4
"""So many mails each mailbox gets in a round."""
STEPS_A_TURN = 3
"""However many mailboxes there are, a turn has at most so many steps."""


class Mail(NamedTuple):
    """One message to deliver."""

    sender: str
    subject: str
    gambling: bool = False


ORDINARY = (
    Mail("Dr. Weber <practice@health.example>", "Your appointment on Tuesday"),
    Mail("Mum <mum@family.example>", "Sunday lunch?"),
    Mail("City library <loans@library.example>", "Two books are due"),
    Mail("Support group <hello@recovery.example>", "You have made it through 30 days"),
)
GAMBLING = (
    Mail("VIP club <offers@mail.casino.example>", "We miss you", gambling=True),
    Mail("Rewards <news@letters.example>", "Your JACKPOT is waiting", gambling=True),
    Mail("Lucky Spins <hi@lucky-spins.example>", "A present for you", gambling=True),
    Mail("Tipps <post@letters.example>", "100 € für Ihre nächste Sportwette", gambling=True),
)
MAILS = tuple(mail for pair in zip(ORDINARY, GAMBLING, strict=True) for mail in pair)


def addresses(number: int) -> list[str]:
    """The addresses of so many mailboxes."""
    names = [*NAMES, *(f"person{n}" for n in range(len(NAMES) + 1, number + 1))]
    return [f"{name}@example.org" for name in names[:number]]


def steps_of_a_round(mailboxes: int) -> list[list[tuple[int, Mail]]]:
    """What is delivered at once, step after step: a mail for the mailbox of each of these numbers.

    In a round each mailbox gets ordinary and gambling mail in turn, two of each.
    """
    at_once = -(-mailboxes // STEPS_A_TURN)
    return [
        [
            (mailbox, MAILS[(turn + 2 * mailbox) % len(MAILS)])
            for mailbox in range(first, min(first + at_once, mailboxes))
        ]
        for turn in range(TURNS)
        for first in range(0, mailboxes, at_once)
    ]
