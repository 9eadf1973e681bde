"""PendingScan and uids: what is owed, what pays it, and mail that nobody announced."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rebreak_idle.imap.uids import Finding, Snapshot, UidTracker
from rebreak_idle.scan.pending import CATCH_UP, EXISTS, POLL, PendingScan

REASONS = st.sampled_from([EXISTS, POLL, CATCH_UP])


# PendingScan


def test_nothing_is_owed_at_first() -> None:
    """A new debt owes nothing."""
    debt = PendingScan()
    assert not debt.owed
    assert debt.reason is None


def test_the_reasons_are_those_of_the_request() -> None:
    """The reasons are spelled as the scan request has them."""
    assert (EXISTS, POLL, CATCH_UP) == ("exists", "poll", "catch-up")


def test_a_debt_is_paid_by_a_request_that_began_afterwards() -> None:
    """A request that began after the debt arose pays it."""
    debt = PendingScan()
    debt.owe(EXISTS)
    assert debt.reason == EXISTS
    assert debt.begin() == EXISTS
    assert debt.owed
    debt.settle()
    assert not debt.owed


def test_what_is_left_is_what_arose_since() -> None:
    """What arises while a request is under way is not covered by it, but by the next one."""
    debt = PendingScan()
    debt.owe(EXISTS)
    debt.begin()
    debt.owe(CATCH_UP)
    debt.settle()
    assert debt.reason == CATCH_UP
    debt.begin()
    debt.settle()
    assert not debt.owed


def test_a_request_that_failed_pays_nothing() -> None:
    """Beginning alone pays nothing, however often."""
    debt = PendingScan()
    debt.owe(EXISTS)
    debt.begin()
    debt.begin()
    assert debt.reason == EXISTS


@pytest.mark.parametrize(
    ("reasons", "named"),
    [
        ([CATCH_UP, EXISTS], EXISTS),
        ([EXISTS, CATCH_UP], EXISTS),
        ([CATCH_UP, POLL], POLL),
        ([POLL, EXISTS, CATCH_UP], EXISTS),
    ],
)
def test_the_most_telling_reason_is_named(reasons: list[str], named: str) -> None:
    """Of several debts the request names the most telling one, begun before or since."""
    debt = PendingScan()
    for reason in reasons:
        debt.owe(reason)
    assert debt.reason == named
    debt = PendingScan()
    for reason in reasons:
        debt.owe(reason)
        debt.begin()
    assert debt.begin() == named


@given(st.lists(REASONS | st.sampled_from(["begin", "succeed"]), max_size=40))
@settings(deadline=None)
def test_only_what_arose_before_a_request_is_paid_by_it(steps: list[str]) -> None:
    """Something is owed exactly while there is a debt that no successful request began after."""
    debt, unpaid, covered = PendingScan(), 0, 0
    for step in steps:
        if step == "begin":
            debt.begin()
            covered = unpaid
        elif step == "succeed":
            debt.settle()
            unpaid, covered = unpaid - covered, 0
        else:
            debt.owe(step)
            unpaid += 1
        assert debt.owed == bool(unpaid)


# UidTracker


def examined_at(uidnext: int | None, exists: int = 3, uidvalidity: int | None = 7) -> UidTracker:
    uids = UidTracker()
    uids.examined(Snapshot(exists, uidnext, uidvalidity))
    return uids


def test_a_mailbox_that_was_never_seen_is_unknown() -> None:
    """The first snapshot says that mail may have come: nobody listened before."""
    assert UidTracker().examined(Snapshot(0, 1, 7)) is Finding.UNKNOWN


def test_nothing_happened() -> None:
    """The same snapshot again means that nothing came."""
    assert examined_at(10).examined(Snapshot(3, 10, 7)) is Finding.NOTHING


def test_mail_nobody_announced() -> None:
    """UIDNEXT that grew without an announcement is mail that was missed."""
    assert examined_at(10).examined(Snapshot(4, 11, 7)) is Finding.UNANNOUNCED


def test_mail_that_came_and_went_unnoticed() -> None:
    """Mail that was deleted again shows in UIDNEXT, though not in the number of messages."""
    assert examined_at(10).examined(Snapshot(3, 11, 7)) is Finding.UNANNOUNCED


def test_announced_mail_is_known() -> None:
    """UIDNEXT that grew by what was announced is nothing new."""
    uids = examined_at(10)
    uids.announced(4)
    uids.announced(6)
    assert uids.examined(Snapshot(6, 13, 7)) is Finding.NOTHING


def test_one_announced_and_one_not() -> None:
    """An announcement covers as many messages as it added, not all."""
    uids = examined_at(10)
    uids.announced(4)
    assert uids.examined(Snapshot(5, 12, 7)) is Finding.UNANNOUNCED


def test_deleted_messages_are_counted_out() -> None:
    """Arrivals are told from what is left after announced deletions."""
    uids = examined_at(10)
    uids.announced(4)
    uids.expunged()
    uids.expunged()
    uids.announced(3)
    assert uids.examined(Snapshot(3, 12, 7)) is Finding.NOTHING


def test_a_repeated_announcement_counts_once() -> None:
    """EXISTS with the number that is known already announces nothing."""
    uids = examined_at(10)
    uids.announced(3)
    uids.announced(4)
    uids.announced(4)
    assert uids.examined(Snapshot(4, 11, 7)) is Finding.NOTHING


def test_exists_that_fell_makes_the_count_doubtful() -> None:
    """A server that lowers EXISTS without an EXPUNGE can no longer be counted with."""
    uids = examined_at(10)
    uids.announced(2)
    uids.announced(3)
    assert uids.examined(Snapshot(3, 11, 7)) is Finding.UNKNOWN
    assert uids.examined(Snapshot(3, 11, 7)) is Finding.NOTHING


def test_announcements_are_forgotten_with_each_snapshot() -> None:
    """What was announced before a snapshot does not excuse what comes after it."""
    uids = examined_at(10)
    uids.announced(4)
    uids.examined(Snapshot(4, 11, 7))
    assert uids.examined(Snapshot(5, 12, 7)) is Finding.UNANNOUNCED


def test_expunge_of_an_empty_mailbox() -> None:
    """A server that counts wrongly is not counted with."""
    uids = examined_at(10, exists=0)
    uids.expunged()
    uids.announced(1)
    assert uids.examined(Snapshot(1, 11, 7)) is Finding.UNKNOWN


@pytest.mark.parametrize(
    "now",
    [
        Snapshot(3, 10, 8),
        Snapshot(3, None, 7),
        Snapshot(3, 10, None),
        Snapshot(3, None, None),
    ],
)
def test_what_is_unknown_is_not_nothing(now: Snapshot) -> None:
    """With another or no UIDVALIDITY, or without UIDNEXT, mail may have come."""
    assert examined_at(10).examined(now) is Finding.UNKNOWN


@pytest.mark.parametrize("uidnext", [9, 1, 0])
def test_uids_that_fell_back_are_not_nothing(uidnext: int) -> None:
    """UIDNEXT never falls; where it does, mail may have come."""
    assert examined_at(10).examined(Snapshot(3, uidnext, 7)) is not Finding.NOTHING


@pytest.mark.parametrize("last", [Snapshot(3, None, 7), Snapshot(3, 10, None)])
def test_an_unknown_past_counts_as_mail(last: Snapshot) -> None:
    """When the last snapshot said too little, the next one cannot clear it; the one after can."""
    uids = UidTracker()
    uids.examined(last)
    assert uids.examined(Snapshot(3, 10, 7)) is Finding.UNKNOWN
    assert uids.examined(Snapshot(3, 10, 7)) is Finding.NOTHING


class MailboxModel(RuleBasedStateMachine):
    """A mailbox that is watched: mail comes and goes, announced or swallowed.

    An arrival is unannounced until some EXISTS is heard: every EXISTS makes a debt, and its scan
    covers all that came before.
    """

    @initialize(exists=st.integers(0, 5), uidnext=st.integers(1, 100))
    def select(self, exists: int, uidnext: int) -> None:
        """The first EXAMINE."""
        self.exists, self.uidnext = exists, max(uidnext, exists + 1)
        self.uids = UidTracker()
        assert self.uids.examined(self.snapshot()) is Finding.UNKNOWN
        self.forget()

    def forget(self) -> None:
        self.unannounced = 0
        self.regular = True  # all was announced, and UIDs have no gaps

    def snapshot(self) -> Snapshot:
        return Snapshot(self.exists, self.uidnext, 7)

    @rule(announced=st.booleans(), count=st.integers(1, 3))
    def arrive(self, announced: bool, count: int) -> None:
        """Messages come at once; the server says so, or does not."""
        self.exists += count
        self.uidnext += count
        self.unannounced += count
        if announced:
            self.say_exists()
        else:
            self.regular = False

    @rule()
    def say_exists(self) -> None:
        """The server tells how many messages there are."""
        self.uids.announced(self.exists)
        self.unannounced = 0

    @precondition(lambda self: self.exists)
    @rule(announced=st.booleans())
    def expunge(self, announced: bool) -> None:
        """A message goes; the server says so, or does not."""
        self.exists -= 1
        if announced:
            self.uids.expunged()
        else:
            self.regular = False

    @rule(gap=st.integers(1, 5))
    def skip_uids(self, gap: int) -> None:
        """UIDs are given away without a message, as by an APPEND that failed."""
        self.uidnext += gap
        self.regular = False

    @rule()
    def examine(self) -> None:
        """EXAMINE finds every unannounced arrival, and invents none."""
        finding = self.uids.examined(self.snapshot())
        if self.unannounced:
            assert finding is not Finding.NOTHING
        if self.regular:
            assert finding is Finding.NOTHING
        self.forget()

    @invariant()
    def sound(self) -> None:
        """The model itself is a possible mailbox."""
        assert getattr(self, "exists", 0) >= 0


MailboxModel.TestCase.settings = settings(deadline=None, max_examples=300)
TestMailboxModel = MailboxModel.TestCase
TestMailboxModel.__doc__ = "No arrival that nobody announced escapes EXAMINE, and none is made up."


def test_a_count_that_is_unsure_makes_nothing_of_an_exists() -> None:
    """Where an EXPUNGE may have gone uncounted, "as many as are left" may be a new mail."""
    mixed = UidTracker()
    mixed.examined(Snapshot(4, None, 7, is_plain=False))
    flooded = examined_at(10, exists=4)
    flooded.lose_count()
    garbled = examined_at(10, exists=4)
    garbled.doubt_count()
    for uids in (mixed, flooded, garbled):
        uids.expunged()
        assert uids.announced(3)
    sure = examined_at(10, exists=4)
    sure.expunged()
    assert not sure.announced(3)
