"""The tables of settings, of the log, of the architecture and of the database, against the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rebreak_idle
from rebreak_idle import __main__ as program
from rebreak_idle import log, store
from rebreak_idle.config import PRODUCTION_BACKEND_URL, load
from rebreak_idle.database_url import parse_database_url
from rebreak_idle.errors import ConfigError
from rebreak_idle.scan.client import PATH
from rebreak_idle.scan.pending import REASONS
from rebreak_idle.status import State
from tests.support.documents import PAGES, code_in, fences_of, prose_of, table_of, text_of
from tests.support.settings import REQUIRED, variables

PACKAGE = Path(rebreak_idle.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
SETTINGS, LOG, ARCHITECTURE, DATABASE = (
    f"docs/{name}.md" for name in ("settings", "log", "architecture", "database")
)
WHO_ACTS = {"nobody", "user", "operator", "operator if it stays", "developer"}


def first_code(cell: str) -> str | None:
    return next(iter(code_in(cell)), None)


# --- settings -------------------------------------------------------------------------------------


def told_defaults(page: str) -> dict[str, str | None]:
    rows = table_of(page, "variable").rows
    return {code_in(name)[0]: first_code(default) for name, _, default, _ in rows}


def test_settings_have_every_variable_with_its_default() -> None:
    """The table names the variables that config reads, and no other, with the defaults."""
    assert told_defaults(SETTINGS) == variables() | {"MAIL_CONNECTIONS_QUERY": None}


def test_the_readme_tells_the_same_of_the_few() -> None:
    """Its short table has the defaults, and what is required, as the long one has them."""
    whole = table_of(SETTINGS, "variable").rows
    for name, required, default, _ in table_of("README.md", "variable").rows:
        (row,) = [row for row in whole if row[0] == name]
        assert row[1] == required
        if name != "`MAIL_CONNECTIONS_QUERY`":  # which both show in a block of its own
            assert row[2] == default


def test_settings_have_the_production_backend() -> None:
    """The other default of BACKEND_URL stands in its row."""
    rows = table_of(SETTINGS, "variable").rows
    (default,) = (row[2] for row in rows if row[0] == "`BACKEND_URL`")
    assert code_in(default)[1:] == [PRODUCTION_BACKEND_URL, "NODE_ENV=production"]
    assert load({**REQUIRED, "NODE_ENV": "production"}).backend_url == PRODUCTION_BACKEND_URL


def test_settings_say_which_variables_are_required() -> None:
    """Those are called required without which the program does not start."""
    with pytest.raises(ConfigError) as caught:
        load({})
    missing = {problem.split()[0] for problem in caught.value.problems}
    rows = table_of(SETTINGS, "variable").rows
    assert {code_in(row[0])[0] for row in rows if row[1] == "yes"} == missing
    assert missing == set(REQUIRED)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_a_name_in_capitals_is_one_of_the_program(page: str) -> None:
    """Variables and constants that the page names are in the code, spelled so."""
    sources = " ".join(path.read_text("utf-8") for path in SOURCES)
    code = " ".join(code_in(prose_of(page)))
    names = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b", code))
    assert not {name for name in names if not re.search(rf"\b{name}\b", sources)}


# --- the log --------------------------------------------------------------------------------------


def log_formats(by_check: bool) -> set[str]:
    """Every format string with words of its own that is logged from level info on: by the
    preflight, or by everything else, the daemon.
    """
    return {
        text
        for path in SOURCES
        for part in ast.parse(path.read_text(encoding="utf-8")).body
        if _is_of_check(path, part) == by_check
        for text in _logged(part)
        if re.search("[a-z]{3}", text)
    }


def _is_of_check(path: Path, part: ast.stmt) -> bool:
    return path.name == "check.py" or getattr(part, "name", "") == "show_table"


def _logged(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Name(id="logger" | "mailbox_logger" | "report")
                    | ast.Attribute(attr="_logger"),
                    attr="info" | "warning" | "error" | "exception",
                )
                | ast.Name(id="report"),
                args=[ast.Constant(value=str(text)), *_],
            ):
                yield text


def fits(line: str, log_format: str) -> bool:
    """Whether a documented line, prefix aside, can be a line of this format."""
    literals = re.split(r"%[sd]", log_format)
    pattern = ".+".join(re.escape(literal) for literal in literals)
    return re.fullmatch(pattern, line.partition("] ")[2]) is not None


def lines_of(page: str, *head: str) -> list[str]:
    return [code_in(cell)[0] for cell in table_of(page, *head).column(0)]


DAEMON = log_formats(by_check=False) | {log.LEFT_OUT.partition("] ")[2]}
CHECK = log_formats(by_check=True)


@pytest.mark.parametrize("line", lines_of(LOG, "line", "who acts"))
def test_documented_line_is_logged(line: str) -> None:
    """Each line of the table is one that the daemon can log."""
    assert [text for text in DAEMON if fits(line, text)]


def test_every_line_is_documented() -> None:
    """Each line that the daemon logs from level info on stands in the table."""
    lines = lines_of(LOG, "line", "who acts")
    assert not {text for text in DAEMON if not any(fits(line, text) for line in lines)}


def test_the_lines_of_check_are_those_it_logs() -> None:
    """The table of the preflight's lines has all of them, and no other."""
    lines = lines_of(LOG, "line", "when")
    assert not [line for line in lines if not any(fits(line, text) for text in CHECK)]
    assert not {text for text in CHECK if not any(fits(line, text) for line in lines)}


