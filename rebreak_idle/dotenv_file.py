"""`.env`, as python-dotenv reads it, and the lines that Node's dotenv reads otherwise.

Node programs share the file. Where the two readers differ nobody can say what was meant, so such a
line is a problem, whichever program its variable is for. A line that both ignore is none, nor is
one for a variable that the process environment sets anyway.
"""

from __future__ import annotations

import re
from collections.abc import Container
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dotenv.parser import Binding, parse_stream

from .errors import ConfigError

# The rules of npm's dotenv 15 and later (https://github.com/motdotla/dotenv#rules): an unquoted "#"
# begins a remark, three kinds of quotes, no escapes but \n and \r, and those in double quotes only.
_NODE_LINE = re.compile(
    r"""
    ^ \s* (?: export \s+ )? (?P<name> [A-Za-z0-9_.-]+ ) (?: \s*= | :\s )
    (?P<value>
        \s* (?P<quote> ['"`] ) (?: \\(?P=quote) | (?!(?P=quote)) [\s\S] )* (?P=quote)
      | [^\#\n]*
    )
    \s* (?: \#.* )? $
    """,
    re.MULTILINE | re.VERBOSE,
)
_QUOTED = re.compile(r"""^(['"`])(.*)\1$""", re.MULTILINE | re.DOTALL)
# Ways of writing a value that both may read alike, the usual one first.
WRITINGS = {"'": "in single quotes", '"': "in double quotes", "": "without quotes"}


class _Entry(NamedTuple):
    value: str
    line: int


def read_dotenv(path: Path, given: Container[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of the file, and its problems by the variable, or else the line, they are in;
    those of variables that are ``given`` elsewhere do not matter.

    As in Node, ``$`` in a value is an ordinary character.

    Raises:
        ConfigError: the file is there and cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")  # Windows' editors begin it with a mark
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return {}, {}
        problem = f".env cannot be read ({error.__class__.__name__}): fix it or remove it"
        raise ConfigError([problem]) from None
    if "\0" in text:
        raise ConfigError([".env cannot be read (it is not in UTF-8): fix it or remove it"])
    values = _read_as_python(text)
    problems = _differences(values, read_as_node(text), given)
    return {name: entry.value for name, entry in values.items()}, problems


def _read_as_python(text: str) -> dict[str, _Entry]:
    """What python-dotenv finds."""
    return {
        binding.key: _Entry(binding.value, _line(binding))
        for binding in parse_stream(StringIO(text))
        if binding.key is not None and binding.value is not None
    }


def _line(binding: Binding) -> int:
    """Where it stands; what python-dotenv calls its line is the first of the blank ones before."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + blank.count("\n")


def read_as_node(text: str) -> dict[str, _Entry]:
    """What npm's dotenv finds."""
    found = {}
    for match in _NODE_LINE.finditer(text):
        written = match["value"].strip()
        value = _QUOTED.sub(lambda quoted: quoted[2], written)
        if written.startswith('"'):
            value = value.replace("\\n", "\n").replace("\\r", "\r")
        found[match["name"]] = _Entry(value, text.count("\n", 0, match.start("name")) + 1)
    return found


def _differences(
    python: dict[str, _Entry], node: dict[str, _Entry], given: Container[str]
) -> dict[str, str]:
    """A problem for each variable that the two read otherwise, and each line that one cannot read.

    A name that only one of them sees may be a part of a secret, and is not shown.
    """
    problems = {}
    for name, (value, line) in python.items():
        if name in node and node[name].value != value and name not in given:
            problems[name] = (
                f"{name} in line {line} of .env is read otherwise by Node's dotenv: "
                f"{_remedy(value, node[name].value)}"
            )
    of_one = {name for name in python.keys() ^ node.keys() if name not in given}
    for line in sorted({{**python, **node}[name].line for name in of_one}):
        problems[f"line {line}"] = (
            f".env cannot be understood in line {line}: write NAME=value, with quotes around a "
            "value of several lines"
        )
    return problems


def _remedy(*values: str) -> str:
    """How to write the value, whichever of these it is meant to be."""
    for quote, words in WRITINGS.items():
        if all(_is_read_alike(f"{quote}{value}{quote}", value) for value in values):
            return f"write its value {words}"
    return "give it in the process environment instead"


def _is_read_alike(written: str, value: str) -> bool:
    text = f"NAME={written}\n"
    return all(
        list(found) == ["NAME"] and found["NAME"].value == value
        for found in (_read_as_python(text), read_as_node(text))
    )
