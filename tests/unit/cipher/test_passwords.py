"""Any password opens, however it was stored."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from rebreak_idle.cipher import LAYOUTS, PasswordCipher
from tests.unit.cipher.conftest import (
    BLOB_LAYOUTS,
    DIVIDED_LAYOUTS,
    KEY,
    SECRET,
    WRITINGS,
    Write,
    base64_text,
    bytea,
    join,
    refusal,
    relaxed,
    seal,
    sealed_parts,
    sealings,
)


@relaxed
@given(sealings())
def test_any_password_opens_however_it_was_stored(sealing: tuple[str, str, str]) -> None:
    """Every text comes back, whatever the layout, the IV, the joiner and the writing of a part."""
    password, layout, stored = sealing
    assert PasswordCipher(KEY, layout).decrypt(stored) == password


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("write", WRITINGS)
def test_an_empty_password_opens(layout: str, write: Write) -> None:
    """An encrypted empty password is the empty text."""
    assert PasswordCipher(KEY, layout).decrypt(seal(b"", layout, write)) == ""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_white_space_around_the_value_does_not_matter(layout: str) -> None:
    """A stored value with a line end or blanks around it opens as without them."""
    assert PasswordCipher(KEY, layout).decrypt(f" {seal(SECRET.encode(), layout)}\r\n") == SECRET


def test_a_ciphertext_in_base64_that_looks_like_hex_opens() -> None:
    """The tag decides where a ciphertext could be hex or base64."""
    target = "abcd"
    for number in range(1000):
        iv = number.to_bytes(12, "big")
        keystream = AESGCM(KEY).encrypt(iv, bytes(3), None)[:3]
        plain = bytes(a ^ b for a, b in zip(keystream, base64.b64decode(target), strict=True))
        if plain.isascii():
            break
    parts = sealed_parts(plain, "iv:tag:ciphertext", iv)
    stored = join(parts, "iv:tag:ciphertext", [bytes.hex, bytes.hex, base64_text])
    assert stored.endswith(f":{target}")
    assert PasswordCipher(KEY, "iv:tag:ciphertext").decrypt(stored) == plain.decode()


def test_a_cbc_ciphertext_in_hex_that_could_be_base64_opens() -> None:
    """64 hex digits, two blocks as hex and three as base64, are read as hex."""
    stored = seal(SECRET.encode(), "iv:ciphertext")
    assert len(stored.split(":")[1]) == 64
    assert PasswordCipher(KEY, "iv:ciphertext").decrypt(stored) == SECRET


# As PostgreSQL shows a bytea column


@relaxed
@given(sealings())
def test_any_text_opens_out_of_a_bytea_column(sealing: tuple[str, str, str]) -> None:
    """The text of any layout may be stored as bytes, with white space around it."""
    password, layout, stored = sealing
    cipher = PasswordCipher(KEY, layout)
    for text in (stored, f" {stored}\r\n"):
        assert cipher.decrypt(bytea(text.encode())) == password


@relaxed
@given(st.text(), st.sampled_from(BLOB_LAYOUTS), st.binary(min_size=12, max_size=12))
def test_a_blob_opens_out_of_a_bytea_column(password: str, layout: str, iv: bytes) -> None:
    """The undivided blob itself may be stored as bytes."""
    parts = sealed_parts(password.encode(), layout, iv)
    blob = b"".join(parts[name] for name in layout.split("+"))
    if blob.isascii():  # one in 2**28 and more
        return
    assert PasswordCipher(KEY, layout).decrypt(bytea(blob)) == password


@pytest.mark.parametrize("layout", DIVIDED_LAYOUTS)
def test_a_blob_where_parts_are_expected(layout: str) -> None:
    """Bytes that are no text are told apart from a broken text, in a layout of parts."""
    sentence = refusal(bytea(b"\xff" * 60), layout)
    assert sentence.startswith(
        f"the stored password is bytes and no text: ENCRYPTION_LAYOUT {layout} "
    )


@pytest.mark.parametrize("layout", BLOB_LAYOUTS)
def test_bytes_that_do_not_open(layout: str) -> None:
    """A blob that is too short, or was sealed with another key, is refused as ever."""
    assert "blob of the stored password has 27 bytes" in refusal(bytea(b"\xff" * 27), layout)
    assert "does not open with ENCRYPTION_KEY" in refusal(bytea(b"\xff" * 40), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_bytea(layout: str) -> None:
    """No bytes at all are nothing stored."""
    assert refusal("\\x", layout) == "no password is stored"
