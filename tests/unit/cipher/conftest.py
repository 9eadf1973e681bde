"""Passwords, stored in every layout and writing, and refusals that tell no secret."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import settings
from hypothesis import strategies as st

from rebreak_idle.cipher import LAYOUTS, PasswordCipher
from rebreak_idle.errors import PasswordUnreadable

KEY = hashlib.sha256(b"a key of the tests").digest()
OTHER_KEY = hashlib.sha256(b"another key of the tests").digest()
IV12 = bytes(range(12))
IV16 = bytes(range(16))
SECRET = "hunter2-is-the-secret"
GCM_LAYOUTS = [layout for layout in LAYOUTS if "tag" in layout]
DIVIDED_LAYOUTS = [layout for layout in LAYOUTS if ":" in layout]
BLOB_LAYOUTS = [layout for layout in LAYOUTS if "+" in layout]

# Every sentence that may reach the log: only numbers and the name of the layout vary.
SENTENCES = [
    r"no password is stored",
    r"the stored password has \d+ part\(s\), where ENCRYPTION_LAYOUT [a-z:+]+ has \d",
    r"the (IV|tag|ciphertext|blob) of the stored password is neither hex nor base64",
    r"the (IV|tag|ciphertext|blob) of the stored password has \d+ bytes, "
    r"where (12 or 16|16|a multiple of 16|28 or more) are expected: "
    r"compare ENCRYPTION_LAYOUT with the backend",
    r"the stored password is bytes and no text: "
    r"ENCRYPTION_LAYOUT [a-z:]+ has parts, an undivided blob has none",
    r"the stored password does not open with ENCRYPTION_KEY "
    r"\(wrong key, encoding or layout, or the value was changed\)",
    r"the stored password opens, but not to UTF-8 text "
    r"\(in a layout without a tag, a wrong ENCRYPTION_KEY can look like this\)",
]

relaxed = settings(deadline=None)
Write = Callable[[bytes], str]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def unpadded(write: Write) -> Write:
    return lambda data: write(data).rstrip("=")


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


WRITINGS: list[Write] = [
    bytes.hex,
    lambda data: data.hex().upper(),
    base64_text,
    unpadded(base64_text),
    base64url,
    unpadded(base64url),
]


def sealed_parts(plain: bytes, layout: str, iv: bytes, key: bytes = KEY) -> dict[str, bytes]:
    """The parts that Node's ``createCipheriv`` makes of ``plain``."""
    if "tag" not in layout:
        padder = PKCS7(128).padder()
        encryptor = Cipher(AES(key), CBC(iv)).encryptor()
        padded = padder.update(plain) + padder.finalize()
        return {"iv": iv, "ciphertext": encryptor.update(padded) + encryptor.finalize()}
    both = AESGCM(key).encrypt(iv, plain, None)
    return {"iv": iv, "ciphertext": both[:-16], "tag": both[-16:]}


def join(parts: dict[str, bytes], layout: str, writes: list[Write], joiner: str = ":") -> str:
    """The parts as one text; each has its own way of being written, a blob has the first."""
    if "+" in layout:
        return writes[0](b"".join(parts[name] for name in layout.split("+")))
    pairs = zip(layout.split(":"), writes, strict=False)
    return joiner.join(write(parts[name]) for name, write in pairs)


def seal(plain: bytes, layout: str, write: Write = bytes.hex, key: bytes = KEY) -> str:
    parts = sealed_parts(plain, layout, iv_for(layout), key)
    return join(parts, layout, [write] * 3)


def iv_for(layout: str) -> bytes:
    return IV12 if "tag" in layout else IV16


def ivs(layout: str) -> st.SearchStrategy[bytes]:
    if "+" in layout:
        return st.binary(min_size=12, max_size=12)
    long = st.binary(min_size=16, max_size=16)
    return long | st.binary(min_size=12, max_size=12) if "tag" in layout else long


@st.composite
def sealings(draw: st.DrawFn) -> tuple[str, str, str]:
    """A password, a layout, and one of the ways in which a backend can have stored it."""
    password, layout = draw(st.text()), draw(st.sampled_from(LAYOUTS))
    parts = sealed_parts(password.encode(), layout, draw(ivs(layout)))
    writes = draw(st.lists(st.sampled_from(WRITINGS), min_size=3, max_size=3))
    return password, layout, join(parts, layout, writes, draw(st.sampled_from(":.")))


def refusal(stored: str, layout: str = "iv:tag:ciphertext", key: bytes = KEY) -> str:
    """The sentence with which ``stored`` is refused, once it is sure that it tells no secret."""
    with pytest.raises(PasswordUnreadable) as caught:
        PasswordCipher(key, layout).decrypt(stored)
    assert_tells_nothing(caught.value)
    return str(caught.value)


def assert_tells_nothing(error: PasswordUnreadable) -> None:
    sentence = str(error)
    assert any(re.fullmatch(known, sentence) for known in SENTENCES), sentence
    assert error.args == (sentence,)
    assert repr(error) == f"PasswordUnreadable({sentence!r})"
    assert error.__cause__ is None
    assert error.__context__ is None


def bytea(data: bytes) -> str:
    return f"\\x{data.hex()}"
