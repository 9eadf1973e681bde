"""Every variable of the contract, with good and malformed values, and how they are judged."""

from __future__ import annotations

import pytest

from rebreak_idle.cipher import LAYOUTS
from rebreak_idle.config import Config, load
from rebreak_idle.errors import ConfigError
from rebreak_idle.store import DEFAULT_QUERY

PASSWORD = "hunter2-of-the-database"
SECRET = "a-secret-of-the-scan-endpoint"
KEY = "0123456789abcdef0123456789abcdef"
REQUIRED = {
    "DATABASE_URL": f"postgresql://reader:{PASSWORD}@db.example:6543/mail",
    "ADMIN_SECRET": SECRET,
    "ENCRYPTION_KEY": KEY,
}
SECRETS = (PASSWORD, SECRET, KEY)

# Variable, attribute, default, a good text and its value.
SECONDS = [
    ("REFRESH_INTERVAL_SECONDS", "refresh_interval_seconds", 300.0),
    ("IDLE_RENEW_SECONDS", "idle_renew_seconds", 1500.0),
    ("IDLE_CHECK_SECONDS", "idle_check_seconds", 60.0),
    ("IMAP_TIMEOUT_SECONDS", "imap_timeout_seconds", 30.0),
    ("POLL_INTERVAL_SECONDS", "poll_interval_seconds", 60.0),
    ("RECONNECT_INITIAL_SECONDS", "reconnect_initial_seconds", 5.0),
    ("RECONNECT_MAX_SECONDS", "reconnect_max_seconds", 300.0),
    ("AUTH_RETRY_SECONDS", "auth_retry_seconds", 900.0),
    ("SCAN_TIMEOUT_SECONDS", "scan_timeout_seconds", 120.0),
    ("INSTANCE_SILENCE_SECONDS", "instance_silence_seconds", 30.0),
]
COUNTS = [
    ("HOST_CONNECTS_AT_ONCE", "host_connects_at_once", 8),
    ("SCAN_CONCURRENCY", "scan_concurrency", 16),
]
RATES = [("HOST_LOGINS_PER_SECOND", "host_logins_per_second", 20.0)]
NUMBERS = [name for name, _, _ in (*SECONDS, *COUNTS, *RATES)]
OTHERS = [
    ("BACKEND_URL", "backend_url", "http://127.0.0.1:3016"),
    ("MAIL_CONNECTIONS_QUERY", "query", DEFAULT_QUERY),
    ("ENCRYPTION_LAYOUT", "encryption_layout", "iv:tag:ciphertext"),
    ("ADMIN_SECRET_HEADER", "admin_secret_header", "x-admin-secret"),
    ("ACCESS_TOKEN_PATH", "access_token_path", "/api/mail/access-token"),
    ("IMAP_ALLOW_PRIVATE_HOSTS", "imap_allow_private_hosts", False),
    ("LOG_LEVEL", "log_level", "info"),
]
GOOD = [
    ("BACKEND_URL", "https://backend.example/base/", "backend_url", "https://backend.example/base"),
    ("BACKEND_URL", "http://[::1]:3015", "backend_url", "http://[::1]:3015"),
    ("MAIL_CONNECTIONS_QUERY", "SELECT 1", "query", "SELECT 1"),
    *(("ENCRYPTION_LAYOUT", layout, "encryption_layout", layout) for layout in LAYOUTS),
    ("ADMIN_SECRET_HEADER", "X-Internal_Key", "admin_secret_header", "X-Internal_Key"),
    ("ACCESS_TOKEN_PATH", "/v2/token%20s", "access_token_path", "/v2/token%20s"),
    ("IMAP_ALLOW_PRIVATE_HOSTS", "true", "imap_allow_private_hosts", True),
    ("IMAP_ALLOW_PRIVATE_HOSTS", "false", "imap_allow_private_hosts", False),
    *(("LOG_LEVEL", level, "log_level", level) for level in ("debug", "info", "warning", "error")),
    ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("ADMIN_SECRET", "two words, and $signs", "admin_secret", "two words, and $signs"),
    ("HOST_CONNECTS_AT_ONCE", "1", "host_connects_at_once", 1),
    ("SCAN_CONCURRENCY", " 32 ", "scan_concurrency", 32),
    ("CHANGE_CHECK_SECONDS", "0", "change_check_seconds", 0.0),
    ("CHANGE_CHECK_SECONDS", "2.5", "change_check_seconds", 2.5),
    ("CONNECTION_STATE_PATH", "/api/state", "connection_state_path", "/api/state"),
    ("METRICS_LISTEN", "127.0.0.1:9464", "metrics_listen", ("127.0.0.1", 9464)),
    ("METRICS_LISTEN", "localhost:80", "metrics_listen", ("localhost", 80)),
    ("METRICS_LISTEN", "[::1]:9464", "metrics_listen", ("::1", 9464)),
    ("INSTANCE_NAME", " mail-1 ", "instance_name", "mail-1"),
    ("INSTANCE_NAME", "Köln, Haus 2", "instance_name", "Köln, Haus 2"),
    ("INSTANCE_NAME", "x" * 100, "instance_name", "x" * 100),
]
# Each variable with values that are no value of it.
MALFORMED = [
    ("DATABASE_URL", "mysql://u:hunter2@db.example/mail"),
    ("DATABASE_URL", "db.example/mail"),
    ("DATABASE_URL", "postgresql://u:hunter2@db.example/mail?no_such_parameter=1"),
    ("DATABASE_URL", "postgresql://u:100%hunter2@db.example/mail"),
    ("DATABASE_URL", "postgresql://u:hunter2@[db.example/mail"),
    ("DATABASE_URL", "postgresql://u:hunter2@db\udcff.example/mail"),
    ("ADMIN_SECRET", "line\nbreak"),
    ("ADMIN_SECRET", "ümlaut"),
    ("ADMIN_SECRET", " blank-before"),
    ("ENCRYPTION_KEY", KEY[:31]),
    ("ENCRYPTION_KEY", KEY[:31] + "\udcff"),
    ("BACKEND_URL", "127.0.0.1:3016"),
    ("BACKEND_URL", "localhost:3016"),
    ("BACKEND_URL", "ftp://127.0.0.1"),
    ("BACKEND_URL", "http://"),
    ("BACKEND_URL", "http://:3016"),
    ("BACKEND_URL", "http://127.0.0.1:0"),
    ("BACKEND_URL", "http://127.0.0.1:65536"),
    ("BACKEND_URL", "http://127.0.0.1:port"),
    ("BACKEND_URL", "http://[::1:3016"),
    ("BACKEND_URL", "http://127.0.0.1 :3016"),
    ("BACKEND_URL", "http://127.0.0.1:3016?x=1"),
    ("BACKEND_URL", "http://127.0.0.1:3016#top"),
    ("BACKEND_URL", "http://127.0.0.1:3016?"),
    ("BACKEND_URL", "http://127.0.0.1:3016#"),
    ("BACKEND_URL", "http://user:hunter2@127.0.0.1:3016"),
    ("MAIL_CONNECTIONS_QUERY", "SELECT \udcff"),
    ("ENCRYPTION_KEY_ENCODING", "rot13"),
    ("ENCRYPTION_KEY_ENCODING", "scrypt"),
    ("ENCRYPTION_KEY_ENCODING", "scrypt:"),
    ("ENCRYPTION_LAYOUT", "iv:tag"),
    ("ENCRYPTION_LAYOUT", "tag:iv:ciphertext"),
    ("ADMIN_SECRET_HEADER", "x admin secret"),
    ("ADMIN_SECRET_HEADER", "x-admin-secret:"),
    ("ADMIN_SECRET_HEADER", "x-admin\r\nsecret"),
    ("ACCESS_TOKEN_PATH", "api/mail/access-token"),
    ("ACCESS_TOKEN_PATH", "http://backend.example/token"),
    ("ACCESS_TOKEN_PATH", "/token?key=1"),
    ("ACCESS_TOKEN_PATH", "/token#1"),
    ("ACCESS_TOKEN_PATH", "/to ken"),
    ("ACCESS_TOKEN_PATH", "/tökens"),
    ("IMAP_ALLOW_PRIVATE_HOSTS", "yes"),
    ("IMAP_ALLOW_PRIVATE_HOSTS", "1"),
    ("INSTANCE_NAME", "mail\n1"),
    ("INSTANCE_NAME", "mail\x001"),
    ("INSTANCE_NAME", "mail\udcff"),
    ("INSTANCE_NAME", "x" * 101),
    ("LOG_LEVEL", "verbose"),
    ("LOG_LEVEL", "critical"),
    ("CHANGE_CHECK_SECONDS", "-1"),
    ("CHANGE_CHECK_SECONDS", "off"),
    ("CONNECTION_STATE_PATH", "api/state"),
    ("CONNECTION_STATE_PATH", "http://other.example/state"),
    ("CONNECTION_STATE_PATH", "/state?x=1"),
    ("CONNECTION_STATE_PATH", "/two words"),
    *(
        ("METRICS_LISTEN", text)
        for text in (
            *("9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536"),
            *("::1:9464", "[::1]", "[::1:9464", "http://127.0.0.1:9464", "two words:9464"),
        )
    ),
]


VARIABLES = sorted({*REQUIRED, *(name for name, _ in MALFORMED), *NUMBERS, "NODE_ENV"})


def with_required(**values: str) -> dict[str, str]:
    return {**REQUIRED, **values}


def problems(values: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(values)
    return caught.value.problems


def the_problem(values: dict[str, str], variable: str) -> str:
    """The only problem of ``values``, which must name ``variable`` and be one line."""
    (problem,) = problems(values)
    assert problem.startswith(f"{variable} ")
    assert len(problem.splitlines()) == 1
    assert problem.isprintable()
    return problem


def outcome(values: dict[str, str]) -> Config | ConfigError:
    try:
        return load(values)
    except ConfigError as error:
        return error
