"""The environment: every variable of the contract, good, missing, empty and malformed."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from rebreak_idle.cipher import LAYOUTS
from rebreak_idle.config import Config, environment, load, read_settings
from rebreak_idle.errors import ConfigError
from rebreak_idle.store import DEFAULT_QUERY
from tests.support.daemon import Daemon
from tests.support.servers import RUNS_AS_ROOT, server_folder

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
BAD_NUMBERS = ["-1", "0", "0.0", "nan", "inf", "-inf", "abc", "1e3", "５", "1_000", "0x10", "1,5"]
BAD_NUMBERS += [".", "+", "5s", "1 000", "--5", "٣", "9" * 400]
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


# Values


@pytest.mark.parametrize(("variable", "attribute", "default"), [*SECONDS, *COUNTS, *RATES, *OTHERS])
def test_what_is_not_set_has_the_default(variable: str, attribute: str, default: object) -> None:
    """A variable that is not set has the contract's default, of the right type."""
    value = getattr(load(REQUIRED), attribute)
    assert value == default
    assert type(value) is type(default)


@pytest.mark.parametrize(("variable", "text", "attribute", "value"), GOOD)
def test_good_values_are_taken(variable: str, text: str, attribute: str, value: object) -> None:
    """Each variable takes the values that the contract names."""
    assert getattr(load(with_required(**{variable: text})), attribute) == value


def test_required_values_are_taken() -> None:
    """The three required variables arrive as they are, the key as its bytes."""
    config = load(REQUIRED)
    assert conninfo_to_dict(config.database.conninfo)["password"] == PASSWORD
    assert config.database.schema == ""
    assert config.admin_secret == SECRET
    assert config.encryption_key == KEY.encode()


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("5", 5.0), (".5", 0.5), ("5.", 5.0), ("+2", 2.0)]
)
@pytest.mark.parametrize(("variable", "attribute", "default"), [*SECONDS, *RATES])
def test_times_take_any_positive_decimal(
    variable: str, attribute: str, default: float, text: str, value: float
) -> None:
    """Every time, and the rate, takes any positive decimal number."""
    assert getattr(load(with_required(**{variable: text})), attribute) == value


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, socket.gethostname()),
        ({"NODE_APP_INSTANCE": "1"}, f"{socket.gethostname()}-1"),
        ({"NODE_APP_INSTANCE": " "}, socket.gethostname()),
        ({"NODE_APP_INSTANCE": "1", "INSTANCE_NAME": "mail"}, "mail"),
    ],
)
def test_an_instance_is_called_by_its_host(variables: dict[str, str], name: str) -> None:
    """With PM2's number of the process, so that several processes of one machine differ; a name
    that is given is taken as it is.
    """
    assert load(with_required(**variables)).instance_name == name


@pytest.mark.parametrize(
    ("node_env", "port"), [(None, 3016), ("production", 3015), ("staging", 3016), ("", 3016)]
)
def test_node_env_selects_the_backend(node_env: str | None, port: int) -> None:
    """NODE_ENV=production selects production's backend, anything else staging's."""
    values = REQUIRED if node_env is None else with_required(NODE_ENV=node_env)
    assert load(values).backend_url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    "node_env",
    [
        *("Production", "PRODUCTION", " production", "production ", "production\r", "production\n"),
        *('"production"', "'production'", "`production`", "'Production'\r", '"production', "\t"),
    ],
)
def test_what_is_nearly_production(node_env: str) -> None:
    """What was meant to be production is a problem, and not silently staging."""
    if not node_env.strip():
        assert load(with_required(NODE_ENV=node_env)).backend_url.endswith(":3016")
        return
    problem = the_problem(with_required(NODE_ENV=node_env), "NODE_ENV")
    assert "not production to the letter" in problem


@pytest.mark.parametrize("node_env", ["prod", "development", "preproduction", "production-eu"])
def test_another_name_is_staging(node_env: str) -> None:
    """Any other name selects staging, as ever."""
    assert load(with_required(NODE_ENV=node_env)).backend_url == "http://127.0.0.1:3016"


def test_backend_url_wins_over_node_env() -> None:
    """BACKEND_URL counts in production too."""
    values = with_required(NODE_ENV="production", BACKEND_URL="http://127.0.0.1:4000")
    assert load(values).backend_url == "http://127.0.0.1:4000"


