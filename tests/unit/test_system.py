"""What the process asks of the system."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rebreak_idle.process import raise_descriptor_limit

ROOT = Path(__file__).parents[2]

THREADS = """
import threading
from rebreak_idle.process import set_up_threads
set_up_threads()
print(threading.stack_size())
"""


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_threads_that_resolve_names_have_a_mebibyte_of_stack() -> None:
    """The system's modules for names need more than TLS does."""
    assert int(python(THREADS)) >= 1024 * 1024


COLLECTIONS = """
import gc
from rebreak_idle.process import set_up_garbage_collection
set_up_garbage_collection()
kept = [[number] for number in range(100_000)]
gc.collect()
assert gc.get_freeze_count() > 100_000, gc.get_freeze_count()
class Node: pass
import weakref
node = Node()
node.self = node
gone = weakref.ref(node)
del node
gc.collect()
assert gone() is None
"""


def test_what_survives_a_collection_is_looked_at_no_more() -> None:
    """Full collections are as short as what is new; garbage is still found."""
    python(COLLECTIONS)


class MacOS:
    """macOS as its manual has it: no hard limit, and `setrlimit` takes no more than OPEN_MAX."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = resource.RLIM_INFINITY
    OPEN_MAX = 10_240

    def __init__(self) -> None:
        self.limits = (256, self.RLIM_INFINITY)

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        if limits[0] == self.RLIM_INFINITY or limits[0] > self.OPEN_MAX:
            raise ValueError("current limit exceeds maximum limit")
        self.limits = limits


def test_a_system_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hard limit is infinite and cannot be asked for, the most that is taken is."""
    system = MacOS()
    monkeypatch.setattr("rebreak_idle.process.resource", system)
    assert raise_descriptor_limit() == MacOS.OPEN_MAX - 128
    assert system.limits == (MacOS.OPEN_MAX, MacOS.RLIM_INFINITY)


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    """As many descriptors as the system allows."""
    program = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from rebreak_idle.process import raise_descriptor_limit
assert raise_descriptor_limit() == hard - 128
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""
    python(program)
    assert gc.isenabled()
