"""Whose a mailbox is, and when it may be left to its owner."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebreak_idle.fleet.instance import Instance
from rebreak_idle.fleet.share import Share
from rebreak_idle.fleet.sharing import (
    SLOTS,
    Sharing,
    fleet_fingerprint,
    hash_of,
    owners_of_slots,
    view_text,
)

TEN = [f"host-{number}" for number in range(10)]
NAMES = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("mailbox_id", "number"),
    [
        ("1", 0xF6FC42039FBA3776),
        ("3f6c1c52-5f4b-4a52-9d55-7d4f8f7f5a10", 0x7F7C6EE2E3717339),
        ("ä", 0xF04DBBE25E2BA039),
        ("", 0xE4A6A0577479B2B4),
    ],
)
def test_a_mailbox_has_the_same_hash_everywhere(mailbox_id: str, number: int) -> None:
    """Instances on other machines, with another Python, find the same: these never change."""
    assert hash_of(mailbox_id) == number


def test_slots_have_the_same_owners_everywhere() -> None:
    """The owner is the greatest hash of name, NUL and slot."""
    owners = owners_of_slots(["a", "b", "ö"])
    assert "".join(owners[:32]) == "aaaöabbööbbbabaööböaaaöbbööbbööb"
    assert Counter(owners) == {"a": 1356, "ö": 1416, "b": 1324}


def test_no_hash_depends_on_the_process() -> None:
    """A text that is no UTF-8 has a slot, too, and the order of the names means nothing."""
    assert 0 <= hash_of("\udcff") < 2**64
    assert owners_of_slots(["b", "a"]) == owners_of_slots(["a", "b"])


def test_shares_are_even() -> None:
    """Of 100,000 mailboxes at ten instances each share is within 20 % of the mean."""
    owners = owners_of_slots(TEN)
    shares = Counter(owners[hash_of(str(number)) % SLOTS] for number in range(100_000))
    assert max(abs(share - 10_000) for share in shares.values()) < 2_000


@pytest.mark.parametrize("gone", TEN)
def test_only_the_slots_of_who_goes_move(gone: str) -> None:
    """Each of the others gets about a ninth of them, and keeps its own. The same backwards is
    what happens when one comes.
    """
    before = owners_of_slots(TEN)
    after = owners_of_slots(name for name in TEN if name != gone)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(moved) == before.count(gone)
    assert all(old == gone for old, new in zip(before, after, strict=True) if old != new)
    assert max(Counter(moved).values()) < 2 * len(moved) / 9


@given(NAMES, NAMES)
def test_a_view_is_a_set(some: set[str], others: set[str]) -> None:
    """Views are the same text where they are the same set, and only there."""
    assert (view_text(some) == view_text(others)) == (some == others)


def test_other_queries_are_other_fleets() -> None:
    """So are other schemas; nothing of the two runs into the other."""
    fleets = {fleet_fingerprint(*pair) for pair in [("q", "s"), ("q", ""), ("", "q"), ("qs", "")]}
    assert len(fleets) == 4
    assert fleet_fingerprint("SELECT 1", "public") == "0e039414cd2db2b187048db7ba210877"


# What may be released


def share_of(name: str, ids: list[str], *others: str) -> Share:
    share = Share(name)
    share.set_mailboxes(ids)
    share.adopt(frozenset({name, *others}))
    return share


IDS = [f"m{number}" for number in range(40)]


def row_of(share: Share, name: str, /, **changes: object) -> Instance:
    row = Instance(
        name, "i", 7, False, share.view, True, share.fingerprints[name], share.mine, share.mine
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def released(rows: list[Instance]) -> dict[str, str]:
    """What "a" leaves, which watches everything, where these are the others' rows."""
    return share_of("a", IDS, "b").released(IDS, {row.name: row for row in rows})


def test_what_is_anothers_is_left_to_it_once_it_has_settled() -> None:
    """All of it, and nothing of one's own."""
    b = share_of("b", IDS, "a")
    left = released([row_of(b, "b")])
    assert left == {id_: "b" for id_ in IDS if b.is_mine(id_)}
    assert 0 < len(left) < len(IDS)


@pytest.mark.parametrize(
    "changes",
    [
        {"settled": False},
        {"view": view_text(["b"])},
        {"view": view_text(["a", "b", "c"])},
        {"leaving": True},
        {"share": ""},
        {"name": "c"},
    ],
    ids=str,
)
def test_nothing_is_left_to_one_that_may_not_watch_it(changes: dict[str, object]) -> None:
    """It has not settled, has another view or other rows, leaves, or is not in the view."""
    assert released([row_of(share_of("b", IDS, "a"), "b", **changes)]) == {}
    assert released([]) == {}


def test_a_number_of_mailboxes_does_not_tell_which() -> None:
    """An owner that has not read a new row yet, but one that went, has as many as it should."""
    b = share_of("b", IDS, "a")
    its_own = [id_ for id_ in IDS if b.is_mine(id_)]
    new = next(id_ for id_ in (f"n{number}" for number in range(99)) if b.is_mine(id_))
    a = share_of("a", [id_ for id_ in IDS if id_ != its_own[0]] + [new], "b")
    assert a.counts["b"] == b.mine
    assert a.released([new], {"b": row_of(b, "b")}) == {}


def test_a_fingerprint_does_not_depend_on_the_order() -> None:
    """Rows come in any order."""
    one, other = share_of("a", IDS, "b"), share_of("a", IDS[::-1], "b")
    assert one.fingerprints == other.fingerprints
    assert set(one.fingerprints) == {"a", "b"}


def test_without_a_view_everything_is_ones_own() -> None:
    """And nothing is ever left to anybody."""
    share = Share("a")
    share.set_mailboxes(IDS)
    assert share.is_alone
    assert share.mine == len(IDS)
    assert all(map(share.is_mine, IDS))
    assert share.released(IDS, {"b": row_of(share_of("b", IDS, "a"), "b")}) == {}


def test_the_leaving_of_an_instance_only_moves_its_own() -> None:
    """Adopting another view keeps what stays."""
    share = share_of("a", IDS, "b", "c")
    mine = {id_ for id_ in IDS if share.is_mine(id_)}
    share.adopt(frozenset({"a", "b"}))
    assert mine < {id_ for id_ in IDS if share.is_mine(id_)}


def test_sharing_with_nobody() -> None:
    """One that is alone in the fleet owns every slot."""
    sharing = Sharing(["a"])
    assert {sharing.owner_of(slot) for slot in range(SLOTS)} == {"a"}
    assert sharing.ready({}, {}) == frozenset()
