"""Delivering mail, and watching what becomes of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from scripts.tools.console import BOLD, GREEN, MAGENTA, RED, Failure, Stopped, painted, pause
from scripts.tools.demo.daemons import SILENCE_SECONDS, shares_text
from scripts.tools.demo.inbox import Inbox
from scripts.tools.demo.mails import TURNS, Mail, steps_of_a_round
from scripts.tools.demo.stage import READY_WITHIN_SECONDS, Stage, say

PAUSE_SECONDS = 2.0
# The daemon has a mailbox scanned once a second at most, but for the first few times.
TURN_SECONDS = 1.1
HAPPENS_WITHIN_SECONDS = 30.0
LOGINS_PER_SECOND = 20  # the daemon's default


Step = Sequence[tuple[int, Mail]]


@dataclass
class Tally:
    """What the last line tells.

    A reaction is the time from the moment at which a mail is handed to the server to the one at
    which the daemon reports the scan that covers it. By then a gambling mail must be gone.
    """

    delivered: int = 0
    scanned: int = 0
    deleted: int = 0
    reactions_seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        slowest = f"{max(self.reactions_seconds):.2f} s" if self.reactions_seconds else "none"
        counts = f"delivered {self.delivered}, scanned {self.scanned}, deleted {self.deleted}"
        return f"{counts}, slowest reaction {slowest}"


@dataclass(frozen=True)
class Delivery:
    """A mail that was handed to the server."""

    mail: Mail
    inbox: Inbox
    uid: int
    at: float

    def __str__(self) -> str:
        return f"“{self.mail.subject}” for {self.inbox.address}"


def perform(on: Stage, tally: Tally, once: bool) -> None:
    """Deliver mail and watch what becomes of it: one round, or until somebody stops it.

    Raises:
        Failure: something did not happen in time.
        Stopped: somebody asked for it.
    """
    _await_start(on)
    say("all mailboxes are watched; mail arrives now" + ("" if once else " (Ctrl-C ends the demo)"))
    steps = steps_of_a_round(len(on.inboxes))
    try:
        for step in _steps(on, steps, once):
            _watch(on, tally, _deliver(on, tally, step))
            pause(TURN_SECONDS * TURNS / len(steps) if once else PAUSE_SECONDS)
    except Stopped:
        _check_kept(on)
        raise
    finally:
        tally.scanned = on.watch.scanned.total()
    _check_kept(on)


def _steps(on: Stage, steps: Sequence[Step], once: bool) -> Iterator[Step]:
    """One round, or rounds without end. Of several daemons one is killed half-way through the
    first round, and all mailboxes get mail at once.
    """
    half, turn = len(steps) // 2, len(steps) // TURNS
    yield from steps[:half]
    if on.daemons.are_several:
        killed_at = _kill_one(on)
        yield list(itertools.chain.from_iterable(steps[half : half + turn]))
        _await_takeover(on, killed_at)
        half += turn
    yield from steps[half:]
    if not once:
        yield from itertools.cycle(steps)


def _kill_one(on: Stage) -> float:
    """When it happened."""
    name, number = on.daemons.kill_one()
    at = time.monotonic()
    what = painted(f"killed daemon {name}", BOLD, RED)
    say(f"{what} (SIGKILL), which watched {number} mailboxes; mail for all of them comes now")
    say(f"the others notice after {SILENCE_SECONDS} s of silence, and take over")
    return at


def _await_takeover(on: Stage, killed_at: float) -> None:
    on.wait_for(
        on.daemons.have_settled, HAPPENS_WITHIN_SECONDS, "the others do not watch its mailboxes"
    )
    after = painted(f"{time.monotonic() - killed_at:.1f} s after the death", BOLD)
    say(f"{painted('taken over', GREEN)} {after}: {shares_text(on.daemons.shares())}")


def _await_start(on: Stage) -> None:
    addresses = [inbox.address for inbox in on.inboxes]
    seconds = READY_WITHIN_SECONDS + len(addresses) / LOGINS_PER_SECOND
    on.wait_for(
        lambda: on.watch.sees(addresses), seconds, "the daemon does not watch all mailboxes"
    )
    if on.daemons.are_several:
        on.wait_for(on.daemons.have_settled, seconds, "the daemons do not share the mailboxes")
        say(f"the daemons share the mailboxes: {shares_text(on.daemons.shares())}")


def _deliver(on: Stage, tally: Tally, step: Step) -> list[Delivery]:
    """Hand the mails of one step to the server, all at once."""
    for number, mail in step:
        kind = painted("gambling", MAGENTA) if mail.gambling else painted("ordinary", GREEN)
        say(f"{kind} mail for {on.inboxes[number].address}: “{mail.subject}” from {mail.sender}")
    with ThreadPoolExecutor(len(step)) as threads:
        delivered = list(threads.map(lambda each: _hand_over(on.inboxes[each[0]], each[1]), step))
    tally.delivered += len(delivered)
    return delivered


def _hand_over(inbox: Inbox, mail: Mail) -> Delivery:
    at = time.monotonic()
    return Delivery(mail, inbox, inbox.deliver(mail), at)


def _watch(on: Stage, tally: Tally, delivered: list[Delivery]) -> None:
    """Wait for the scan of each mail, and look whether the right thing has happened to it."""
    for each in delivered:
        email, number = each.inbox.address, each.inbox.delivered
        on.wait_for(
            lambda email=email, number=number: on.watch.scanned[email] >= number,  # type: ignore[misc]
            HAPPENS_WITHIN_SECONDS,
            f"the daemon reports no scan that covers {each}",
        )
        seconds = on.watch.scanned_at[email] - each.at
        tally.reactions_seconds.append(seconds)
        _look(tally, each, seconds)


def _look(tally: Tally, delivery: Delivery, seconds: float) -> None:
    inbox, there = delivery.inbox, delivery.uid in delivery.inbox.uids()
    after = painted(f"after {seconds:.2f} s", BOLD)
    if not delivery.mail.gambling:
        inbox.kept.add(delivery.uid)
        inbox.check_kept()
        say(f"{painted('scanned', GREEN)} {after}, and still there: {delivery}")
    elif there:
        raise Failure(f"gambling mail {delivery} was scanned, and is still there")
    else:
        tally.deleted += 1
        say(f"{painted('gone', MAGENTA)} {after}: {delivery}")


def _check_kept(on: Stage) -> None:
    for inbox in on.inboxes:
        inbox.check_kept()
