"""Reading the rows of a real PostgreSQL, and what it fails with."""

from __future__ import annotations

import pytest

from rebreak_idle.database_url import parse_database_url
from rebreak_idle.errors import DatabaseError
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.store import DEFAULT_QUERY, ConnectionStore


def read(url: str, query: str = DEFAULT_QUERY) -> list[Mailbox]:
    return ConnectionStore(parse_database_url(url), query).read()


def failure(url: str, query: str = DEFAULT_QUERY) -> str:
    """The text of the error that reading ends in: always one printable line."""
    with pytest.raises(DatabaseError) as caught:
        read(url, query)
    text = str(caught.value)
    assert text.isprintable()
    return text
