"""Stored values that do not open."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebreak_idle.cipher import LAYOUTS, PasswordCipher
from rebreak_idle.errors import PasswordUnreadable
from tests.unit.cipher.conftest import (
    GCM_LAYOUTS,
    IV12,
    KEY,
    OTHER_KEY,
    SECRET,
    WRITINGS,
    Write,
    assert_tells_nothing,
    base64_text,
    bytea,
    join,
    refusal,
    relaxed,
    seal,
    sealed_parts,
)


@relaxed
@given(
    st.text(),
    st.sampled_from(GCM_LAYOUTS),
    st.sampled_from(WRITINGS),
    st.integers(min_value=0),
)
def test_a_single_flipped_bit_never_opens(
    password: str, layout: str, write: Write, position: int
) -> None:
    """With a tag, a value in which one bit of any part changed is refused."""
    parts = sealed_parts(password.encode(), layout, IV12)
    whole = bytearray(b"".join(parts.values()))
    byte, bit = divmod(position % (len(whole) * 8), 8)
    whole[byte] ^= 1 << bit
    changed = {"iv": whole[:12], "ciphertext": whole[12:-16], "tag": whole[-16:]}
    stored = join({name: bytes(part) for name, part in changed.items()}, layout, [write] * 3)
    assert "does not open with ENCRYPTION_KEY" in refusal(stored, layout)


NEARLY = st.from_regex(r"\A[0-9a-fA-F+/_=-]{0,80}([:.][0-9a-zA-Z+/_=-]{0,80}){0,3}\Z")
WELL_FORMED = st.tuples(
    st.sampled_from([12, 16]), st.binary(max_size=70), st.binary(min_size=16, max_size=16)
).map(lambda drawn: f"{bytes(drawn[0]).hex()}:{drawn[2].hex()}:{base64_text(drawn[1])}")


@relaxed
@given(
    st.text(st.characters()) | NEARLY | WELL_FORMED | st.binary(max_size=70).map(bytea),
    st.sampled_from(LAYOUTS),
)
def test_any_stored_text_opens_or_is_refused(stored: str, layout: str) -> None:
    """Whatever is stored, the outcome is a text or a PasswordUnreadable that tells nothing."""
    try:
        assert isinstance(PasswordCipher(KEY, layout).decrypt(stored), str)
    except PasswordUnreadable as error:
        assert_tells_nothing(error)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", ["", " ", "\n"])
def test_nothing_stored_is_refused(layout: str, stored: str) -> None:
    """An empty column is told apart from a broken value."""
    assert refusal(stored, layout) == "no password is stored"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_key_does_not_open(layout: str) -> None:
    """A password that was sealed with another key is refused as that."""
    stored = seal(SECRET.encode(), layout, key=OTHER_KEY)
    assert "does not open with ENCRYPTION_KEY (wrong key" in refusal(stored, layout)


@pytest.mark.parametrize(
    ("stored", "layout", "counts"),
    [
        (SECRET, "iv:tag:ciphertext", "has 1 part(s), where ENCRYPTION_LAYOUT {} has 3"),
        ("00:11", "iv:ciphertext:tag", "has 2 part(s), where ENCRYPTION_LAYOUT {} has 3"),
        ("00.11:22.33", "iv:tag:ciphertext", "has 4 part(s), where ENCRYPTION_LAYOUT {} has 3"),
        ("00:11:22", "iv:ciphertext", "has 3 part(s), where ENCRYPTION_LAYOUT {} has 2"),
        ("00:11:22", "iv+tag+ciphertext", "has 3 part(s), where ENCRYPTION_LAYOUT {} has 1"),
    ],
)
def test_a_wrong_number_of_parts_is_named(stored: str, layout: str, counts: str) -> None:
    """A value of another layout is refused with both numbers of parts."""
    assert counts.format(layout) in refusal(stored, layout)


@pytest.mark.parametrize(
    ("name", "layout", "place"),
    [
        ("IV", "iv:tag:ciphertext", 0),
        ("tag", "iv:tag:ciphertext", 1),
        ("ciphertext", "iv:tag:ciphertext", 2),
        ("tag", "iv:ciphertext:tag", 2),
        ("IV", "iv:ciphertext", 0),
        ("ciphertext", "iv:ciphertext", 1),
        ("blob", "iv+tag+ciphertext", 0),
        ("blob", "iv+ciphertext+tag", 0),
    ],
)
@pytest.mark.parametrize(
    "text", ["not hex!", "abcde", "ab=cd", "pässword", "QUJD===", "\u0661\u0661"]
)
def test_a_part_that_is_neither_hex_nor_base64_is_named(
    name: str, layout: str, place: int, text: str
) -> None:
    """A part in no known writing is refused by its name."""
    parts = seal(SECRET.encode(), layout).split(":")
    parts[place] = text
    sentence = refusal(":".join(parts), layout)
    assert sentence == f"the {name} of the stored password is neither hex nor base64"


HEX = {length: "00" * length for length in (4, 12, 13, 16, 17, 20)}


@pytest.mark.parametrize(
    ("stored", "layout", "lengths"),
    [
        (f"{HEX[4]}:{HEX[16]}:00", "iv:tag:ciphertext", "IV {} 4 bytes, where 12 or 16"),
        (f"{HEX[13]}:{HEX[16]}:00", "iv:tag:ciphertext", "IV {} 13 bytes, where 12 or 16"),
        (f":{HEX[16]}:00", "iv:tag:ciphertext", "IV {} 0 bytes, where 12 or 16"),
        (f"{HEX[12]}:{HEX[4]}:00", "iv:tag:ciphertext", "tag {} 4 bytes, where 16"),
        (f"{HEX[12]}:00:{HEX[20]}", "iv:ciphertext:tag", "tag {} 20 bytes, where 16"),
        (f"{HEX[12]}:{HEX[16]}", "iv:ciphertext", "IV {} 12 bytes, where 16"),
        (f"{HEX[16]}:{HEX[17]}", "iv:ciphertext", "ciphertext {} 17 bytes, where a multiple"),
        (f"{HEX[16]}:", "iv:ciphertext", "ciphertext {} 0 bytes, where a multiple of 16"),
        (base64_text(b"\xff" * 27), "iv+tag+ciphertext", "blob {} 27 bytes, where 28 or more"),
        (base64_text(b"\xff" * 27), "iv+ciphertext+tag", "blob {} 27 bytes, where 28 or more"),
    ],
)
def test_a_wrong_length_is_named(stored: str, layout: str, lengths: str) -> None:
    """A part of a wrong length is refused with its name, its length and the right one."""
    assert lengths.format("of the stored password has") in refusal(stored, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_utf8_is_refused(layout: str) -> None:
    """A value that opens to bytes that are no text is refused, and the bytes stay hidden."""
    assert "opens, but not to UTF-8 text" in refusal(
        seal(b"\xff" + SECRET.encode(), layout), layout
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("plain", [b"\xff" + SECRET.encode(), SECRET.encode()])
def test_a_logged_traceback_tells_no_secret(layout: str, plain: bytes) -> None:
    """The traceback of a refusal has neither the stored text, nor the key, nor the password."""
    key = OTHER_KEY if plain.isascii() else KEY
    stored = seal(plain, layout)
    with pytest.raises(PasswordUnreadable) as caught:
        PasswordCipher(key, layout).decrypt(stored)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (SECRET, key.hex(), repr(key), *stored.split(":")):
        assert secret not in shown
