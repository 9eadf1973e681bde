"""The vault and its key."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebreak_idle.cipher import LAYOUTS, PasswordCipher, make_key
from tests.unit.cipher.conftest import KEY, SECRET, base64_text, relaxed


def test_the_repr_hides_the_key() -> None:
    """A vault shows its layout and nothing else."""
    assert repr(PasswordCipher(KEY, "iv:ciphertext")) == "PasswordCipher(layout='iv:ciphertext')"


@pytest.mark.parametrize("layout", ["", "iv", "tag:iv:ciphertext", "IV:TAG:CIPHERTEXT"])
def test_an_unknown_layout_is_refused(layout: str) -> None:
    """There is no vault for another layout, and the error lists those there are."""
    with pytest.raises(ValueError, match=re.escape(", ".join(LAYOUTS))):
        PasswordCipher(KEY, layout)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    """There is no vault for a key that is not AES-256's."""
    with pytest.raises(ValueError, match=f"the key has {length} bytes: AES-256 takes 32"):
        PasswordCipher(bytes(length), "iv:ciphertext")


def assert_hides(error: ValueError, text: str) -> None:
    assert type(error) is ValueError
    assert text not in str(error)
    assert error.args == (str(error),)
    assert error.__cause__ is None
    assert error.__context__ is None


def key_refusal(text: str, encoding: str) -> str:
    """The sentence with which the key is refused, once it is sure that it does not show it."""
    with pytest.raises(ValueError) as caught:
        make_key(text, encoding)
    assert_hides(caught.value, text)
    return str(caught.value)


NOT_UTF8 = "\udcff" + SECRET * 2


@pytest.mark.parametrize(
    ("text", "encoding", "sentence"),
    [
        (SECRET, "utf8", "has 21 characters: under utf8 it takes 32 or more"),
        ("ü" * 31, "utf8", "has 31 characters"),
        (NOT_UTF8, "utf8", "is not UTF-8 text"),
        (NOT_UTF8, "sha256", "is not UTF-8 text"),
        (NOT_UTF8, "scrypt:salt", "is not UTF-8 text"),
        (SECRET, "scrypt:\udcff", "is not UTF-8 text"),
        ("ab" * 31, "hex", "is not 64 hex digits"),
        ("ab" * 33, "hex", "is not 64 hex digits"),
        ("0x" + "ab" * 31, "hex", "is not 64 hex digits"),
        (SECRET * 3, "hex", "is not 64 hex digits"),
        ("ab" * 32, "base64", "is not base64 of 32 bytes"),
        (SECRET, "base64", "is not base64 of 32 bytes"),
        ("!" * 43, "base64", "is not base64 of 32 bytes"),
        (SECRET, "scrypt:", "has no salt"),
        (SECRET, "scrypt", "has no salt"),
    ],
)
def test_a_text_that_is_no_key_is_refused(text: str, encoding: str, sentence: str) -> None:
    """A key that cannot be made is refused with what to do, and without the text."""
    assert key_refusal(text, encoding).startswith(sentence)


@pytest.mark.parametrize("encoding", ["", "UTF8", "latin1", "sha256:salt", SECRET])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    """The error lists the encodings, and does not repeat what was put there by mistake."""
    told = key_refusal("k" * 32, encoding)
    assert told.endswith(
        "set ENCRYPTION_KEY_ENCODING to one of utf8, hex, base64, sha256, scrypt:<salt>"
    )
    assert SECRET not in told


@relaxed
@given(
    st.text(st.characters(), min_size=20) | st.binary(min_size=20, max_size=40).map(base64_text),
    st.sampled_from(["utf8", "hex", "base64", "sha256", "latin1", "scrypt:"]),
)
def test_any_text_is_a_key_or_is_refused(text: str, encoding: str) -> None:
    """Whatever the text, the outcome is 32 bytes or a ValueError that does not show it."""
    try:
        assert len(make_key(text, encoding)) == 32
    except ValueError as error:
        assert_hides(error, text)
