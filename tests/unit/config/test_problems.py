"""Variables that are missing, empty or malformed, each told in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rebreak_idle.config import load, read_settings
from rebreak_idle.errors import ConfigError
from tests.unit.config.conftest import (
    COUNTS,
    KEY,
    MALFORMED,
    NUMBERS,
    OTHERS,
    REQUIRED,
    SECRET,
    SECRETS,
    VARIABLES,
    problems,
    the_problem,
    with_required,
)

BAD_NUMBERS = ["-1", "0", "0.0", "nan", "inf", "-inf", "abc", "1e3", "５", "1_000", "0x10", "1,5"]
BAD_NUMBERS += [".", "+", "5s", "1 000", "--5", "٣", "9" * 400]


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


@pytest.mark.parametrize("value", ["production;", "“production”", "\ufeffproduction"])
def test_what_looks_like_production_is_a_problem(value: str) -> None:
    """Signs around it, seen or not, do not make it staging without a word."""
    with pytest.raises(ConfigError, match="NODE_ENV"):
        load({**REQUIRED, "NODE_ENV": value})