@pytest.mark.parametrize(
    ("encoding", "text", "key"),
    [
        ("utf8", KEY + "what follows is cut off", KEY.encode()),
        ("hex", "ab" * 32, b"\xab" * 32),
        ("base64", "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=", b"\xab" * 32),
        ("sha256", KEY, hashlib.sha256(KEY.encode()).digest()),
        (
            "scrypt:a salt: with colons",
            KEY,
            hashlib.scrypt(KEY.encode(), salt=b"a salt: with colons", n=2**14, r=8, p=1, dklen=32),
        ),
    ],
)
def test_key_encodings(encoding: str, text: str, key: bytes) -> None:
    """ENCRYPTION_KEY_ENCODING says how the key's bytes are made from its text."""
    values = with_required(ENCRYPTION_KEY=text, ENCRYPTION_KEY_ENCODING=encoding)
    assert load(values).encryption_key == key


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_key_that_does_not_fit_its_encoding(encoding: str) -> None:
    """A key that its encoding cannot read is reported for what it is."""
    values = with_required(ENCRYPTION_KEY="not it " * 9, ENCRYPTION_KEY_ENCODING=encoding)
    assert "not it" not in the_problem(values, "ENCRYPTION_KEY")


# Problems


@pytest.mark.parametrize("variable", REQUIRED)
def test_a_required_variable_is_missing(variable: str) -> None:
    """A required variable that is missing is named."""
    values = {name: value for name, value in REQUIRED.items() if name != variable}
    assert "required" in the_problem(values, variable)


@pytest.mark.parametrize("empty", ["", "   "])
@pytest.mark.parametrize("variable", [name for name in VARIABLES if name != "NODE_ENV"])
def test_an_empty_variable(variable: str, empty: str) -> None:
    """A variable that is set and empty is a problem of its own, with what to do."""
    problem = the_problem(with_required(**{variable: empty}), variable)
    assert "is empty" in problem
    assert "give it a value" in problem


@pytest.mark.parametrize("variable", REQUIRED)
def test_an_empty_required_variable_has_no_default(variable: str) -> None:
    """Nobody is told to remove a variable that has no default."""
    assert "default" not in the_problem(with_required(**{variable: ""}), variable)


@pytest.mark.parametrize(("variable", "text"), MALFORMED)
def test_a_malformed_variable(variable: str, text: str) -> None:
    """A malformed value is one problem, which names the variable and says what to do."""
    problem = the_problem(with_required(**{variable: text}), variable)
    assert re.search("give|use|takes|set|must|mend|copy", problem), problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("text", BAD_NUMBERS)
@pytest.mark.parametrize("variable", NUMBERS)
def test_a_malformed_number(variable: str, text: str) -> None:
    """Whatever is not a positive decimal number is refused, for every number there is."""
    assert "give a" in the_problem(with_required(**{variable: text}), variable)


@pytest.mark.parametrize("text", ["1.5", "0.5", "1.0", "99999999999"])
@pytest.mark.parametrize("variable", [name for name, _, _ in COUNTS])
def test_a_count_is_whole(variable: str, text: str) -> None:
    """What counts things takes whole numbers only."""
    assert "whole number" in the_problem(with_required(**{variable: text}), variable)


@pytest.mark.parametrize("end", ["", "\r", " "])
@pytest.mark.parametrize("quote", ["'", '"', "`"])
@pytest.mark.parametrize("variable", [*REQUIRED, *(name for name, _, _ in OTHERS), *NUMBERS])
def test_quotes_around_a_value(variable: str, quote: str, end: str) -> None:
    """A value in quotes is told as that: docker's --env-file keeps them; it is not shown."""
    value = REQUIRED.get(variable, "1")
    problem = the_problem(with_required(**{variable: f"{quote}{value}{quote}{end}"}), variable)
    assert "begins and ends with a quote" in problem
    assert not [secret for secret in SECRETS if secret in problem]


@pytest.mark.parametrize("text", ["it's", "'a' or 'b", '"', "a'b'", "'"])
def test_quotes_elsewhere_are_part_of_a_secret(text: str) -> None:
    """Quotes inside, or at one end, belong to the secret."""
    assert load(with_required(ADMIN_SECRET=text)).admin_secret == text


@pytest.mark.parametrize("text", [f"{KEY}\r", f"{KEY}\n", f" {KEY}", f"{KEY}\t", f"\ufeff {KEY} "])
@pytest.mark.parametrize("encoding", ["utf8", "sha256", "scrypt:salt"])
def test_a_key_with_blanks_around_it(text: str, encoding: str) -> None:
    """A blank or line break at an end of the key would silently be part of it."""
    values = with_required(ENCRYPTION_KEY=text, ENCRYPTION_KEY_ENCODING=encoding)
    assert "begins or ends with a blank" in the_problem(values, "ENCRYPTION_KEY")


