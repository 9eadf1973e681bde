"""What the process asks of the system and of Python, once, at its start."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

# A thread that resolves a name runs the system's modules for it, some of which need more than the
# 256 KiB that TLS and deeply nested answers take. What is not touched costs no memory.
THREAD_STACK_BYTES = 1024 * 1024
# Every thread that waits for the interpreter wakes up so often to ask for it. At Python's 5 ms
# three thousand that lost their connections at once did nothing else: none was back after 150 s.
SWITCH_INTERVAL_SECONDS = 0.1
# With these and the freezing below the longest collection took 27 ms while 10,000 workers were
# made, against 94 ms without (2 × AMD EPYC, Python 3.11).
GARBAGE_THRESHOLDS = (5_000, 10, 4)
# OpenSSL takes 16 KiB for each record that it reads, and gives them back at once. The heaps of
# glibc grow over such holes, and sixteen of them at different times: after a burst of mail and a
# storm of 1,000 mailboxes that was 12 KiB a mailbox. Pieces of this size and more are taken from
# the system and given back to it, and there are two heaps (mallopt(3)).
M_MMAP_THRESHOLD, LARGE_BYTES = -3, 16 * 1024
M_ARENA_MAX, HEAPS = -8, 2
# macOS has no limit at all, and refuses more than these (OPEN_MAX in sys/syslimits.h).
DESCRIPTOR_LIMITS = (1_048_576, 65_536, 24_576, 10_240)
# For the database, the backend, modules that are being read and the like.
OTHER_DESCRIPTORS = 128


def set_up_threads() -> None:
    """Threads that cost little; for all that are started afterwards."""
    threading.stack_size(THREAD_STACK_BYTES)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


def start_threads(pool: ThreadPoolExecutor, number: int) -> None:
    """Start the threads of a pool now: later the system may give none.

    Raises:
        RuntimeError: it gives not so many.
    """
    all_run = threading.Barrier(number)
    for future in [pool.submit(all_run.wait) for _ in range(number)]:
        future.result()


def set_up_memory() -> None:
    """Keep the heaps compact where the C library is glibc."""
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_ARENA_MAX, HEAPS)


def set_up_garbage_collection() -> None:
    """Keep collections short: one that looks through all objects of ten thousand mailboxes holds
    up every thread for half a second. What survives one is looked at no more.
    """
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    gc.callbacks.append(_freeze_survivors)


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def forbid_core_files() -> None:
    """A core file would hold all secrets."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def raise_descriptor_limit() -> int:
    """Allow as many descriptors as the system does; returns for how many sessions they suffice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, *DESCRIPTOR_LIMITS):
        if hard != resource.RLIM_INFINITY and limit > hard:
            continue
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            soft = limit
            break
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft - OTHER_DESCRIPTORS


def clock_that_runs_on() -> float:
    """Seconds that only grow, also while the machine sleeps: CLOCK_BOOTTIME where there is one
    (Linux, clock_gettime(2)); CLOCK_MONOTONIC stands still then.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
