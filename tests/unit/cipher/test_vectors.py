"""Keys and stored passwords, against what Node wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rebreak_idle.cipher import LAYOUTS, PasswordCipher, make_key

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "make_password_vectors.js"
VECTORS_FILE = ROOT / "tests" / "unit" / "password_vectors.json"
VECTORS: dict[str, Any] = json.loads(VECTORS_FILE.read_text("utf-8"))


@pytest.mark.parametrize("name", VECTORS["keys"])
def test_a_key_is_made_as_node_makes_it(name: str) -> None:
    """The text of ENCRYPTION_KEY gives the key bytes that Node's crypto gives."""
    key = VECTORS["keys"][name]
    assert make_key(key["text"], key["encoding"]).hex() == key["bytes"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_what_node_sealed_opens(case: dict[str, str]) -> None:
    """A password that Node's crypto sealed opens to the same text."""
    key = bytes.fromhex(VECTORS["keys"][case["key"]]["bytes"])
    opened = PasswordCipher(key, case["layout"]).decrypt(case["stored"])
    assert opened == VECTORS["passwords"][case["password"]]


def test_the_vectors_cover_every_layout() -> None:
    """No layout is without vectors."""
    assert {case["layout"] for case in VECTORS["cases"]} == set(LAYOUTS)


def test_the_vectors_are_what_the_script_writes(tmp_path: Path) -> None:
    """Node, running the script again, writes the file that is here to the byte."""
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have node, to make the vectors again")
        pytest.skip("node is not installed, so the vectors cannot be made again")
    again = tmp_path / "vectors.json"
    subprocess.run([node, SCRIPT, again], check=True, timeout=60)
    assert again.read_bytes() == VECTORS_FILE.read_bytes()
