"""Access tokens: what hides them, what they cost, and when one is kept."""

import base64
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebreak_idle.access_token import PIECE_CHARACTERS, AccessToken
from rebreak_idle.imap.credentials import forms
from tests.support.oauth import LETTERS

values = st.text(LETTERS + ".~+/=", min_size=PIECE_CHARACTERS, max_size=300)
MAILBOXES = 200


def token(value: str) -> AccessToken:
    return AccessToken(value, 1.0, 1.0)


@given(value=values, before=st.text(max_size=20), behind=st.text(max_size=20))
def test_a_token_is_hidden_in_any_text(value: str, before: str, behind: str) -> None:
    """Whatever stands around it."""
    assert value not in token(value).hide(f"{before}{value}{behind}")


@given(value=values, start=st.integers(0, 290), length=st.integers(PIECE_CHARACTERS, 40))
def test_a_piece_is_hidden(value: str, start: int, length: int) -> None:
    """Each of eight characters or more."""
    piece = value[start : start + length]
    if len(piece) >= PIECE_CHARACTERS:
        assert piece not in token(value).hide(f"said <{piece}> there")


@given(value=values, before=st.binary(max_size=7), behind=st.binary(max_size=7))
def test_base64_is_hidden(value: str, before: bytes, behind: bytes) -> None:
    """At each of its three offsets, with and without padding."""
    said = base64.b64encode(before + value.encode() + behind).decode()
    inner = said[-(-len(before) * 8 // 6) : (len(before) + len(value)) * 8 // 6]
    for text in (said, said.rstrip("=")):
        assert inner not in token(value).hide(text)


@given(text=st.text(max_size=300))
def test_other_texts_stay_as_they_are(text: str) -> None:
    """What has nothing of the token in it is shown as it was said."""
    assert token("€" * 40).hide(text.replace("€", "")) == text.replace("€", "")


@pytest.mark.parametrize("text", ["", "a", "abcd", "a token", "the server said BYE"])
def test_ordinary_words_stay(text: str) -> None:
    """Though the token has some of their letters."""
    assert token("ya29.a-token-of-the-server").hide(text) == text


def size_of(make: Callable[[int], object]) -> float:
    """How many bytes each of many takes."""
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        kept = [make(number) for number in range(MAILBOXES)]
        after = tracemalloc.take_snapshot()
        grown = sum(found.size_diff for found in after.compare_to(before, "filename"))
        return grown / len(kept)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("characters", [220, 1000])
def test_a_token_costs_no_kibibyte_more_than_a_password(characters: int) -> None:
    """What a session keeps to redact it is the token alone; of a password it keeps every form."""

    def password(number: int) -> object:
        return forms(f"{number}@example.org", f"a password of usual length {number}")

    def kept(number: int) -> object:
        return token("".join(random.choices(LETTERS, k=characters)))

    assert size_of(kept) - size_of(password) < 1024