def test_who_must_act_is_who_the_line_names() -> None:
    """Each line has somebody who acts, or nobody; where the line names him it is he."""
    for line, who, _ in table_of(LOG, "line", "who acts").rows:
        assert who in WHO_ACTS
        if named := re.search(r"the (user|operator) must act", line):
            assert who == named[1]


def test_the_readme_s_lines_are_whole_ones() -> None:
    """The README shows lines of the long table, to the letter; the first six come first there."""
    whole = lines_of(LOG, "line", "who acts")
    assert lines_of("README.md", "line", "when") == whole[:6]
    assert set(lines_of("README.md", "line", "who")) <= set(whole)


@pytest.mark.parametrize("beginning", table_of(LOG, "`<why>` begins with").column(0))
def test_a_reason_begins_as_documented(beginning: str) -> None:
    """The words by which reasons are told apart are those of the code."""
    (words,) = code_in(beginning)
    assert any(words in path.read_text("utf-8") for path in SOURCES)


def shown_lines() -> set[str]:
    """What the pages show as really logged, without time and mailbox."""
    fences = [fence for page in PAGES for fence in fences_of(page, "")]
    return {
        text
        for fence in fences
        for text in re.findall(r"\[idle/[^\]…<]+\] (.+)$", fence.text, re.MULTILINE)
    }


@pytest.mark.parametrize("line", sorted(shown_lines()))
def test_a_line_that_is_shown_is_one_that_is_logged(line: str) -> None:
    """The samples of all pages hold lines that daemon, preflight or a bad start still write."""
    with pytest.raises(ConfigError) as caught:
        load({"ENCRYPTION_KEY": "short", "DATABASE_URL": REQUIRED["DATABASE_URL"]})
    formats = {*DAEMON, *CHECK, "%s (%s must act)", *caught.value.problems}
    following = r"(certificate|network trouble|provider trouble)\b.*"  # the reason, before a wait
    assert any(fits(f"] {line}", text) for text in formats) or re.fullmatch(following, line)


@pytest.mark.parametrize("cell", table_of("docs/operations.md", "you see").column(0))
def test_what_an_operator_sees_is_said(cell: str) -> None:
    """The words by which the operator's table is entered are words of the log."""
    said = "".join(path.read_text("utf-8") for path in SOURCES) + text_of(LOG)
    said = re.sub(r"\s+", " ", re.sub(r'"\s+f?"', "", said))
    for words in code_in(cell):
        pattern = re.sub(r"\\?…|<host>|\d+", ".+", re.escape(words))
        assert "PM2" in cell or re.search(pattern, said), words


