"""Where the variables come from: the environment and .env; and the program itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rebreak_idle.config import environment, load, read_settings
from rebreak_idle.errors import ConfigError
from tests.support.daemon import Daemon
from tests.support.servers import RUNS_AS_ROOT, server_folder
from tests.unit.config.conftest import REQUIRED, the_problem, with_required

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
