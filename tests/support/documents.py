"""The documents as a reader finds them: pages, headings, tables, code and links."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (
        *(REPOSITORY / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")),
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("tests/**/*.md"),
    )
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


class Fence(NamedTuple):
    """A block of code: its language, and the heading that it stands under."""

    language: str
    text: str
    heading: str


@dataclass(frozen=True)
class Table:
    """The cells of a table, without the heading row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, number: int) -> list[str]:
        return [row[number] for row in self.rows]


@cache
def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", text_of(page))


def headings_of(page: str) -> list[str]:
    """All headings, the title among them."""
    return re.findall(r"^#+ +(.+?) *$", prose_of(page), re.MULTILINE)


def anchors_of(page: str) -> set[str]:
    """What a link to a part of the page may name, as GitHub makes it of the headings."""
    anchors: set[str] = set()
    for heading in headings_of(page):
        plain = re.sub(r"[^\w\- ]", "", _unlinked(heading).lower()).replace(" ", "-")
        again = 1
        anchor = plain
        while anchor in anchors:
            anchor, again = f"{plain}-{again}", again + 1
        anchors.add(anchor)
    return anchors


def _unlinked(text: str) -> str:
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


def links_of(page: str) -> list[str]:
    """The targets of all links and pictures."""
    return _LINK.findall(_CODE.sub("``", prose_of(page)))


def code_in(text: str) -> list[str]:
    """What stands between backticks."""
    return _CODE.findall(text)


def fences_of(page: str, *languages: str) -> list[Fence]:
    """The blocks of code, in these languages or in all."""
    text = text_of(page)
    return [
        Fence(match[1], match[2], _heading_before(text[: match.start()]))
        for match in _FENCE.finditer(text)
        if not languages or match[1] in languages
    ]


def _heading_before(text: str) -> str:
    found = re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", text), re.MULTILINE)
    return found[-1] if found else ""


def tables_of(page: str) -> list[Table]:
    """All tables of the page."""
    found, lines = [], []
    for line in [*prose_of(page).splitlines(), ""]:
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            head, _, *rows = [
                tuple(cell.strip() for cell in ln.strip("|").split("|")) for ln in lines
            ]
            found.append(Table(head, tuple(rows)))
            lines = []
    return found


def table_of(page: str, *head: str) -> Table:
    """The one table of the page whose heading row begins so."""
    found = [table for table in tables_of(page) if table.head[: len(head)] == head]
    assert len(found) == 1, f"{page} has {len(found)} tables that begin with {' | '.join(head)}"
    return found[0]


def one_line(text: str) -> str:
    return " ".join(text.split())
