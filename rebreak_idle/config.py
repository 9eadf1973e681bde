"""The environment, read once into one frozen `Config`; every problem is reported at once."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from .cipher import LAYOUTS, make_key
from .database_url import Database, parse_database_url
from .errors import ConfigError
from .store import DEFAULT_QUERY

T = TypeVar("T")

PRODUCTION_BACKEND_URL = "http://127.0.0.1:3015"
STAGING_BACKEND_URL = "http://127.0.0.1:3016"
LOG_LEVELS = ("debug", "info", "warning", "error")
KEY_ENCODINGS = ("utf8", "hex", "base64", "sha256")
MINIMUM_KEY_CHARACTERS = 32
# OpenSSL reads these from the process environment itself.
OPENSSL_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# threading.TIMEOUT_MAX is lower still on some platforms; no wait of the daemon needs a year.
LONGEST_SECONDS = 366 * 86400.0


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Times are seconds; the secrets are hidden in the repr."""

    database: Database
    admin_secret: str = field(repr=False)
    encryption_key: bytes = field(repr=False)
    backend_url: str
    query: str
    encryption_layout: str
    admin_secret_header: str
    refresh_interval_seconds: float
    idle_renew_seconds: float
    idle_check_seconds: float
    imap_timeout_seconds: float
    poll_interval_seconds: float
    reconnect_initial_seconds: float
    reconnect_max_seconds: float
    auth_retry_seconds: float
    host_connects_at_once: int
    host_logins_per_second: float
    scan_concurrency: int
    scan_timeout_seconds: float
    imap_allow_private_hosts: bool
    log_level: str


def environment(directory: Path) -> dict[str, str]:
    """The process environment, completed from ``.env`` in ``directory`` where it is silent.

    As in Node's dotenv, ``$`` in a value is an ordinary character. SSL_CERT_FILE and SSL_CERT_DIR
    are put into the process environment, where OpenSSL looks for them.

    Raises:
        ConfigError: ``.env`` is there and cannot be read.
    """
    path = directory / ".env"
    try:
        text = path.read_text("utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        problem = f".env cannot be read ({error.__class__.__name__}): fix it or remove it"
        raise ConfigError([problem]) from None
    wrong = [str(found.original.line) for found in parse_stream(StringIO(text)) if found.error]
    if wrong:
        raise ConfigError([f".env cannot be understood in line {', '.join(wrong)}: fix it"])
    found = dotenv_values(stream=StringIO(text), interpolate=False)
    values = {name: value for name, value in found.items() if value is not None}
    for name in OPENSSL_VARIABLES:
        if name in values:
            os.environ.setdefault(name, values[name])
    return {**values, **os.environ}


def load(values: Mapping[str, str]) -> Config:
    """The settings that ``values`` describe.

    Raises:
        ConfigError: with one sentence for every variable that is missing or wrong.
    """
    read = _Reader(values)
    seconds = read.seconds
    encoding = read.parsed("ENCRYPTION_KEY_ENCODING", "utf8", _key_encoding)
    backend = (
        PRODUCTION_BACKEND_URL if values.get("NODE_ENV") == "production" else STAGING_BACKEND_URL
    )
    config = Config(
        database=read.parsed("DATABASE_URL", None, parse_database_url),
        admin_secret=read.parsed("ADMIN_SECRET", None, _header_value),
        encryption_key=read.parsed("ENCRYPTION_KEY", None, lambda key: _key(key, encoding)),
        backend_url=read.parsed("BACKEND_URL", backend, _http_url),
        query=read.text("MAIL_CONNECTIONS_QUERY", DEFAULT_QUERY),
        encryption_layout=read.parsed("ENCRYPTION_LAYOUT", "iv:tag:ciphertext", _one_of(LAYOUTS)),
        admin_secret_header=read.parsed("ADMIN_SECRET_HEADER", "x-admin-secret", _header_name),
        refresh_interval_seconds=seconds("REFRESH_INTERVAL_SECONDS", "300"),
        idle_renew_seconds=seconds("IDLE_RENEW_SECONDS", "1500"),
        idle_check_seconds=seconds("IDLE_CHECK_SECONDS", "60"),
        imap_timeout_seconds=seconds("IMAP_TIMEOUT_SECONDS", "30"),
        poll_interval_seconds=seconds("POLL_INTERVAL_SECONDS", "60"),
        reconnect_initial_seconds=seconds("RECONNECT_INITIAL_SECONDS", "5"),
        reconnect_max_seconds=seconds("RECONNECT_MAX_SECONDS", "300"),
        auth_retry_seconds=seconds("AUTH_RETRY_SECONDS", "900"),
        host_connects_at_once=read.parsed("HOST_CONNECTS_AT_ONCE", "8", _positive_integer),
        host_logins_per_second=read.parsed("HOST_LOGINS_PER_SECOND", "20", _positive_number),
        scan_concurrency=read.parsed("SCAN_CONCURRENCY", "16", _positive_integer),
        scan_timeout_seconds=seconds("SCAN_TIMEOUT_SECONDS", "120"),
        imap_allow_private_hosts=read.parsed("IMAP_ALLOW_PRIVATE_HOSTS", "false", _boolean),
        log_level=read.parsed("LOG_LEVEL", "info", _one_of(LOG_LEVELS)),
    )
    if read.problems:
        raise ConfigError(read.problems)
    return config


class _Reader:
    """Reads variables and collects what is wrong with them, so that all of it is told at once."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.problems: list[str] = []

    def parsed(self, name: str, default: str | None, parse: Callable[[str], T]) -> T:
        """The variable, parsed; ``default`` None means required.

        A problem is noted, and the result is then never used.
        """
        text = self._values.get(name, default)
        try:
            if text is None:
                raise ValueError("is missing: it is required")
            if not text.strip():
                remedy = "" if default is None else ", or remove it to use the default"
                raise ValueError(f"is empty: give it a value{remedy}")
            if not _is_utf8(text):
                raise ValueError("is not UTF-8: give it in UTF-8")
            return parse(text)
        except ValueError as error:
            self.problems.append(f"{name} {error}")
            return None  # type: ignore[return-value]  # load() raises before anybody sees it

    def text(self, name: str, default: str) -> str:
        return self.parsed(name, default, str)

    def seconds(self, name: str, default: str) -> float:
        return self.parsed(name, default, _seconds)


def _is_utf8(text: str) -> bool:
    """Bytes of the environment that are no UTF-8 arrive as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _positive_number(text: str) -> float:
    if not re.fullmatch(r"\s*\+?(\d+\.?\d*|\.\d+)\s*", text, re.ASCII):
        raise ValueError(f"is {_shown(text)}: give a positive decimal number")
    number = float(text)
    if number <= 0 or math.isinf(number):
        raise ValueError(f"is {_shown(text)}: give a number above 0")
    return number


def _seconds(text: str) -> float:
    number = _positive_number(text)
    if number > LONGEST_SECONDS:
        raise ValueError(f"is {_shown(text)}: give a number of seconds below {LONGEST_SECONDS:.0f}")
    return number


def _positive_integer(text: str) -> int:
    if not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) or int(text) == 0:
        raise ValueError(f"is {_shown(text)}: give a whole number, 1 or more")
    return int(text)


