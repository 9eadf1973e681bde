"""Stored passwords: against what Node wrote, against any password, and against broken values."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import given, settings
from hypothesis import strategies as st

from rebreak_idle.cipher import LAYOUTS, PasswordCipher, make_key
from rebreak_idle.errors import PasswordUnreadable

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_password_vectors.js"
VECTORS_FILE = ROOT / "tests" / "unit" / "password_vectors.json"
VECTORS: dict[str, Any] = json.loads(VECTORS_FILE.read_text("utf-8"))

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


# What Node wrote


@pytest.mark.parametrize("name", VECTORS["keys"])
def test_a_key_is_made_as_node_makes_it(name: str) -> None:
    """The text of ENCRYPTION_KEY gives the key bytes that Node's crypto gives."""
    key = VECTORS["keys"][name]
    assert make_key(key["text"], key["encoding"]).hex() == key["bytes"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_what_node_sealed_opens(case: dict[str, str]) -> None:
    """A password that Node's crypto sealed opens to the same text."""
    key = bytes.fromhex(VECTORS["keys"][case["key"]]["bytes"])
    opened = PasswordCipher(key, case["layout"]).decrypt(case["stored"])
    assert opened == VECTORS["passwords"][case["password"]]


def test_the_vectors_cover_every_layout() -> None:
    """No layout is without vectors."""
    assert {case["layout"] for case in VECTORS["cases"]} == set(LAYOUTS)


def test_the_vectors_are_what_the_script_writes(tmp_path: Path) -> None:
    """Node, running the script again, writes the file that is here to the byte."""
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have node, to make the vectors again")
        pytest.skip("node is not installed, so the vectors cannot be made again")
    again = tmp_path / "vectors.json"
    subprocess.run([node, SCRIPT, again], check=True, timeout=60)
    assert again.read_bytes() == VECTORS_FILE.read_bytes()


# Any password


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


def bytea(data: bytes) -> str:
    return f"\\x{data.hex()}"


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


# Broken values


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


# The vault and its key


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
