"""Links in the documents: where they lead there is something."""

import re

import pytest

from tests.support.documents import PAGES, REPOSITORY, anchors_of, links_of

LINKS = [(page, target) for page in PAGES for target in dict.fromkeys(links_of(page))]
INSIDE = [(page, target) for page, target in LINKS if not target.startswith("http")]
OUTSIDE = [(page, target) for page, target in LINKS if target.startswith("http")]


@pytest.mark.parametrize(("page", "target"), INSIDE)
def test_a_link_inside_the_repository_resolves(page: str, target: str) -> None:
    """The file is there, and the heading that the link names is in it."""
    path, _, anchor = target.partition("#")
    file = ((REPOSITORY / page).parent / path).resolve() if path else REPOSITORY / page
    assert file.exists()
    assert file.is_relative_to(REPOSITORY)
    if anchor:
        assert anchor in anchors_of(file.relative_to(REPOSITORY).as_posix())


@pytest.mark.parametrize(("page", "target"), OUTSIDE)
def test_a_link_to_the_world_is_one(page: str, target: str) -> None:
    """It has a host and a path, and no blanks; whether it is still there no test can promise."""
    assert re.fullmatch(r"https?://[a-z0-9.-]+\.[a-z]{2,}(/[^\s<>]*)?", target)


def test_there_are_links() -> None:
    """The pages are read at all: a pattern that finds nothing would pass everything."""
    assert len(INSIDE) > 60
    assert len(OUTSIDE) > 30