def _boolean(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(f"is {_shown(text)}: give true or false")
    return text.strip().lower() == "true"


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        value = text.strip().lower()
        if value not in choices:
            raise ValueError(f"is {_shown(text)}: give one of {', '.join(choices)}")
        return value

    return parse


def _http_url(text: str) -> str:
    url = text.strip().rstrip("/")
    advice = "give the backend's address, such as http://127.0.0.1:3016"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise ValueError(f"is not an http or https URL: {advice}")
    if "?" in url or "#" in url or parts.username is not None:
        raise ValueError(f"carries more than scheme, host, port and path: {advice}")
    return url


def _header_name(text: str) -> str:
    # RFC 9110, section 5.6.2: a field name is a token.
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):
        raise ValueError(f"is {_shown(text)}: give the name of an HTTP header")
    if text.lower() in (
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
    ):
        raise ValueError(f"is {_shown(text)}, which HTTP itself needs: give another name")
    return text


def _header_value(text: str) -> str:
    # RFC 9110, section 5.5: visible ASCII, with blanks only inside.
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", text):
        raise ValueError("has characters that an HTTP header cannot carry: use visible ASCII")
    return text


def _key_encoding(text: str) -> str:
    if text not in KEY_ENCODINGS and not re.fullmatch(r"scrypt:.+", text, re.DOTALL):
        raise ValueError(
            f"is {_shown(text)}: give one of {', '.join(KEY_ENCODINGS)}, scrypt:<salt>"
        )
    return text


def _key(text: str, encoding: str | None) -> bytes:
    if len(text) < MINIMUM_KEY_CHARACTERS:
        raise ValueError(
            f"has {len(text)} characters: it takes {MINIMUM_KEY_CHARACTERS} or more, "
            "identical to the backend's"
        )
    return make_key(text, encoding) if encoding else b""


def _shown(text: str) -> str:
    """A value that is no secret, fit for one line."""
    return ascii(text if len(text) <= 60 else text[:60] + "…")
