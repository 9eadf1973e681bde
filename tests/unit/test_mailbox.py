"""Mailboxes and how two readings of them differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebreak_idle.mailbox import Difference, Mailbox, diff

ANNA = Mailbox(
    id="1",
    user_id="u1",
    email="anna@example.org",
    host="imap.example.org",
    port=993,
    username="anna@example.org",
    stored_password="sealed",
)
BORIS = replace(ANNA, id="2", user_id="u2", email="boris@example.org")
MAILBOXES = st.builds(
    lambda id_, host, password: replace(ANNA, id=id_, host=host, stored_password=password),
    st.sampled_from("abcdef"),
    st.sampled_from(["one.example", "two.example"]),
    st.sampled_from(["sealed", "sealed anew"]),
)
READINGS = st.lists(MAILBOXES, unique_by=lambda mailbox: mailbox.id)


def by_id(*mailboxes: Mailbox) -> dict[str, Mailbox]:
    return {mailbox.id: mailbox for mailbox in mailboxes}


def test_a_new_row_is_added() -> None:
    """A row that does not run yet is to be started."""
    assert diff(by_id(ANNA), [ANNA, BORIS]) == Difference(added=["2"], changed=[], removed=[])


def test_a_row_that_is_gone_is_removed() -> None:
    """What runs without a row is to be stopped."""
    assert diff(by_id(ANNA, BORIS), [BORIS]) == Difference(added=[], changed=[], removed=["1"])


def test_nothing_differs() -> None:
    """The same rows in another order, read as new objects, change nothing."""
    again = [replace(BORIS), replace(ANNA)]
    assert diff(by_id(ANNA, BORIS), again) == Difference(added=[], changed=[], removed=[])


def test_from_nothing_and_to_nothing() -> None:
    """The first reading starts everything in its order, and an empty one stops everything."""
    assert diff({}, [BORIS, ANNA]) == Difference(added=["2", "1"], changed=[], removed=[])
    assert diff(by_id(BORIS, ANNA), []) == Difference(added=[], changed=[], removed=["2", "1"])


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "u9"},
        {"email": "anne@example.org"},
        {"host": "mail.example.org"},
        {"port": 143},
        {"username": "anne"},
        {"stored_password": "sealed anew"},
        {"starttls": True},
        {"oauth2": True},
        {"problem": "imap_host is NULL or empty"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_any_field_counts(change: dict[str, object]) -> None:
    """A row with any other value is to be replaced, and only that row."""
    changed = replace(ANNA, **change)  # type: ignore[arg-type]
    assert diff(by_id(ANNA, BORIS), [changed, BORIS]) == Difference([], ["1"], [])


@given(running=READINGS, wanted=READINGS)
@settings(deadline=None)
def test_applying_the_difference_gives_what_is_wanted(
    running: list[Mailbox], wanted: list[Mailbox]
) -> None:
    """Starting, replacing and stopping as told leads to the wanted mailboxes exactly."""
    target, result = by_id(*wanted), by_id(*running)
    difference = diff(result, wanted)
    for id_ in difference.removed:
        del result[id_]
    for id_ in difference.changed:
        assert result.pop(id_) != target[id_]
        result[id_] = target[id_]
    for id_ in difference.added:
        assert id_ not in result
        result[id_] = target[id_]
    assert result == target


@given(running=READINGS, wanted=READINGS)
@settings(deadline=None)
def test_unchanged_mailboxes_are_not_touched(running: list[Mailbox], wanted: list[Mailbox]) -> None:
    """A mailbox that is the same before and after appears nowhere, and no id appears twice."""
    before, after = by_id(*running), by_id(*wanted)
    difference = diff(before, wanted)
    touched = [*difference.added, *difference.changed, *difference.removed]
    assert len(touched) == len(set(touched))
    assert not [id_ for id_ in touched if before.get(id_) == after.get(id_)]


def test_the_repr_hides_the_stored_password() -> None:
    """A Mailbox that gets printed does not show what is stored as its password."""
    text = repr(replace(ANNA, stored_password="0123:4567:89ab"))
    assert "89ab" not in text
    assert "anna@example.org" in text


def test_the_name_in_the_log() -> None:
    """The log calls a mailbox by its address, and by its id where it has none."""
    assert ANNA.name == "anna@example.org"
    assert replace(ANNA, email="").name == "1"
