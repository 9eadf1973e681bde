"""The values of the variables: good, and not set."""

from __future__ import annotations

import hashlib
import socket

import pytest
from psycopg.conninfo import conninfo_to_dict

from rebreak_idle.config import load
from tests.unit.config.conftest import (
    COUNTS,
    GOOD,
    KEY,
    OTHERS,
    PASSWORD,
    RATES,
    REQUIRED,
    SECONDS,
    SECRET,
    the_problem,
    with_required,
)


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


def test_node_postgres_own_parameter_is_dropped() -> None:
    """node-postgres recommends uselibpqcompat in its warnings."""
    url = "postgresql://u:p@h/db?sslmode=require&uselibpqcompat=true"
    assert load({**REQUIRED, "DATABASE_URL": url}).database.conninfo.endswith("?sslmode=require")
