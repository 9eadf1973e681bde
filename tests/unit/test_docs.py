"""The README, .env.example and ecosystem.config.js, held against the code that they describe."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rebreak_idle
from rebreak_idle.config import PRODUCTION_BACKEND_URL, environment, load
from rebreak_idle.errors import ConfigError
from rebreak_idle.status import State
from rebreak_idle.store import DEFAULT_QUERY
from tests.conftest import require
from tests.support.rig import ENCRYPTION_KEY
from tests.support.servers import find_program

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXAMPLE = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
SOURCES = sorted(Path(rebreak_idle.__file__).parent.rglob("*.py"))

# What a deployment must set; load() is given these to learn the rest.
REQUIRED = {
    "DATABASE_URL": "postgresql://localhost/test",
    "ADMIN_SECRET": "secret",
    "ENCRYPTION_KEY": ENCRYPTION_KEY,
}
# A daemon's own stop; PM2 must not kill it sooner.
STOP_MILLISECONDS = 10_000
EX_CONFIG = 78


# --- reading the documents --------------------------------------------------------------------


def table(heading: str) -> list[list[str]]:
    """The cells of the README's table whose heading row begins with this cell."""
    _, found, after = README.partition(f"\n| {heading} |")
    assert found, f"the README has no table of the {heading}"
    lines = after.splitlines()[2:]
    end = next(n for n, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def code_in(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def first_code(cell: str) -> str | None:
    return next(iter(code_in(cell)), None)


class Asked(dict[str, str]):
    """An environment that notes which variables are asked for, and with which defaults."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.defaults: dict[str, Any] = {}

    def get(self, name: str, default: Any = None) -> Any:
        self.defaults[name] = default
        return super().get(name, default)


def variables() -> dict[str, Any]:
    """Every variable that the program reads, with its default, None where it has none."""
    asked = Asked(REQUIRED)
    load(asked)
    return asked.defaults


def one_line(text: str) -> str:
    return " ".join(text.split())


# --- reading the code -------------------------------------------------------------------------


def log_formats() -> set[str]:
    """Every format string that the daemon logs from level info on, if it has words of its own."""
    return {
        text
        for path in SOURCES
        if path.name != "check.py"
        for text in _logged(ast.parse(path.read_text(encoding="utf-8")))
        if re.search("[a-z]{3}", text)
    }


def _logged(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Name(id="logger" | "mailbox_logger") | ast.Attribute(attr="_logger"),
                    attr="info" | "warning" | "error" | "exception",
                ),
                args=[ast.Constant(value=str(text)), *_],
            ):
                yield text


def fits(line: str, log_format: str) -> bool:
    """Whether a documented line, prefix aside, can be a line of this format."""
    literals = re.split(r"%[sd]", log_format)
    pattern = ".+".join(re.escape(literal) for literal in literals)
    return re.fullmatch(pattern, line.partition("] ")[2]) is not None


def documented_lines() -> list[str]:
    return [code_in(row[0])[0] for row in table("line")]


# --- the tests --------------------------------------------------------------------------------


def test_readme_has_every_variable_with_its_default() -> None:
    """The README's table names the variables that config reads, and no other, with the defaults."""
    told = {code_in(name)[0]: first_code(default) for name, _, default, _ in table("variable")}
    expected = variables() | {"MAIL_CONNECTIONS_QUERY": None}
    assert told == expected
    assert one_line(DEFAULT_QUERY) in one_line(README)


def test_readme_has_the_production_backend() -> None:
    """The other default of BACKEND_URL stands in its row."""
    (default,) = (row[2] for row in table("variable") if row[0] == "`BACKEND_URL`")
    assert code_in(default)[1:] == [PRODUCTION_BACKEND_URL, "NODE_ENV=production"]
    assert load({**REQUIRED, "NODE_ENV": "production"}).backend_url == PRODUCTION_BACKEND_URL


def test_readme_says_which_variables_are_required() -> None:
    """Those are called required without which the program does not start."""
    with pytest.raises(ConfigError) as caught:
        load({})
    missing = {problem.split()[0] for problem in caught.value.problems}
    assert {code_in(row[0])[0] for row in table("variable") if row[1] == "yes"} == missing
    assert missing == set(REQUIRED)


def test_example_has_every_variable_with_its_default() -> None:
    """.env.example names every variable; what is commented out shows the default."""
    lines = re.findall(r"^(# )?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    assert {name for comment, name, _ in lines if not comment} == set(REQUIRED)
    shown = {name: value.strip('"') for comment, name, value in lines if comment}
    defaults = {name: value for name, value in variables().items() if name not in REQUIRED}
    defaults["MAIL_CONNECTIONS_QUERY"] = one_line(DEFAULT_QUERY)
    defaults["NODE_ENV"] = "production"  # it has no default; this is what there is to set
    assert shown == defaults


def test_example_as_it_is_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that nobody filled in is refused, for the secrets that it lacks."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(EXAMPLE, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(environment(tmp_path))
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "ADMIN_SECRET",
        "ENCRYPTION_KEY",
    ]


def test_example_with_its_lines_uncommented_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each optional line can be used as it stands, and then has the default's effect."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    text = re.sub(r"^# (?=[A-Z_]+=)(?!NODE_ENV)", "", EXAMPLE, flags=re.MULTILINE)
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    values = environment(tmp_path) | REQUIRED
    values["MAIL_CONNECTIONS_QUERY"] = DEFAULT_QUERY  # the same but for its line breaks
    assert load(values) == load(REQUIRED)


def test_readme_has_every_state() -> None:
    """The README's table names the states of the Enum, and no other."""
    assert {code_in(row[0])[0] for row in table("state")} == {state.value for state in State}


@pytest.mark.parametrize("line", documented_lines())
def test_documented_line_is_logged(line: str) -> None:
    """Each line of the README's table is one that the code can log."""
    assert [text for text in log_formats() if fits(line, text)]


def test_every_line_is_documented() -> None:
    """Each line that the daemon logs from level info on stands in the README's table."""
    lines = documented_lines()
    missing = {text for text in log_formats() if not any(fits(line, text) for line in lines)}
    assert not missing


@pytest.fixture(scope="module")
def apps() -> dict[str, dict[str, Any]]:
    """The apps of ecosystem.config.js by name, as Node reads it."""
    require("node")
    node = find_program("node")
    program = "console.log(JSON.stringify(require('./ecosystem.config.js')))"
    done = subprocess.run(
        [node, "-e", program], cwd=REPOSITORY, capture_output=True, check=True, timeout=30
    )
    return {app["name"]: app for app in json.loads(done.stdout)["apps"]}


def test_pm2_has_both_apps(apps: dict[str, dict[str, Any]]) -> None:
    """PM2 knows a production and a staging app, told apart by NODE_ENV."""
    environments = {name: app["env"] for name, app in apps.items()}
    assert environments == {
        "rebreak-idle": {"NODE_ENV": "production"},
        "rebreak-idle-staging": {"NODE_ENV": "staging"},
    }


@pytest.mark.parametrize("name", ["rebreak-idle", "rebreak-idle-staging"])
def test_pm2_runs_the_daemon_with_care(apps: dict[str, dict[str, Any]], name: str) -> None:
    """PM2 lets the daemon stop, backs off on restarts, and leaves wrong settings to a person."""
    app = apps[name]
    assert (app["script"], app["args"]) == (".venv/bin/python", "-m rebreak_idle")
    assert (app["interpreter"], app["cwd"]) == ("none", str(REPOSITORY))
    assert app["kill_timeout"] > STOP_MILLISECONDS
    assert app["autorestart"] is True
    assert app["exp_backoff_restart_delay"] > 0
    assert app["stop_exit_codes"] == [EX_CONFIG]
    assert re.fullmatch(r"\d+[GMK]", app["max_memory_restart"])
    assert app["log_date_format"]
    assert "time" not in app, "it would replace log_date_format"
