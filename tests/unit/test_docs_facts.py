"""What the documents say of providers, passwords, promises and costs, against code and figures."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from rebreak_idle.__main__ import CONNECT_THREADS
from rebreak_idle.cipher import BLOB_IV_BYTES, BLOCK_BYTES, GCM_IV_BYTES, LAYOUTS, PasswordCipher
from rebreak_idle.errors import PasswordUnreadable
from rebreak_idle.imap.refusals import Blame, classify_refusal
from rebreak_idle.process import OTHER_DESCRIPTORS
from rebreak_idle.values import KEY_ENCODINGS
from tests.support.documents import (
    REPOSITORY,
    anchors_of,
    code_in,
    fences_of,
    table_of,
    tables_of,
    text_of,
)
from tests.support.settings import variables

PROVIDERS, PASSWORDS, GUARANTEES, BENCHMARKS, OPERATIONS = (
    f"docs/{name}.md"
    for name in ("providers", "passwords", "guarantees", "benchmarks", "operations")
)


def constant(name: str) -> Any:
    """The value of a constant that a document names by its module, or of one of its fields."""
    module, _, attribute = name.rpartition(".")
    owner = module.rpartition(".")[2]
    if owner.isupper():
        return getattr(constant(module), attribute)
    return getattr(import_module(f"rebreak_idle.{module}"), attribute)


def numbers_in(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


# --- bounds ---------------------------------------------------------------------------------------

BOUNDS = [
    *table_of(PROVIDERS, "habit").rows,
    *table_of("docs/database.md", "bound").rows,
    *(row for table in tables_of("SECURITY.md") if table.head[0] == "bound" for row in table.rows),
]


@pytest.mark.parametrize(("what", "value", "source"), BOUNDS)
def test_a_bound_is_that_of_the_code(what: str, value: str, source: str) -> None:
    """The value beside each constant or setting is the one that the program has."""
    (name,) = code_in(source)
    found = constant(name) if "." in name else float(variables()[name])
    values = found if isinstance(found, tuple) else (found,)
    assert numbers_in(value) == [float(each) for each in values], what


# --- providers ------------------------------------------------------------------------------------

BLAMES = {"user": Blame.USER, "provider": Blame.PROVIDER, "nobody knows": Blame.UNKNOWN}


@pytest.mark.parametrize(
    ("text", "who"), [r[:2] for r in table_of(PROVIDERS, "the server says").rows]
)
def test_a_refusal_means_what_is_said(text: str, who: str) -> None:
    """Each text of the table is judged as the table says."""
    (said,) = code_in(text)
    assert classify_refusal(said) is BLAMES[who]


def sections_of(page: str) -> dict[str, str]:
    """The text under each heading of the second order, by its anchor."""
    parts = re.split(r"^## (.+)$", text_of(page), flags=re.MULTILINE)[1:]
    headings = parts[::2]
    return dict(zip(headings, parts[1::2], strict=True))


def test_each_provider_has_a_section_with_sources() -> None:
    """The overview leads to each, and what is said of a provider has a link behind it."""
    overview = table_of(PROVIDERS, "provider").column(0)
    targets = {re.findall(r"\(#([^)]+)\)", cell)[0] for cell in overview}
    sections = list(sections_of(PROVIDERS).items())
    first = [heading for heading, _ in sections].index("At a glance") + 1
    assert len(targets) == len(sections[first:])
    assert targets <= anchors_of(PROVIDERS)
    for heading, text in sections[first:]:
        assert re.search(r"\]\(https?://", text), heading


# --- passwords ------------------------------------------------------------------------------------


def test_every_layout_is_described() -> None:
    """The table has the layouts of the code, their ciphers and the lengths of their IVs."""
    rows = table_of(PASSWORDS, "`ENCRYPTION_LAYOUT`").rows
    assert tuple(code_in(row[0])[0] for row in rows) == LAYOUTS
    for layout, cipher, iv, _ in rows:
        lengths = (BLOCK_BYTES,) if "tag" not in layout else GCM_IV_BYTES
        assert code_in(cipher) == ["aes-256-gcm" if "tag" in layout else "aes-256-cbc"]
        assert numbers_in(iv) == list((BLOB_IV_BYTES,) if "+" in layout else lengths)


def test_every_encoding_is_described() -> None:
    """The table has the encodings of the code."""
    cells = table_of(PASSWORDS, "`ENCRYPTION_KEY_ENCODING`").column(0)
    assert tuple(code_in(cell)[0] for cell in cells) == (*KEY_ENCODINGS, "scrypt:<salt>")


def troubles() -> Iterator[str]:
    """What the cipher says to values that do not open, of every kind."""
    block = "00" * 16
    values = [
        ("iv:tag:ciphertext", f"{block}:{block}:{block}"),
        ("iv:tag:ciphertext", "one:two"),
        ("iv:tag:ciphertext", f"00:{block}:00"),
        ("iv:tag:ciphertext", f"{block}:{block}:?!"),
        ("iv:tag:ciphertext", "\\x" + "ff" * 40),
        ("iv:tag:ciphertext", " "),
    ]
    for layout, value in values:
        with pytest.raises(PasswordUnreadable) as caught:
            PasswordCipher(bytes(32), layout).decrypt(value)
        yield str(caught.value)


def test_what_the_log_says_of_a_password_is_described() -> None:
    """Each sentence of the table is one that the cipher says, and each that it says is there."""
    cells = [code_in(cell)[0] for cell in table_of(PASSWORDS, "the log says").column(0)]
    source = " ".join((REPOSITORY / "rebreak_idle/cipher.py").read_text("utf-8").split())
    rest = {cell for cell in cells if "but not to UTF-8" in cell}  # nobody can make that at will
    assert all(cell.partition(" (")[0] in source for cell in rest)
    patterns = [re.sub(r"<\w+>", ".+", re.escape(c)) for c in cells if c not in rest]
    said = list(troubles())
    assert not [text for text in said if not any(re.fullmatch(p, text) for p in patterns)]
    assert not [p for p in patterns if not any(re.fullmatch(p, text) for text in said)]


# --- promises -------------------------------------------------------------------------------------

PROMISES = table_of(GUARANTEES, "promise").rows


@pytest.mark.parametrize(("promise", "held_by"), PROMISES)
def test_the_tests_of_a_promise_exist(promise: str, held_by: str) -> None:
    """Every file that is named is there, and defines the tests that are named after it."""
    for part in held_by.split("; "):
        names = code_in(part)
        if not names:
            assert "](../SECURITY.md)" in part
            continue
        source = (REPOSITORY / names[0]).read_text("utf-8")
        assert names[1:], promise
        for name in names[1:]:
            assert f"def {name}(" in source, name


def test_the_tests_that_security_names_exist() -> None:
    """Likewise for SECURITY.md, which is about attacks."""
    sources = "".join(p.read_text("utf-8") for p in (REPOSITORY / "tests").rglob("test_*.py"))
    names = {name for name in code_in(text_of("SECURITY.md")) if name.startswith("test_")}
    assert names
    assert not {name for name in names if f"def {name}(" not in sources}


# --- costs ----------------------------------------------------------------------------------------

RESULTS = json.loads((REPOSITORY / "scripts/bench_results/bench.json").read_text("utf-8"))
FIGURES = {(f["system"], f["mailboxes"]): f for f in RESULTS["figures"]}


def test_the_machine_is_the_one_of_the_results() -> None:
    """The page names the machine that the raw figures name."""
    assert RESULTS["machine"] in text_of(BENCHMARKS)


@pytest.mark.parametrize("row", table_of(BENCHMARKS, "mailboxes", "system").rows)
def test_the_table_of_the_benchmark_is_its_result(row: tuple[str, ...]) -> None:
    """Each cell is the raw figure, rounded."""
    figures = FIGURES[row[1], int(row[0].replace(",", ""))]

    def same(cell: int, *expected: float | None) -> None:
        shown = row[cell].split(" / ")
        assert len(shown) == len(expected)
        for text, value in zip(shown, expected, strict=True):
            if value is None or (not figures["steady_mails"] and cell in range(4, 12)):
                assert text == "–"
                continue
            decimals = len(text.partition(".")[2])
            assert float(text.replace(",", "")) == pytest.approx(value, abs=0.51 * 10**-decimals)

    kib = figures["pss_kib"]
    same(2, figures["start_seconds"])
    same(3, figures["start_cpu_seconds"])
    same(4, kib and kib / 1024)
    same(5, figures["kib_per_mailbox"])
    same(6, figures["kib_per_mailbox_whole"])
    same(7, figures["idle_cpu_seconds_per_minute"])
    same(8, *(figures[f"steady_{which}_ms"] for which in ("p50", "p99", "max")))
    same(9, *(figures[f"burst_{which}_ms"] for which in ("p50", "p99", "p99_worst")))
    same(10, figures["burst_cpu_ms_per_event"])
    same(11, figures["slow_burst_p99_ms"])
    same(12, figures["storm_seconds"])
    same(13, figures["storm_attempts"], figures["storm_attempts_most_in_a_second"])
    same(14, figures["stop_seconds"])
    same(15, figures["unscanned"])


def expected_costs(mailboxes: int) -> tuple[float, float, float, float]:
    """MiB, idle CPU, seconds of the start under the default limits, seconds of a burst.

    Measured where it was, else calculated as the page on the benchmark says.
    """
    one, thousand = FIGURES["rebreak", 1000]["pss_of_one_kib"], FIGURES["rebreak", 1000]
    measured = FIGURES.get(("rebreak", mailboxes))
    rate = float(variables()["HOST_LOGINS_PER_SECOND"])
    at_once = int(variables()["SCAN_CONCURRENCY"])
    limited = FIGURES.get(("rebreak, default limits", mailboxes))
    start = limited["start_seconds"] if limited else (mailboxes - 2 * rate) / rate
    burst = -(-mailboxes // at_once) * 0.2
    if measured is None:
        kib = one + mailboxes * thousand["kib_per_mailbox"]
        idle = mailboxes * thousand["idle_cpu_seconds_per_minute"] / 1000
        return kib / 1024, idle, start, burst
    return measured["pss_kib"] / 1024, measured["idle_cpu_seconds_per_minute"], start, burst


@pytest.mark.parametrize("row", table_of("README.md", "mailboxes").rows)
def test_the_readme_s_costs_are_the_benchmark_s(row: tuple[str, ...]) -> None:
    """Its small table shows the figures of the run, or what is calculated from them."""
    shown = [numbers_in(cell)[0] for cell in row]
    for told, expected in zip(shown[1:], expected_costs(int(shown[0])), strict=True):
        assert told == pytest.approx(expected, rel=0.05, abs=0.005)


def test_the_sizes_are_those_of_the_code() -> None:
    """Threads and descriptors as the program takes them, idle CPU as the benchmark measured it."""
    rows = {row[0]: row[1:] for row in table_of(OPERATIONS, "takes").rows}
    assert numbers_in(rows["threads"][1])[0] == pytest.approx(CONNECT_THREADS, abs=5)
    assert numbers_in(rows["file descriptors"][1]) == [OTHER_DESCRIPTORS]
    (each,), (program,) = (numbers_in(cell) for cell in rows["idle CPU, seconds a minute"])
    for mailboxes in (1_000, 10_000):
        measured = FIGURES["rebreak", mailboxes]["idle_cpu_seconds_per_minute"]
        assert program + mailboxes * each == pytest.approx(measured, rel=0.1)


def test_documents_and_pm2_agree_on_memory() -> None:
    """What the program and a mailbox take is told alike, and is the benchmark's with the storm."""
    rows = {row[0]: row[1:] for row in table_of(OPERATIONS, "takes").rows}
    (kib,), (mib,) = (numbers_in(cell) for cell in rows["memory"])
    comment = " ".join(text_of("ecosystem.config.js").replace("//", "").split())
    told = re.search(
        r"about (\d+) KiB, the program itself about (\d+) MiB, .* ([\d,]+) mailboxes", comment
    )
    assert told
    assert [float(told[1]), float(told[2])] == [kib, mib]
    limit = (2 * 1024 - mib) * 1024 / kib
    assert numbers_in(told[3])[0] == pytest.approx(limit, rel=0.02)
    figures = FIGURES["rebreak", 10_000]
    storm = (figures["pss_at_the_end_kib"] - figures["pss_of_one_kib"]) / 10_000
    assert storm <= kib <= storm * 1.1
    assert figures["pss_of_one_kib"] / 1024 == pytest.approx(mib, rel=0.05)


# --- the tests' own page --------------------------------------------------------------------------


def test_every_file_of_the_tests_is_described() -> None:
    """tests/README.md lists each file of the tests, and none that is not there."""
    folder = REPOSITORY / "tests"
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*.py") if p.stem != "__init__"}
    tables = [table for table in tables_of("tests/README.md") if table.head[0] == "file"]
    listed = [code_in(cell)[0] for table in tables for cell in table.column(0)]
    assert sorted(listed) == sorted(files)


def test_snippets_have_a_language_or_are_output() -> None:
    """A block without a language is shown, not run: none of them begins with a command."""
    for page in ("README.md", *(f"docs/{p.name}" for p in (REPOSITORY / "docs").glob("*.md"))):
        for fence in fences_of(page, ""):
            assert not re.match(r"(sudo|pip|python|scripts/|docker|systemctl) ?", fence.text), page