@pytest.mark.parametrize("salt", ["salt\r", "salt ", "'salt'", '"salt"'])
def test_a_salt_that_is_not_as_it_was_meant(salt: str) -> None:
    """The salt is part of the key, and is looked at in the same way."""
    values = with_required(ENCRYPTION_KEY_ENCODING=f"scrypt:{salt}")
    assert re.search("quote|blank", the_problem(values, "ENCRYPTION_KEY_ENCODING"))


def test_all_problems_are_told_at_once() -> None:
    """Every variable that is missing or wrong has its own problem, in one error."""
    values = dict(reversed(MALFORMED)) | dict.fromkeys(NUMBERS, "abc")
    values["MAIL_CONNECTIONS_QUERY"] = ""
    named = [problem.split()[0] for problem in problems(values)]
    assert sorted(named) == sorted(values)


def test_problems_of_dotenv_are_told_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of .env and a variable that is missing are told together, each variable once."""
    for name in REQUIRED:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(f"ADMIN_SECRET=`{SECRET}`\nENCRYPTION_KEY=short\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path)
    told = caught.value.problems
    assert [problem.split()[0] for problem in told] == [
        "ADMIN_SECRET",
        "DATABASE_URL",
        "ENCRYPTION_KEY",
    ]
    assert "Node's dotenv" in told[0]
    assert SECRET not in "".join(told)


def test_nothing_set_at_all() -> None:
    """An empty environment names exactly the required variables."""
    assert [problem.split()[0] for problem in problems({})] == list(REQUIRED)


@pytest.mark.parametrize("mark", [*"#?/@[%", "%zz", "\\", " ", "\n", "\t", "\udcff", "℀"])
def test_a_password_with_special_characters_is_never_shown(mark: str) -> None:
    """A password that breaks the URL is refused or understood, and no piece of it is shown."""
    url = f"postgresql://reader:first{mark}second@db.example/mail"
    found = outcome(with_required(DATABASE_URL=url))
    if isinstance(found, Config):
        read = conninfo_to_dict(found.database.conninfo)
        assert read.get("password") == f"first{mark}second"
        assert read["host"] == "db.example"
    else:
        assert "first" not in str(found)
        assert "second" not in str(found)


@given(
    password=st.text("QXZJ0918#?/@[]%&=:+ '\\\n\té", min_size=8),
    around=st.sampled_from(["postgresql://u:{}@h/d", "postgres://u:{}", "{}", "x://{}", "host={}"]),
)
@example(password="?QXZJ0918", around="postgresql://u:{}@h/d")
@example(password="QXZJ&0918?", around="postgresql://h/d?password={}")
@settings(deadline=None)
def test_no_database_url_is_ever_shown(password: str, around: str) -> None:
    """Whatever stands in DATABASE_URL, no long piece of it gets into the problems."""
    found = outcome(with_required(DATABASE_URL=around.format(password)))
    for start in range(len(password) - 3):
        assert password[start : start + 4] not in f"{found!s} {found!r}"


@given(secret=st.text("QXZJ~^é\n\udcff", min_size=4))
@settings(deadline=None)
def test_secrets_are_never_shown(secret: str) -> None:
    """A bad ADMIN_SECRET or ENCRYPTION_KEY is described and not shown."""
    values = with_required(ADMIN_SECRET=f"ü{secret}", ENCRYPTION_KEY=secret * 9)
    for encoding in ("utf8", "hex", "base64"):
        told = problems({**values, "ENCRYPTION_KEY_ENCODING": encoding})
        assert told[0].startswith(("ADMIN_SECRET has characters", "ADMIN_SECRET is not UTF-8"))
        assert all(secret not in problem for problem in told)


def test_the_repr_hides_the_secrets() -> None:
    """A Config that gets printed shows neither password nor key nor secret."""
    config = load(with_required(ENCRYPTION_KEY_ENCODING="sha256"))
    for text in (repr(config), str(config), repr(config.database)):
        assert not [secret for secret in SECRETS if secret in text]
        assert repr(config.encryption_key) not in text
    assert "x-admin-secret" in repr(config)


VALUES = (
    st.text()
    | st.sampled_from([text for _, text in MALFORMED] + [text for _, text, _, _ in GOOD])
    | st.from_regex(r"[0-9.+-]{0,12}", fullmatch=True)
    | st.from_regex(r"(postgres(ql)?|https?)://[a-z:@%?#=&/\[\]]{0,20}", fullmatch=True)
)


@given(st.dictionaries(st.sampled_from(VARIABLES), VALUES), st.booleans())
@settings(deadline=None)
def test_any_environment_gives_a_config_or_its_problems(
    values: dict[str, str], complete: bool
) -> None:
    """Whatever the variables hold, the outcome is a Config or a ConfigError with clean lines."""
    found = outcome({**REQUIRED, **values} if complete else values)
    if isinstance(found, Config):
        assert len(found.encryption_key) == 32
        assert all(getattr(found, attribute) > 0 for _, attribute, _ in (*SECONDS, *RATES))
    else:
        assert found.problems
        assert {problem.split()[0] for problem in found.problems} <= set(VARIABLES)
        assert all(problem.isprintable() for problem in found.problems)


# .env


@contextmanager
def real_environment(**values: str) -> Iterator[None]:
    """The process environment with ``values`` in it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read every file, where the tests run as root."""
    if not RUNS_AS_ROOT:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_dotenv_completes_the_environment(tmp_path: Path) -> None:
    """What the environment does not set is read from .env in the directory."""
    (tmp_path / ".env").write_text(
        "# a remark\nREBREAK_TEST_A=one\nexport REBREAK_TEST_B='two words'\nREBREAK_TEST_C=\n"
        'REBREAK_TEST_D="dünn"\nREBREAK_TEST_E\n',
        "utf-8",
    )
    values = environment(tmp_path)
    read = {name: value for name, value in values.items() if name.startswith("REBREAK_TEST")}
    assert read == {
        "REBREAK_TEST_A": "one",
        "REBREAK_TEST_B": "two words",
        "REBREAK_TEST_C": "",
        "REBREAK_TEST_D": "dünn",
    }


@pytest.mark.parametrize("real", ["real", ""])
def test_dotenv_never_overrides(tmp_path: Path, real: str) -> None:
    """The real environment counts, an empty value of it included, and is left as it was."""
    (tmp_path / ".env").write_text("REBREAK_TEST_A=file\nREBREAK_TEST_B=file\n")
    with real_environment(REBREAK_TEST_A=real):
        values = environment(tmp_path)
    assert (values["REBREAK_TEST_A"], values["REBREAK_TEST_B"]) == (real, "file")
    assert "REBREAK_TEST_B" not in os.environ


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_dollar_is_literal_in_dotenv(tmp_path: Path, quote: str) -> None:
    """A dollar in .env is an ordinary character: secrets have them."""
    (tmp_path / ".env").write_text(f"REBREAK_TEST_A={quote}pa$HOME${{HOME}}$$x{quote}\n")
    assert environment(tmp_path)["REBREAK_TEST_A"] == "pa$HOME${HOME}$$x"


def test_without_dotenv(tmp_path: Path) -> None:
    """Without a .env the environment is all there is."""
    assert environment(tmp_path) == dict(os.environ)


def test_dotenv_is_read_from_that_directory_only(tmp_path: Path) -> None:
    """A .env further up is somebody else's."""
    (tmp_path / ".env").write_text("REBREAK_TEST_A=above\n")
    (tmp_path / "below").mkdir()
    assert "REBREAK_TEST_A" not in environment(tmp_path / "below")


