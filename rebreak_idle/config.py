"""The environment, read once into one frozen `Config`; every problem is reported at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from . import certificates
from .cipher import LAYOUTS
from .database_url import Database, parse_database_url
from .dotenv_file import read_dotenv
from .errors import ConfigError
from .store import DEFAULT_QUERY
from .values import (
    Listen,
    boolean,
    default_instance_name,
    encryption_key,
    header_name,
    header_value,
    http_url,
    instance_name,
    is_utf8,
    key_encoding,
    metrics_address,
    one_of,
    positive_integer,
    positive_number,
    positive_seconds,
    refuse_placeholders,
    refuse_quotes,
    seconds_or_off,
    shown,
    url_path,
)

T = TypeVar("T")

PRODUCTION_BACKEND_URL = "http://127.0.0.1:3015"
STAGING_BACKEND_URL = "http://127.0.0.1:3016"
LOG_LEVELS = ("debug", "info", "warning", "error")
# OpenSSL reads these from the process environment itself.
OPENSSL_VARIABLES = {
    "SSL_CERT_FILE": certificates.check_file,
    "SSL_CERT_DIR": certificates.check_directories,
}


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
    access_token_path: str
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
    instance_name: str
    instance_silence_seconds: float
    log_level: str
    change_check_seconds: float
    connection_state_path: str | None
    metrics_listen: Listen | None


def read_settings(directory: Path) -> tuple[dict[str, str], Config]:
    """The variables and what they say: those of the process, completed from ``.env``.

    Raises:
        ConfigError: with one sentence for every variable, or line, that is missing or wrong.
    """
    values, problems = _variables(directory)
    return values, load(values, problems)


def environment(directory: Path) -> dict[str, str]:
    """The process environment, completed from ``.env`` in ``directory`` where it is silent.

    Raises:
        ConfigError: ``.env`` is there and cannot be used as it stands.
    """
    values, problems = _variables(directory)
    if problems:
        raise ConfigError(list(problems.values()))
    return values


def _variables(directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The variables, and the problems of ``.env``.

    SSL_CERT_FILE and SSL_CERT_DIR are put into the process environment, where OpenSSL looks.
    """
    values, problems = read_dotenv(directory / ".env", os.environ)
    for name in OPENSSL_VARIABLES:
        if name in values:
            os.environ.setdefault(name, values[name])
    return {**values, **os.environ}, problems


def load(values: Mapping[str, str], problems: Mapping[str, str] | None = None) -> Config:
    """The settings that ``values`` describe; ``problems`` that are known, by their variable.

    Raises:
        ConfigError: with one sentence for every variable that is missing or wrong.
    """
    read = _Reader(values, problems or {})
    seconds = read.seconds
    encoding = read.parsed("ENCRYPTION_KEY_ENCODING", "utf8", key_encoding)
    backend = read.default_backend()
    config = Config(
        database=read.parsed("DATABASE_URL", None, parse_database_url),
        admin_secret=read.parsed("ADMIN_SECRET", None, header_value),
        encryption_key=read.parsed(
            "ENCRYPTION_KEY", None, lambda text: encryption_key(text, encoding)
        ),
        backend_url=read.parsed("BACKEND_URL", backend, http_url),
        query=read.text("MAIL_CONNECTIONS_QUERY", DEFAULT_QUERY),
        encryption_layout=read.parsed("ENCRYPTION_LAYOUT", "iv:tag:ciphertext", one_of(LAYOUTS)),
        admin_secret_header=read.parsed("ADMIN_SECRET_HEADER", "x-admin-secret", header_name),
        access_token_path=read.parsed("ACCESS_TOKEN_PATH", "/api/mail/access-token", url_path),
        refresh_interval_seconds=seconds("REFRESH_INTERVAL_SECONDS", "300"),
        idle_renew_seconds=seconds("IDLE_RENEW_SECONDS", "1500"),
        idle_check_seconds=seconds("IDLE_CHECK_SECONDS", "60"),
        imap_timeout_seconds=seconds("IMAP_TIMEOUT_SECONDS", "30"),
        poll_interval_seconds=seconds("POLL_INTERVAL_SECONDS", "60"),
        reconnect_initial_seconds=seconds("RECONNECT_INITIAL_SECONDS", "5"),
        reconnect_max_seconds=seconds("RECONNECT_MAX_SECONDS", "300"),
        auth_retry_seconds=seconds("AUTH_RETRY_SECONDS", "900"),
        host_connects_at_once=read.parsed("HOST_CONNECTS_AT_ONCE", "8", positive_integer),
        host_logins_per_second=read.parsed("HOST_LOGINS_PER_SECOND", "20", positive_number),
        scan_concurrency=read.parsed("SCAN_CONCURRENCY", "16", positive_integer),
        scan_timeout_seconds=seconds("SCAN_TIMEOUT_SECONDS", "120"),
        imap_allow_private_hosts=read.parsed("IMAP_ALLOW_PRIVATE_HOSTS", "false", boolean),
        instance_name=read.parsed("INSTANCE_NAME", default_instance_name(values), instance_name),
        instance_silence_seconds=seconds("INSTANCE_SILENCE_SECONDS", "30"),
        log_level=read.parsed("LOG_LEVEL", "info", one_of(LOG_LEVELS)),
        change_check_seconds=read.parsed("CHANGE_CHECK_SECONDS", "10", seconds_or_off),
        connection_state_path=read.optional("CONNECTION_STATE_PATH", url_path),
        metrics_listen=read.optional("METRICS_LISTEN", metrics_address),
    )
    for name, check in OPENSSL_VARIABLES.items():
        if name in values:
            read.parsed(name, "", check)
    if read.problems:
        raise ConfigError(list(read.problems.values()))
    return config


class _Reader:
    """Reads variables and collects what is wrong with them, so that all of it is told at once.

    ``problems`` are by their variable, one for each.
    """

    def __init__(self, values: Mapping[str, str], problems: Mapping[str, str]) -> None:
        self._values = values
        self.problems = dict(problems)

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
            if not is_utf8(text):
                raise ValueError("is not UTF-8: give it in UTF-8")
            refuse_quotes(text)
            refuse_placeholders(text)
            return parse(text)
        except ValueError as error:
            self.problems.setdefault(name, f"{name} {error}")
            return None  # type: ignore[return-value]  # load() raises before anybody sees it

    def optional(self, name: str, parse: Callable[[str], T]) -> T | None:
        """The variable, parsed, or None where it is not set."""
        return None if self._values.get(name) is None else self.parsed(name, "", parse)

    def text(self, name: str, default: str) -> str:
        return self.parsed(name, default, str)

    def seconds(self, name: str, default: str) -> float:
        return self.parsed(name, default, positive_seconds)

    def default_backend(self) -> str:
        """What NODE_ENV selects; what was meant to be production must not become staging."""
        node_env = self._values.get("NODE_ENV") or ""
        try:
            refuse_placeholders(node_env)
        except ValueError as error:
            self.problems.setdefault("NODE_ENV", f"NODE_ENV {error}")
        if node_env == "production":
            return PRODUCTION_BACKEND_URL
        if re.sub(r"\W", "", node_env).lower() == "production":
            self.problems["NODE_ENV"] = (
                f"NODE_ENV is {shown(node_env)}, which is not production to the letter: "
                "give production, or another name for staging"
            )
        return STAGING_BACKEND_URL
