"""`.env`: what both python-dotenv and Node's dotenv read alike, and what they do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rebreak_idle.config import environment
from rebreak_idle.dotenv_file import WRITINGS, read_as_node, read_dotenv
from rebreak_idle.errors import ConfigError

# Lines that both read alike, with the value of X.
ALIKE = [
    ("X=plain", "plain"),
    ("X=", ""),
    ("X=   ", ""),
    ("X = spaced out  ", "spaced out"),
    ("X\t=\ttabs\t", "tabs"),
    ("export X=exported", "exported"),
    ("  export   X='exported'", "exported"),
    ("X='single'", "single"),
    ('X="double"', "double"),
    ("X='a#b'", "a#b"),
    ('X="a # b"', "a # b"),
    ("X=plain # remark", "plain"),
    ("X=plain\t# it's a remark", "plain"),
    ("X='single' # it's a remark", "single"),
    ('X="double" #remark', "double"),
    ("X=it's", "it's"),
    ('X=say "hello"', 'say "hello"'),
    ('X={"json": [1, 2]}', '{"json": [1, 2]}'),
    ("X='{\"json\": 1}'", '{"json": 1}'),
    ('X="it\'s"', "it's"),
    ("X=back\\slash\\\\es", "back\\slash\\\\es"),
    ("X='one\\backslash'", "one\\backslash"),
    ('X="two\\nlines"', "two\nlines"),
    ('X="two\\r\\nlines"', "two\r\nlines"),
    ("X='not\\nthese'", "not\\nthese"),
    ("X='two\nlines'", "two\nlines"),
    ('X="two\nlines # no remark"', "two\nlines # no remark"),
    ("X=$HOME and ${HOME}", "$HOME and ${HOME}"),
    ('X="\\$HOME"', "\\$HOME"),
    ("X=a=b==", "a=b=="),
    ("X==a", "=a"),
    ("X=first\nX=last", "last"),
    ("X=first\nX", "first"),
    ("# X=remark\nX=value", "value"),
    ("\n\n  \nX=value\n\n", "value"),
    ("X=value\r\nY=other\r\n", "value"),
    ("X=value\rY=other", "value"),
    ("\ufeffX=value", "value"),
    ("X=d\u00fcnn", "d\u00fcnn"),
    ("lower.case-and_1=x\nX=value", "value"),
    ('Y="a\nX=inside\n"\nX=outside', "outside"),
    ("X='postgresql://u:p%23w@h/d?sslmode=require'", "postgresql://u:p%23w@h/d?sslmode=require"),
]
# Lines that the two read otherwise: what Node's dotenv reads, and how to write either value.
OTHERWISE = [
    ("X=a#b", "a", "in single quotes"),
    ("X=#a", "", "in single quotes"),
    ("X=postgresql://u:p#w@h/d", "postgresql://u:p", "in single quotes"),
    ("X=`a`", "a", "in single quotes"),
    ("X=`a#b` # remark", "a#b", "in single quotes"),
    ("X=`it's`", "it's", "in double quotes"),
    ("X=it's#1", "it's", "in double quotes"),
    ('X="say \\"hello\\""', 'say \\"hello\\"', "in single quotes"),
    ('X="a\\tb"', "a\\tb", "in single quotes"),
    ('X="C:\\\\dir"', "C:\\\\dir", "without quotes"),
    ("X='it\\'s'", "it\\'s", "without quotes"),
    ("X='back\\\\slash'", "back\\\\slash", "without quotes"),
    ("X='it\\'s #1'", "it\\'s #1", "in the process environment"),
]


@pytest.fixture(autouse=True)
def nothing_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the tests' own environment hides one of the file."""
    monkeypatch.delenv("X", raising=False)
    monkeypatch.delenv("Y", raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / ".env"
    path.write_bytes(text.encode())
    return folder


def problems(folder: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        environment(folder)
    return caught.value.problems


@pytest.mark.parametrize(("text", "value"), ALIKE)
def test_what_both_read_alike_is_taken(tmp_path: Path, text: str, value: str) -> None:
    """A line that means the same to both readers is no problem, and has that value."""
    assert environment(write(tmp_path, text))["X"] == value


@pytest.mark.parametrize(
    ("text", "value"),
    [*ALIKE, *((text, value) for text, value, _ in OTHERWISE)],
)
def test_node_is_read_as_npm_s_dotenv_reads(text: str, value: str) -> None:
    """These are the values that npm's dotenv 17 finds."""
    lines = re.sub("\r\n?", "\n", text).removeprefix("\ufeff")
    assert read_as_node(lines)["X"].value == value


@pytest.mark.parametrize(("text", "theirs", "remedy"), OTHERWISE)
def test_what_they_read_otherwise_is_a_problem(
    tmp_path: Path, text: str, theirs: str, remedy: str
) -> None:
    """A line that Node reads otherwise names its variable, its line, and how to write it."""
    (problem,) = problems(write(tmp_path, f"# first\n\n\n{text}\nY=other\n"))
    assert problem.startswith("X in line 4 of .env is read otherwise by Node's dotenv: ")
    assert remedy in problem


@pytest.mark.parametrize(("text", "theirs", "remedy"), OTHERWISE)
def test_the_remedy_helps(tmp_path: Path, text: str, theirs: str, remedy: str) -> None:
    """Written as the problem says, either value is read alike by both."""
    quotes = {words: quote for quote, words in WRITINGS.items()}
    if remedy not in quotes:
        return
    path = write(tmp_path, text)
    ours = read_dotenv(path / ".env", ())[0]["X"]
    for value in (ours, theirs):
        write(tmp_path, f"X={quotes[remedy]}{value}{quotes[remedy]}\n")
        assert environment(tmp_path)["X"] == value


def test_each_line_has_its_problem_and_shows_nothing(tmp_path: Path) -> None:
    """All lines are told at once, whichever program they are for, and no value is shown."""
    text = "ADMIN_SECRET=hunter2#hunter3\nOTHER_SECRET=`hunter4`\nX=well\n"
    told = problems(write(tmp_path, text))
    assert [line.split(" of ")[0] for line in told] == [
        "ADMIN_SECRET in line 1",
        "OTHER_SECRET in line 2",
    ]
    assert "hunter" not in "".join(told)


@pytest.mark.parametrize(
    "text",
    [
        "X: value",
        "X='no end",
        'X="no end',
        "X='hunter2'hunter3",
        "'X Y'=hunter2",
        "\u00fc=hunter2",
        "hun+ter2=hunter3",
    ],
)
def test_a_line_that_one_of_them_cannot_read(tmp_path: Path, text: str) -> None:
    """A line that is no NAME=value to both is told by its number, without what stands in it."""
    told = problems(write(tmp_path, f"A=1\n\n{text}\nB=2\n"))
    assert told[0].startswith(".env cannot be understood in line 3: write NAME=value")
    assert "hun" not in "".join(told)


@pytest.mark.parametrize(
    "text",
    [
        "// a remark",
        "; a remark",
        "-- a remark",
        "hunter2 hunter3 hunter4",
        "<<<<<<< HEAD",
        "[main]",
    ],
)
def test_a_line_that_both_ignore(tmp_path: Path, text: str) -> None:
    """It means nothing to either, so that nobody can take it in another sense."""
    assert environment(write(tmp_path, f"X=1\n{text}\nY=2\n"))["Y"] == "2"


@pytest.mark.parametrize("text", [*(text for text, _, _ in OTHERWISE), "X: value", "X='no end"])
@pytest.mark.parametrize("real", ["real", ""])
def test_what_the_process_environment_sets_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, real: str
) -> None:
    """How a line for it is read does not matter; other lines are told as ever."""
    monkeypatch.setenv("X", real)
    assert environment(write(tmp_path, f"{text}\nY=other\n"))["X"] == real
    (problem,) = problems(write(tmp_path, f"{text}\nY=a#b\n"))
    assert problem.startswith("Y in line 2")


def test_a_dangling_link_is_told(tmp_path: Path) -> None:
    """A .env that is a link to nowhere was meant to be there."""
    (tmp_path / ".env").symlink_to(tmp_path / "gone")
    (problem,) = problems(tmp_path)
    assert problem.startswith(".env cannot be read (FileNotFoundError)")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_another_encoding_is_told(tmp_path: Path, encoding: str) -> None:
    """A .env that is not in UTF-8 is a problem, with a mark at its begin or not."""
    (tmp_path / ".env").write_bytes("X=d\u00fcnn\n".encode(encoding))
    (problem,) = problems(tmp_path)
    assert problem.startswith(".env cannot be read")