def test_dotenv_that_is_not_utf8(tmp_path: Path) -> None:
    """A .env in another encoding is a ConfigError that names the file and shows nothing of it."""
    (tmp_path / ".env").write_bytes(b"ADMIN_SECRET=hunter2\xff\xfe\n")
    with pytest.raises(ConfigError) as caught:
        environment(tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(".env cannot be read")
    assert "hunter2" not in problem


def test_dotenv_without_permission() -> None:
    """A .env that may not be read is a ConfigError, not an environment with holes."""
    with server_folder() as folder:
        path = folder / ".env"
        path.write_text("ADMIN_SECRET=hunter2\n")
        path.chmod(0)
        with as_nobody(), pytest.raises(ConfigError) as caught:
            environment(folder)
    (problem,) = caught.value.problems
    assert problem.startswith(".env cannot be read (PermissionError)")
    assert "fix" in problem


def test_certificates_without_permission() -> None:
    """An SSL_CERT_FILE that may not be read is a problem, with the reason."""
    with server_folder() as folder:
        path = folder / "ca.pem"
        path.write_text("")
        path.chmod(0)
        with as_nobody():
            problem = the_problem(with_required(SSL_CERT_FILE=str(path)), "SSL_CERT_FILE")
    assert "Permission denied" in problem


def test_a_dotenv_that_is_no_file(tmp_path: Path) -> None:
    """A directory called .env is a ConfigError too: what was meant to be set is not."""
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"^\.env cannot be read"):
        environment(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADMIN_SECRET", "${ADMIN_SECRET}"),
        ("ENCRYPTION_KEY", "prefix-0123456789-0123456789-${KEY:-hunter2}"),
        ("DATABASE_URL", "postgresql://u:${DB_PASSWORD}@h/d"),
        ("BACKEND_URL", "http://${BACKEND_HOST}:3016"),
        ("NODE_ENV", "${NODE_ENV}"),
        ("SSL_CERT_FILE", "${HOME}/ca.pem"),
        ("LOG_LEVEL", "${LOG_LEVEL:-info}"),
    ],
)
def test_a_placeholder_that_nobody_filled_in(name: str, value: str) -> None:
    """Other readers of the same file fill it in: it is told, and not taken by the letter."""
    problem = the_problem(with_required(**{name: value}), name)
    assert problem == f"{name} holds a ${{…}} that nobody fills in here: give the value itself"


