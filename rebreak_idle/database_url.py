"""DATABASE_URL: a libpq connection string, perhaps with what only Prisma understands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

# What Prisma and its hosts add to a connection URL and libpq does not know.
# https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments
PRISMA_PARAMETERS = frozenset({
    "connection_limit", "max_connection_lifetime", "max_idle_connection_lifetime", "pgbouncer",
    "pool_timeout", "schema", "single_use_connections", "socket_timeout", "sslaccept",
    "sslidentity", "statement_cache_size", "supa", "workaround",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Database:
    """Where the table is: a libpq connection string, and the schema to look in ("" for default)."""

    conninfo: str = field(repr=False)
    schema: str = ""


def password_of(database: Database) -> str:
    """The password in the connection string, which no log line may show."""
    return str(conninfo_to_dict(database.conninfo).get("password") or "")


EXAMPLE = "give postgresql://user:password@host:port/database"
ENCODE = "percent-encode the special characters of the password"


def parse_database_url(text: str) -> Database:
    """``DATABASE_URL`` without what only Prisma understands.

    Raises:
        ValueError: it is no PostgreSQL connection string; the text says why, without the value.
    """
    text, schema = text.strip(), ""
    if not text.isprintable():
        raise ValueError(f"has line breaks or other control characters: {EXAMPLE}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text, schema = _without_prisma(text)
    try:
        conninfo_to_dict(text)
    except (psycopg.Error, UnicodeError):
        raise ValueError(f"is no PostgreSQL connection string: {EXAMPLE}") from None
    return Database(text, schema)


def _without_prisma(url: str) -> tuple[str, str]:
    """The URL as it was but for Prisma's parameters, and the schema that one of them names."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgres", "postgresql"):
        raise ValueError("must begin with postgresql:// or postgres://")
    place, _, query = rest.partition("?")
    if "@" in query:
        raise ValueError(f"is ambiguous: {EXAMPLE}, and {ENCODE}")
    _check_place(place)
    parameters = [item for item in query.split("&") if item]
    _check_parameters(parameters)
    kept = [item for item in parameters if item.partition("=")[0] not in PRISMA_PARAMETERS]
    named = dict(item.split("=", 1) for item in parameters)
    base = f"{scheme}://{place}"
    return (f"{base}?{'&'.join(kept)}" if kept else base), unquote(named.get("schema", ""))


def _check_place(place: str) -> None:
    """An unencoded character in the password would make its rest part of the host or port."""
    authority = place.partition("/")[0]
    hosts = authority.rpartition("@")[2].split(",")
    ports = [re.sub(r"^(\[[^]]*\]|[^:]*)", "", host) for host in hosts]
    if "#" in place or authority.count("@") > 1:
        raise ValueError(f"is ambiguous: {EXAMPLE}, and {ENCODE}")
    if not all(re.fullmatch(r"(:[0-9]{0,5})?", p) and int(p[1:] or 0) < 65536 for p in ports):
        raise ValueError(f"has a port that is not a number: {EXAMPLE}, and {ENCODE}")


def _check_parameters(parameters: list[str]) -> None:
    known = PRISMA_PARAMETERS | {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, equals, _ in (item.partition("=") for item in parameters):
        if not equals or not re.fullmatch(r"[A-Za-z_]{1,40}", name):
            raise ValueError(f"has a parameter that is not name=value: {EXAMPLE}, and {ENCODE}")
        if name not in known and name not in ("ssl",):  # libpq takes ssl=true as sslmode=require
            raise ValueError(
                f"has the unknown parameter {name!r}: remove it, or give one that libpq knows"
            )
