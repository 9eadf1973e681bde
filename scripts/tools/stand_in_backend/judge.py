"""Which mail is gambling: by its sender and its subject."""

from __future__ import annotations

import email
import re
import unicodedata
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from pathlib import Path

# Whole words where a part of a word would hit ordinary mail ("time slot", "alphabet", "Wette"
# in "Wetter"); parts of words where German and domain-like names grow them together.
KEYWORDS = re.compile(
    r"casino|kasino|jackpot|roulette|blackjack|baccarat|sportsbook|bookmaker"
    r"|gambling|glücksspiel|sportwette|spielautomat|freispiel|wettbonus|wettgutschein"
    r"|\bpoker\b|\bbingo\b|\bbetting\b|\b(?:free|sports?)[ -]?bets?\b|\bplace (?:a|your) bets?\b"
    r"|\b(?:free|bonus)[ -]?spins?\b|\bslot[ -]?machines?\b|\bonline[ -]slots\b"
)


def read_blocklist(path: Path) -> frozenset[str]:
    """The domains of a file: one a line, ``#`` begins a comment."""
    lines = (line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    return frozenset(_plain_domain(line) for line in lines if line.strip())


def _plain_domain(text: str) -> str:
    return text.strip().strip(".").casefold()


@dataclass(frozen=True)
class Judge:
    """Decides about one message by its From and Subject headers; may be shared by threads."""

    blocklist: frozenset[str]

    def reason_to_delete(self, headers: bytes) -> str:
        """Why the message goes, in a few words; empty where it stays."""
        message = email.message_from_string(_text(headers))
        sender = " ".join(decoded(value) for value in message.get_all("From", []))
        subject = " ".join(decoded(value) for value in message.get_all("Subject", []))
        return self._blocked_domain(sender) or _keyword(f"{_without_addresses(sender)} {subject}")

    def _blocked_domain(self, sender: str) -> str:
        for domain in re.findall(r"@\s*([^\s<>@,;:\"()]+)", sender):
            labels = _plain_domain(domain).split(".")
            parents = (".".join(labels[start:]) for start in range(len(labels)))
            if found := next((name for name in parents if name in self.blocklist), ""):
                return f"sender domain {found}"
        return ""


def _text(headers: bytes) -> str:
    try:
        return headers.decode()  # RFC 6532 allows UTF-8 without any encoding
    except UnicodeDecodeError:
        return headers.decode("latin-1")


def _keyword(text: str) -> str:
    """Which keyword ``text`` carries, full-width letters and invisible characters regardless."""
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    found = KEYWORDS.search(unicodedata.normalize("NFKC", visible).lower())
    return f"keyword {found.group()}" if found else ""


def _without_addresses(sender: str) -> str:
    return re.sub(r"\S+@\S+", " ", sender)


def decoded(value: str) -> str:
    """A header's text: unfolded, encoded words (RFC 2047) opened as far as they can be."""
    text = re.sub(r"[\r\n]+[ \t]*", " ", value)
    try:
        chunks = decode_header(text)
    except (HeaderParseError, ValueError):
        return text
    return "".join(_decoded_chunk(chunk, charset) for chunk, charset in chunks)


def _decoded_chunk(chunk: str | bytes, charset: str | None) -> str:
    if isinstance(chunk, str):
        return chunk
    try:
        return chunk.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # a charset that Python does not know, or that is no name
        return chunk.decode("latin-1")