@pytest.mark.parametrize("value", ["pa$HOME", "pa$$x", "pa${", "pa${}x", "$(date)", "{x}"])
def test_a_dollar_is_no_placeholder(value: str) -> None:
    """Secrets have them."""
    assert load(with_required(ADMIN_SECRET=value)).admin_secret == value


def test_a_placeholder_in_somebody_else_s_variable(tmp_path: Path) -> None:
    """It is none of our business."""
    (tmp_path / ".env").write_text("REBREAK_TEST_A=${HOME}/x\n")
    with real_environment(**REQUIRED):
        read_settings(tmp_path)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_empty_names_of_certificates_can_be_removed(name: str) -> None:
    """The problem says so: they have a default."""
    assert ", or remove it" in the_problem(with_required(**{name: ""}), name)


# The program


NOT_AS_MEANT = {
    "quotes": {"ADMIN_SECRET": '"hunter2"'},
    "node-env": {"NODE_ENV": "Production"},
    "node-postgres": {"DATABASE_URL": "postgresql://u:hunter2@h/d?sslmode=no-verify"},
    "keyword-form": {"DATABASE_URL": "host=h password=hunter2 sslmode=no-verify"},
    "pg-variable": {"PGSSLMODE": "no-verify"},
    "dotenv": {".env": "ADMIN_SECRET=hunter2#3\n"},
}


@pytest.mark.parametrize("case", NOT_AS_MEANT)
def test_the_program_does_not_start_on_what_is_not_as_meant(tmp_path: Path, case: str) -> None:
    """Status 78, one line on stderr, and no secret in it."""
    values = {**REQUIRED, **NOT_AS_MEANT[case]}
    text = values.pop(".env", "")
    if text:
        (tmp_path / ".env").write_text(text)
        del values["ADMIN_SECRET"]
    with Daemon(values, tmp_path) as daemon:
        assert daemon.wait() == 78
    (line,) = daemon.stderr.splitlines()
    assert line.startswith("[idle/db] ")
    assert "hunter2" not in line
    assert daemon.lines == []


@pytest.mark.parametrize("value", ["Scrypt:pepper-salt", "scrypt=pepper-salt", "SCRYPT:pepper"])
def test_a_salt_is_not_shown(value: str) -> None:
    """Whatever is wrong with how it is written."""
    with pytest.raises(ConfigError) as caught:
        load({**REQUIRED, "ENCRYPTION_KEY_ENCODING": value})
    assert "pepper" not in " ".join(caught.value.problems)


@pytest.mark.parametrize("value", ["production;", "“production”", "\ufeffproduction"])
def test_what_looks_like_production_is_a_problem(value: str) -> None:
    """Signs around it, seen or not, do not make it staging without a word."""
    with pytest.raises(ConfigError, match="NODE_ENV"):
        load({**REQUIRED, "NODE_ENV": value})


def test_node_postgres_own_parameter_is_dropped() -> None:
    """node-postgres recommends uselibpqcompat in its warnings."""
    url = "postgresql://u:p@h/db?sslmode=require&uselibpqcompat=true"
    assert load({**REQUIRED, "DATABASE_URL": url}).database.conninfo.endswith("?sslmode=require")


def test_a_password_with_a_slash_is_not_taken_for_a_port() -> None:
    """Its rest would be shown as the name of a database."""
    with pytest.raises(ConfigError, match="DATABASE_URL is ambiguous"):
        load({**REQUIRED, "DATABASE_URL": "postgresql://u:1234/secret@h.example.org:5432/db"})
