"""An access token, and the text in which it is found again whoever says it; pure."""

from __future__ import annotations

import base64
from collections.abc import Container
from dataclasses import dataclass, field

# So many characters in a row are a piece of a token, fewer may be part of any ordinary word. Where
# one piece is found by its first four, its whole length counts.
PIECE_CHARACTERS = 8
PROBE_CHARACTERS = 4
HIDDEN = "***"
# From here on a set of all pieces is faster than a look through the whole token for each.
SET_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token that the backend handed out.

    ``ends_at`` is when it runs out by `time.monotonic`, infinite where nobody said so;
    ``life_seconds`` what was left when it came. ``username`` is the login name, empty where it is
    that of the row.
    """

    value: str = field(repr=False)
    ends_at: float
    life_seconds: float
    username: str = ""

    def hide(self, text: str) -> str:
        """The text without the token and without pieces of it, as it is or in base64."""
        if len(text) < PIECE_CHARACTERS:
            return text
        forms = _forms(self.value)
        shown, at = [], 0
        for start, end in _pieces(text, forms):
            shown.append(text[at:start] + HIDDEN)
            at = end
        return "".join(shown) + text[at:]


def _forms(value: str) -> list[str]:
    """The token, and what base64 makes of it at each of three offsets: so it stands in any text
    around it, such as that of XOAUTH2 and OAUTHBEARER.
    """
    encoded = (base64.b64encode(b" " * offset + value.encode()).decode() for offset in range(3))
    # The first character or two are those of what stands before it.
    return [
        value,
        *(text[-(-offset * 8 // 6) :].rstrip("=") for offset, text in enumerate(encoded)),
    ]


def _pieces(text: str, forms: list[str]) -> list[tuple[int, int]]:
    """Where in the text pieces of the forms stand.

    Each piece holds four characters that begin at a multiple of four: only these are looked for.
    """
    size = PROBE_CHARACTERS
    probes = _probes(forms, len(text))
    found: list[tuple[int, int]] = []
    for at in (*range(0, len(text) - size, size), len(text) - size):
        after = found[-1][1] if found else 0
        if at < after or text[at : at + size] not in probes:
            continue
        pieces = (_piece_around(text, at, after, form) for form in forms)
        start, end = max(pieces, key=lambda piece: piece[1] - piece[0])
        # At the end of the text it may have been cut.
        if end - start >= PIECE_CHARACTERS or end == len(text):
            found.append((start, end))
    return found


def _probes(forms: list[str], length: int) -> Container[str]:
    """All pieces of four characters. Those of a token of 2.5 KB take 3 ms, which only a long text
    is worth.
    """
    size = PROBE_CHARACTERS
    if length < SET_CHARACTERS:
        return "\n".join(forms)
    return {form[at : at + size] for form in forms for at in range(len(form) - size + 1)}


def _piece_around(text: str, at: int, after: int, form: str) -> tuple[int, int]:
    """The longest piece of the form that holds the probe; empty where there is none."""
    start, end = at, at + PROBE_CHARACTERS
    if text[start:end] not in form:
        return at, at
    while end < len(text) and text[start : end + 1] in form:
        end += 1
    while start > after and text[start - 1 : end] in form:
        start -= 1
    return start, end