# --- the architecture -----------------------------------------------------------------------------


def test_architecture_has_every_state() -> None:
    """The table names the states of the Enum, and no other."""
    rows = table_of(ARCHITECTURE, "state").rows
    assert {code_in(row[0])[0] for row in rows} == {state.value for state in State}


def test_architecture_has_every_module() -> None:
    """Whoever looks for a line's room finds it: each module stands in the table, and no other."""
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in SOURCES
        if path.name != "__init__.py"
    }
    listed = [code_in(cell)[0] for cell in table_of(ARCHITECTURE, "module").column(0)]
    assert sorted(listed) == sorted(modules)


def test_architecture_has_every_thread() -> None:
    """The names in the table, and in the picture, are those that threads and pools are given."""
    given = set()
    for path in SOURCES:
        text = path.read_text("utf-8")
        given |= set(re.findall(r'ThreadPoolExecutor\([^"\n]*"(\w+)"\)', text))
        given |= set(re.findall(r'\bname=f?"(idle-[^"{]*)', text))
    given -= {"check"}  # the preflight's
    picture = text_of("docs/architecture.svg")
    named = {re.sub(r"\*$|<id>$", "", name) for name in code_in_threads()}
    assert {name.rstrip("-") for name in named} == {name.rstrip("-") for name in given}
    for name in named:
        assert f">{name}" in picture
    assert f"up to {program.CONNECT_THREADS}" in text_of(ARCHITECTURE)


def code_in_threads() -> list[str]:
    cells = table_of(ARCHITECTURE, "thread").column(0)
    return [name for cell in cells for name in code_in(cell)]


def test_the_scan_request_is_described_as_it_is() -> None:
    """Path and reasons are those of the code."""
    assert f"POST {{BACKEND_URL}}{PATH}" in text_of(ARCHITECTURE)
    rows = table_of(ARCHITECTURE, "`reason`").rows
    assert {code_in(row[0])[0] for row in rows} == set(REASONS)


def test_exit_statuses_are_those_of_the_program() -> None:
    """The README's table has each of them."""
    cells = [row[0] for table in [table_of("README.md", "", "")] for row in table.rows]
    told = {int(cell.split()[-1]) for cell in cells if cell.startswith("exit status")}
    assert told == {program.EX_OK, program.EX_FAULT, program.EX_CONFIG}
    source = (PACKAGE / "__main__.py").read_text("utf-8")
    signals = {name for cell in cells for name in re.findall(r"SIG\w+", cell)}
    assert signals == set(re.findall(r"signal\.(SIG[A-Z]\w+)", source)) - {"SIG_DFL", "SIG_IGN"}


# --- the database ---------------------------------------------------------------------------------


def test_the_columns_are_those_that_are_read() -> None:
    """The table has each column with a meaning, and says which must be there."""
    rows = table_of(DATABASE, "column").rows
    assert {code_in(name)[0] for name, _, _ in rows} == set(store._COLUMNS.values())
    required = {code_in(name)[0] for name, required, _ in rows if required == "yes"}
    assert required == set(store.REQUIRED_COLUMNS)
    assert f"| {store.IMAPS_PORT} where it is missing" in text_of(DATABASE)
    assert f"`starttls` on port {store.IMAP_PORT}." in text_of(DATABASE)


@pytest.mark.parametrize("url", table_of(DATABASE, "`DATABASE_URL`").column(0))
def test_connection_strings_are_taken(url: str) -> None:
    """Each example is one that the daemon starts with."""
    parse_database_url(code_in(url)[0])


def test_schema_becomes_the_search_path() -> None:
    """As the row with Prisma's ``schema`` says."""
    urls = [code_in(cell)[0] for cell in table_of(DATABASE, "`DATABASE_URL`").column(0)]
    (url,) = [url for url in urls if "schema=" in url]
    assert parse_database_url(url).schema == "mail"
