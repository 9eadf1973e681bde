"""The README's shape, the pages it leads to, the picture, and .env.example."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rebreak_idle.config import environment, load
from rebreak_idle.errors import ConfigError
from rebreak_idle.store import DEFAULT_QUERY
from tests.support.documents import PAGES, REPOSITORY, headings_of, links_of, one_line, text_of
from tests.support.settings import REQUIRED, variables

EXAMPLE = text_of(".env.example")
# What is not set by default, with what there is to set.
NO_DEFAULTS = {
    "NODE_ENV": "production",
    "INSTANCE_NAME": "mail-1",
    "CONNECTION_STATE_PATH": "/api/mail/connection-state",
    "METRICS_LISTEN": "127.0.0.1:9464",
}
MAX_README_LINES = 200
README_SECTIONS = [
    "rebreak-idle",
    "See it work",
    "Run it",
    "The table",
    "The settings most people need",
    "The log",
    "PM2",
    "Signals and exit status",
    "What it costs",
    "Limits",
    "Where to read on",
]
PICTURE = REPOSITORY / "docs" / "architecture.svg"
SVG = "{http://www.w3.org/2000/svg}"
READABLE = 4.5  # the contrast of text, WCAG 2.2, section 1.4.3


def test_the_readme_is_short_and_in_order() -> None:
    """An operator reads it in five minutes, and finds each thing where it always was."""
    assert len(text_of("README.md").splitlines()) <= MAX_README_LINES
    assert headings_of("README.md") == README_SECTIONS


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_each_page_is_linked_from_the_readme(page: str) -> None:
    """Nobody has to look into a folder to find a page."""
    assert page in {target.partition("#")[0] for target in links_of("README.md")}


def test_the_default_query_is_shown() -> None:
    """The query in the README and in the page on the database is the one that runs."""
    for page in ("README.md", "docs/database.md"):
        assert one_line(DEFAULT_QUERY) in one_line(text_of(page))


# --- the picture ----------------------------------------------------------------------------------


def schemes() -> dict[str, dict[str, str]]:
    """The colours of the picture by class, for a light and a dark surrounding."""
    style = ElementTree.parse(PICTURE).findtext(f".//{SVG}style") or ""
    light, _, dark = re.sub(r"/\*.*?\*/", "", style).partition(
        "@media (prefers-color-scheme: dark)"
    )
    fills = r"\.?(\w+) \{ fill: (#[0-9a-f]{6})"
    return {
        "light": dict(re.findall(fills, light)),
        "dark": dict(re.findall(fills, light)) | dict(re.findall(fills, dark)),
    }


def brightness(colour: str) -> float:
    """The relative luminance, as WCAG has it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "box", "own"])
def test_the_picture_is_legible(scheme: str, ground: str) -> None:
    """Its text stands out from what it is written on, in light and in dark surroundings."""
    colours = schemes()[scheme]
    low, high = sorted((brightness(colours["text"]), brightness(colours[ground])))
    assert (high + 0.05) / (low + 0.05) >= READABLE


def test_the_picture_brings_its_paper_and_says_what_it_shows() -> None:
    """It does not rely on the page's colour, and who cannot see it is told."""
    picture = ElementTree.parse(PICTURE).getroot()
    first = next(child for child in picture if child.tag == f"{SVG}rect")
    width, height = picture.attrib["viewBox"].split()[2:]
    assert (first.get("class"), first.get("width"), first.get("height")) == ("paper", width, height)
    assert picture.findtext(f"{SVG}title")
    assert picture.findtext(f"{SVG}desc")


# --- .env.example ---------------------------------------------------------------------------------


def test_example_has_every_variable_with_its_default() -> None:
    """.env.example names every variable; what is commented out shows the default."""
    lines = re.findall(r"^(# )?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    assert {name for comment, name, _ in lines if not comment} == set(REQUIRED)
    shown = {name: value.strip('"') for comment, name, value in lines if comment}
    defaults = {name: value for name, value in variables().items() if name not in REQUIRED}
    defaults["MAIL_CONNECTIONS_QUERY"] = one_line(DEFAULT_QUERY)
    assert shown == defaults | NO_DEFAULTS


def test_example_as_it_is_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that nobody filled in is refused, for the secrets that it lacks."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(EXAMPLE, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(environment(tmp_path))
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "ADMIN_SECRET",
        "ENCRYPTION_KEY",
    ]


def test_example_with_its_lines_uncommented_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each optional line can be used as it stands, and then has the default's effect."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    others = "|".join(NO_DEFAULTS)
    text = re.sub(rf"^# (?=[A-Z_]+=)(?!{others})", "", EXAMPLE, flags=re.MULTILINE)
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    values = environment(tmp_path) | REQUIRED
    values["MAIL_CONNECTIONS_QUERY"] = DEFAULT_QUERY  # the same but for its line breaks
    assert load(values) == load(REQUIRED)
