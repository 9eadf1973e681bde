"""Whatever is wrong with the variables, no secret is shown."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from rebreak_idle.config import Config, load
from rebreak_idle.errors import ConfigError
from tests.unit.config.conftest import (
    GOOD,
    MALFORMED,
    RATES,
    REQUIRED,
    SECONDS,
    SECRETS,
    VARIABLES,
    outcome,
    problems,
    with_required,
)


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


@pytest.mark.parametrize("value", ["Scrypt:pepper-salt", "scrypt=pepper-salt", "SCRYPT:pepper"])
def test_a_salt_is_not_shown(value: str) -> None:
    """Whatever is wrong with how it is written."""
    with pytest.raises(ConfigError) as caught:
        load({**REQUIRED, "ENCRYPTION_KEY_ENCODING": value})
    assert "pepper" not in " ".join(caught.value.problems)


def test_a_password_with_a_slash_is_not_taken_for_a_port() -> None:
    """Its rest would be shown as the name of a database."""
    with pytest.raises(ConfigError, match="DATABASE_URL is ambiguous"):
        load({**REQUIRED, "DATABASE_URL": "postgresql://u:1234/secret@h.example.org:5432/db"})
