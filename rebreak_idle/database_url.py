"""DATABASE_URL: a libpq connection string, perhaps with what only Prisma understands."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo, PGconn

# What Prisma, its hosts and node-postgres add to a connection URL and libpq does not know.
# https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments
PRISMA_PARAMETERS = frozenset({
    "connection_limit", "max_connection_lifetime", "max_idle_connection_lifetime", "pgbouncer",
    "pool_timeout", "schema", "single_use_connections", "socket_timeout", "sslaccept",
    "sslidentity", "statement_cache_size", "supa", "uselibpqcompat", "workaround",
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
LIBPQ_PARAMETERS = "https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# libpq reads these when it has a socket.
WHOLE_NUMBERS = (
    *("connect_timeout", "tcp_user_timeout", "keepalives", "keepalives_idle"),
    *("keepalives_interval", "keepalives_count"),
)
MAX_WHOLE_NUMBER = 2**31 - 1
# No IP address in any notation.
NOWHERE = "nowhere!"


def parse_database_url(text: str) -> Database:
    """``DATABASE_URL`` without what only Prisma understands.

    Raises:
        ValueError: it is no PostgreSQL connection string, or libpq would refuse it at each
            connect; the text says why, without the value.
    """
    text, schema = text.strip(), ""
    if not text.isprintable():
        raise ValueError(f"has line breaks or other control characters: {EXAMPLE}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text, schema = _without_prisma(text)
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, UnicodeError):
        raise ValueError(f"is no PostgreSQL connection string: {EXAMPLE}") from None
    _check_numbers(parameters)
    _check_by_libpq(parameters)
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
    items = [item for item in query.split("&") if item]
    _check_parameters(items)
    pairs = [(name, value) for name, _, value in (item.partition("=") for item in items)]
    kept = "&".join(f"{name}={value}" for name, value in _for_libpq(pairs))
    schema = unquote(dict(pairs).get("schema", ""))
    return f"{scheme}://{place}" + (f"?{kept}" if kept else ""), schema


def _for_libpq(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parameters without Prisma's.

    Where there is no ``sslkey``, two names of libpq's are Prisma's as well: ``sslcert`` is the
    server's CA there, and ``sslpassword`` opens ``sslidentity``.
    """
    names = {name for name, _ in pairs}
    if "sslkey" in names:
        dropped, is_ca = PRISMA_PARAMETERS, False
    else:
        dropped, is_ca = PRISMA_PARAMETERS | {"sslpassword"}, "sslrootcert" not in names
    return [
        ("sslrootcert" if is_ca and name == "sslcert" else name, value)
        for name, value in pairs
        if name not in dropped
    ]


def _check_place(place: str) -> None:
    """An unencoded character in the password would make its rest part of the host or port."""
    authority, _, path = place.partition("/")
    hosts = authority.rpartition("@")[2].split(",")
    ports = [re.sub(r"^(\[[^]]*\]|[^:]*)", "", host) for host in hosts]
    if "#" in place or "@" in path or authority.count("@") > 1:
        raise ValueError(f"is ambiguous: {EXAMPLE}, and {ENCODE}")
    if not all(re.fullmatch(r"(:[0-9]{0,5})?", p) and int(p[1:] or 0) < 65536 for p in ports):
        raise ValueError(f"has a port that is not a number: {EXAMPLE}, and {ENCODE}")


def _check_parameters(items: list[str]) -> None:
    known = PRISMA_PARAMETERS | {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, equals, value in (item.partition("=") for item in items):
        if not equals or not re.fullmatch(r"[A-Za-z_]{1,40}", name):
            raise ValueError(f"has a parameter that is not name=value: {EXAMPLE}, and {ENCODE}")
        if name == "ssl" and value != "true":  # which libpq takes as sslmode=require
            raise ValueError("has an ssl that libpq does not know: give sslmode instead")
        if name not in known and name != "ssl":
            raise ValueError(
                f"has the unknown parameter {name!r}: remove it, or give one that libpq knows"
            )


def _check_numbers(parameters: Mapping[str, str]) -> None:
    """What libpq and psycopg look at only when they connect."""
    for name in WHOLE_NUMBERS:
        text = parameters.get(name, "0")
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,10}\s*", text) or int(text) > MAX_WHOLE_NUMBER:
            raise ValueError(f"has a {name} that is no whole number: give one")
    for port in parameters.get("port", "").split(","):
        if port and not (re.fullmatch(r"\s*[0-9]{1,5}\s*", port) and 0 < int(port) < 65536):
            raise ValueError("has a port that is none: give one from 1 to 65535")
    for address in filter(None, parameters.get("hostaddr", "").split(",")):
        try:
            socket.getaddrinfo(address, None, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            raise ValueError("has a hostaddr that is no IP address: give it as host") from None


def _check_by_libpq(parameters: Mapping[str, str]) -> None:
    """Let libpq judge the values, those that it takes from PG… variables among them."""
    if not (said := _refusal(parameters)):
        return
    variables = {
        option.keyword.decode(): (option.envvar or b"").decode()
        for option in Conninfo.get_defaults()
    }
    names = [word for word in re.findall("[a-z_]+", said) if word in variables]
    if not names or not said.startswith("invalid"):
        which = f" ({', '.join(names)})" if names else ""
        raise ValueError(
            f"has parameters{which} that libpq does not take as they are: set what "
            f"{LIBPQ_PARAMETERS} says"
        )
    name = names[0]
    value, source = parameters.get(name, ""), name
    if name not in parameters and variables[name] in os.environ:
        value, source = os.environ[variables[name]], f"{name} (by {variables[name]})"
    raise ValueError(f"has a {source} that libpq does not know: {_advice(name, value)}")


def _advice(name: str, value: str) -> str:
    if name != "sslmode":
        return f"give one of {LIBPQ_PARAMETERS}"
    if value == "no-verify":
        return "no-verify of node-postgres is require, give that"
    return f"give one of {', '.join(SSL_MODES)}"


def _refusal(parameters: Mapping[str, str]) -> str:
    """What libpq says against the values, or empty. Nothing is connected to.

    It judges them before it looks at the first host's address, and that is none here.
    """
    host, address = parameters.get("host", ""), parameters.get("hostaddr", "")
    places = {  # as many as are given
        "host": re.sub("[^,]+", "x", host or address) or "x",
        "hostaddr": re.sub("[^,]+", NOWHERE, address or host) or NOWHERE,
    }
    tried = {**parameters, **places}
    tried.pop("service", None)  # its file may be mended while the daemon runs
    connection = PGconn.connect_start(make_conninfo(**tried).encode())
    said = connection.error_message.decode("utf-8", "replace")
    connection.finish()
    return "" if NOWHERE in said else said
