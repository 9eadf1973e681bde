"""Opens stored passwords: AES-256 as Node's ``crypto`` writes it, in GCM or in CBC.

The formats are those of ``crypto.createCipheriv`` with ``aes-256-gcm`` (NIST SP 800-38D; the tag
whole, no associated data) and ``aes-256-cbc`` (PKCS#7 padding, RFC 5652, section 6.3). How IV,
tag and ciphertext are put together is the backend's choice, hence the layouts.

No error of this module carries a stored text, a key or a password. Those that the libraries raise
may do so in their attributes, so none is chained: they are suppressed first, and ours is raised
afterwards.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from .errors import PasswordUnreadable

LAYOUTS = (
    "iv:tag:ciphertext",
    "iv:ciphertext:tag",
    "iv:ciphertext",
    "iv+tag+ciphertext",
    "iv+ciphertext+tag",
)
KEY_BYTES = 32
BLOCK_BYTES = 16
TAG_BYTES = 16
# 12 is what SP 800-38D recommends; 16 is common in Node code, which took it over from CBC.
GCM_IV_BYTES = (12, 16)
BLOB_IV_BYTES = 12
# https://www.postgresql.org/docs/current/datatype-binary.html
_BYTEA = re.compile(r"\\x([0-9a-fA-F]{2})*")


def make_key(text: str, encoding: str) -> bytes:
    """The 32 key bytes that ``text`` stands for under ``encoding``.

    Encodings: ``utf8`` (the first 32 bytes of 32 characters or more), ``hex``, ``base64`` (either
    alphabet, padded or not), ``sha256`` (of the text), ``scrypt:<salt>`` (as Node's
    ``scryptSync(text, salt, 32)``).

    Raises:
        ValueError: no key can be made. The sentence continues one that begins with the name of
            the variable, says what to do, and shows neither the text nor the salt.
    """
    kind, _, salt = encoding.partition(":")
    if kind == "scrypt":
        return _scrypt_key(text, salt)
    if encoding not in _KEY_MAKERS:
        allowed = ", ".join([*_KEY_MAKERS, "scrypt:<salt>"])
        raise ValueError(f"cannot be read: set ENCRYPTION_KEY_ENCODING to one of {allowed}")
    return _KEY_MAKERS[encoding](text)


@dataclass(frozen=True, slots=True)
class PasswordCipher:
    """Opens what one key has sealed in one layout; may be shared between threads.

    ``key`` is 32 bytes, ``layout`` one of `LAYOUTS`.

    Raises:
        ValueError: the key has another length, or there is no such layout.
    """

    key: bytes = field(repr=False)
    layout: str

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"the key has {len(self.key)} bytes: AES-256 takes {KEY_BYTES}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"there is no such layout: use one of {', '.join(LAYOUTS)}")

    def decrypt(self, stored: str) -> str:
        """The password inside ``stored``.

        Raises:
            PasswordUnreadable: nothing is stored, it does not have the layout, the key does not
                open it, or what it opens to is not text.
        """
        decrypt = _decrypt_gcm if "tag" in self.layout else _decrypt_cbc
        readings = _take_apart(stored, self.layout)
        opened = [plain for sealed in readings if (plain := decrypt(self.key, sealed)) is not None]
        if not opened:
            raise PasswordUnreadable(
                "the stored password does not open with ENCRYPTION_KEY "
                "(wrong key, encoding or layout, or the value was changed)"
            )
        for plain in opened:
            with suppress(UnicodeDecodeError):
                return plain.decode()
        raise PasswordUnreadable(
            "the stored password opens, but not to UTF-8 text "
            "(in a layout without a tag, a wrong ENCRYPTION_KEY can look like this)"
        )


class _Sealed(NamedTuple):
    """One reading of a stored password; ``tag`` is empty for CBC."""

    iv: bytes
    ciphertext: bytes
    tag: bytes


def _decrypt_gcm(key: bytes, sealed: _Sealed) -> bytes | None:
    with suppress(InvalidTag):
        return AESGCM(key).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, None)
    return None


def _decrypt_cbc(key: bytes, sealed: _Sealed) -> bytes | None:
    decryptor = Cipher(AES(key), CBC(sealed.iv)).decryptor()
    unpadder = PKCS7(BLOCK_BYTES * 8).unpadder()
    padded = decryptor.update(sealed.ciphertext) + decryptor.finalize()
    with suppress(ValueError):
        return unpadder.update(padded) + unpadder.finalize()
    return None


def _take_apart(stored: str, layout: str) -> list[_Sealed]:
    """Every reading of ``stored``, the likeliest first: more than one if hex may be base64."""
    # White space around a value does not keep Node from decoding it.
    text = stored.strip()
    if _BYTEA.fullmatch(text):
        data = bytes.fromhex(text[2:])
        if not data.isascii():  # as 28 bytes and more of ciphertext never are
            return _blob_bytes(data, layout)
        text = data.decode().strip()
    parts = re.split("[:.]", text)
    if parts == [""]:
        raise PasswordUnreadable("no password is stored")
    names = layout.split(":")
    if len(parts) != len(names):
        raise PasswordUnreadable(
            f"the stored password has {len(parts)} part(s), "
            f"where ENCRYPTION_LAYOUT {layout} has {len(names)}"
        )
    if len(names) == 1:
        return _blobs(_readings("blob", parts[0]), layout)
    named = dict(zip(names, parts, strict=True))
    return _gcm_parts(**named) if "tag" in named else _cbc_parts(**named)


def _gcm_parts(iv: str, tag: str, ciphertext: str) -> list[_Sealed]:
    iv_bytes = _fitting("IV", iv, GCM_IV_BYTES)
    tag_bytes = _fitting("tag", tag, (TAG_BYTES,))
    return [_Sealed(iv_bytes, body, tag_bytes) for body in _readings("ciphertext", ciphertext)]


def _cbc_parts(iv: str, ciphertext: str) -> list[_Sealed]:
    iv_bytes = _fitting("IV", iv, (BLOCK_BYTES,))
    readings = _readings("ciphertext", ciphertext)
    bodies = [body for body in readings if body and len(body) % BLOCK_BYTES == 0]
    if not bodies:
        raise _wrong_length("ciphertext", readings, f"a multiple of {BLOCK_BYTES}")
    return [_Sealed(iv_bytes, body, b"") for body in bodies]


def _blob_bytes(data: bytes, layout: str) -> list[_Sealed]:
    if "+" not in layout:
        raise PasswordUnreadable(
            "the stored password is bytes and no text: "
            f"ENCRYPTION_LAYOUT {layout} has parts, an undivided blob has none"
        )
    return _blobs([data], layout)


def _blobs(readings: list[bytes], layout: str) -> list[_Sealed]:
    blobs = [blob for blob in readings if len(blob) >= BLOB_IV_BYTES + TAG_BYTES]
    if not blobs:
        raise _wrong_length("blob", readings, f"{BLOB_IV_BYTES + TAG_BYTES} or more")
    return [_cut(blob, tag_first=layout == "iv+tag+ciphertext") for blob in blobs]


def _cut(blob: bytes, *, tag_first: bool) -> _Sealed:
    iv, rest = blob[:BLOB_IV_BYTES], blob[BLOB_IV_BYTES:]
    if tag_first:
        return _Sealed(iv, rest[TAG_BYTES:], rest[:TAG_BYTES])
    return _Sealed(iv, rest[:-TAG_BYTES], rest[-TAG_BYTES:])


def _fitting(name: str, text: str, lengths: tuple[int, ...]) -> bytes:
    """The reading of ``text`` with one of these lengths; hex and base64 never both have one."""
    readings = _readings(name, text)
    for data in readings:
        if len(data) in lengths:
            return data
    raise _wrong_length(name, readings, " or ".join(map(str, lengths)))


def _readings(name: str, text: str) -> list[bytes]:
    """``text`` read as hex and as base64, whichever it can be.

    Hex comes first: what is long and by chance has hex digits only is hardly ever base64.
    """
    found = [data for data in (_hex(text), _base64(text)) if data is not None]
    if not found:
        raise PasswordUnreadable(f"the {name} of the stored password is neither hex nor base64")
    return found


def _hex(text: str) -> bytes | None:
    return bytes.fromhex(text) if re.fullmatch("([0-9a-fA-F]{2})*", text) else None


def _base64(text: str) -> bytes | None:
    text = re.sub(r"\s", "", text)  # PostgreSQL's encode() breaks lines
    digits = text.rstrip("=")
    if not re.fullmatch("[A-Za-z0-9+/_-]*={0,2}", text) or len(digits) % 4 == 1:
        return None
    padding = "=" * (-len(digits) % 4)
    return base64.b64decode(digits.replace("-", "+").replace("_", "/") + padding)


def _wrong_length(name: str, readings: list[bytes], expected: str) -> PasswordUnreadable:
    return PasswordUnreadable(
        f"the {name} of the stored password has {len(readings[0])} bytes, "
        f"where {expected} are expected: "
        "compare ENCRYPTION_LAYOUT with the backend"
    )


def _utf8(text: str) -> bytes:
    # The environment hands over bytes that are not UTF-8 as lone surrogates (PEP 383).
    with suppress(UnicodeEncodeError):
        return text.encode()
    raise ValueError("is not UTF-8 text: copy it and its encoding from the backend again")


def _utf8_key(text: str) -> bytes:
    if len(text) < KEY_BYTES:
        raise ValueError(
            f"has {len(text)} characters: under utf8 it takes {KEY_BYTES} or more, "
            "identical to the backend's"
        )
    return _utf8(text)[:KEY_BYTES]


def _hex_key(text: str) -> bytes:
    key = _hex(text)
    if key is None or len(key) != KEY_BYTES:
        raise ValueError(
            f"is not {KEY_BYTES * 2} hex digits: fix it, or set another ENCRYPTION_KEY_ENCODING"
        )
    return key


def _base64_key(text: str) -> bytes:
    key = _base64(text)
    if key is None or len(key) != KEY_BYTES:
        raise ValueError(
            f"is not base64 of {KEY_BYTES} bytes: fix it, or set another ENCRYPTION_KEY_ENCODING"
        )
    return key


def _sha256_key(text: str) -> bytes:
    return hashlib.sha256(_utf8(text)).digest()


def _scrypt_key(text: str, salt: str) -> bytes:
    if not salt:
        raise ValueError("has no salt: set ENCRYPTION_KEY_ENCODING to scrypt:<the backend's salt>")
    # The cost is Node's default: https://nodejs.org/api/crypto.html#cryptoscryptsync
    return hashlib.scrypt(_utf8(text), salt=_utf8(salt), n=16384, r=8, p=1, dklen=KEY_BYTES)


_KEY_MAKERS: dict[str, Callable[[str], bytes]] = {
    "utf8": _utf8_key,
    "hex": _hex_key,
    "base64": _base64_key,
    "sha256": _sha256_key,
}
