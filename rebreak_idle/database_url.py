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

# What other programs add to a connection URL and libpq does not know.
FOREIGN_PARAMETERS = frozenset({
    # Prisma and its hosts: https://www.prisma.io/docs/orm/overview/databases/postgresql#arguments
    "connection_limit", "pgbouncer", "schema", "single_use_connections", "socket_timeout",
    "sslaccept", "sslidentity", "statement_cache_size", "supa", "workaround",
    # node-postgres: https://node-postgres.com/apis/client and /apis/pool
    "allowExitOnIdle", "binary", "connectionTimeoutMillis", "encoding",
    "idle_in_transaction_session_timeout", "keepAlive", "keepAliveInitialDelayMillis",
    "lock_timeout", "query_timeout", "statement_timeout", "uselibpqcompat",
    # postgres.js: https://github.com/porsager/postgres#all-postgres-options
    "backoff", "debug", "fetch_types", "keep_alive", "prepare", "publications", "types",
    # pgx: https://pkg.go.dev/github.com/jackc/pgx/v5#ParseConfig
    "default_query_exec_mode", "description_cache_capacity", "statement_cache_capacity",
    # Rails: https://guides.rubyonrails.org/configuring.html#configuring-a-database
    "checkout_timeout", "prepared_statements", "reaping_frequency",
    # asyncpg under SQLAlchemy: https://docs.sqlalchemy.org/en/20/dialects/postgresql.html
    "command_timeout", "prepared_statement_cache_size",
    # Django: https://docs.djangoproject.com/en/5.2/ref/databases/#persistent-connections
    "conn_health_checks", "conn_max_age",
})  # fmt: skip
# The measures of a pool of connections, whoever keeps it: pool_max_conns (pgx), max and
# maxLifetimeSeconds (node-postgres), max_lifetime (postgres.js), pool (Rails).
_POOL_PARAMETER = re.compile(r"(pool|max|min|idle)(_[a-z]\w*|[A-Z]\w*)?")
# The ssl of node-postgres, postgres.js and asyncpg, as an sslmode.
SSL_VALUES = {"true": "require", "1": "require", "false": "disable", "0": "disable"}


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
    """``DATABASE_URL`` without what libpq does not understand.

    Raises:
        ValueError: it is no PostgreSQL connection string, or libpq would refuse it at each
            connect; the text says why, without the value.
    """
    text, schema = text.strip(), ""
    if not text.isprintable():
        raise ValueError(f"has line breaks or other control characters: {EXAMPLE}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text, schema = _without_foreign(text)
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, UnicodeError):
        raise ValueError(f"is no PostgreSQL connection string: {EXAMPLE}") from None
    _check_numbers(parameters)
    _check_by_libpq(parameters)
    return Database(text, schema)


def _without_foreign(url: str) -> tuple[str, str]:
    """The URL as it was but for others' parameters, and the schema that one of them names."""
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
    """The parameters without those of others; ``ssl`` as an ``sslmode``, where there is none.

    Where there is no ``sslkey``, two names of libpq's are Prisma's as well: ``sslcert`` is the
    server's CA there, and ``sslpassword`` opens ``sslidentity``.
    """
    names = {name for name, _ in pairs}
    dropped = {name for name in names if _is_foreign(name)}
    renamed = {"ssl": "sslmode"}
    if "sslmode" in names:
        dropped.add("ssl")
    if "sslkey" not in names:
        dropped.add("sslpassword")
        if "sslrootcert" not in names:
            renamed["sslcert"] = "sslrootcert"
    return [
        (renamed.get(name, name), _sslmode(value) if name == "ssl" else value)
        for name, value in pairs
        if name not in dropped
    ]


def _is_foreign(name: str) -> bool:
    is_pool_s = _POOL_PARAMETER.fullmatch(name) is not None and name not in _libpq_names()
    return is_pool_s or name in FOREIGN_PARAMETERS


def _libpq_names() -> set[str]:
    return {option.keyword.decode() for option in Conninfo.get_defaults()}


def _sslmode(ssl: str) -> str:
    return SSL_VALUES.get(ssl.lower(), ssl.lower())


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
    known = {"ssl", *_libpq_names()}
    for name, equals, value in (item.partition("=") for item in items):
        if not equals or not re.fullmatch(r"[A-Za-z_]{1,40}", name):
            raise ValueError(f"has a parameter that is not name=value: {EXAMPLE}, and {ENCODE}")
        if name == "ssl" and _sslmode(value) not in SSL_MODES:
            raise ValueError("has an ssl that libpq does not know: give sslmode instead")
        if name not in known and not _is_foreign(name):
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
