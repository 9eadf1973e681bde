"""The table, the raw figures and the plots."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.tools.bench.figures import Figures
from scripts.tools.bench.log import say
from scripts.tools.bench.rules import (
    BURST,
    CONNECTS_AT_ONCE,
    MAIL_EVERY_SECONDS,
    RECONNECT_SECONDS,
    SCANS_AT_ONCE,
    SLOW_LAST_BEGINS_SECONDS,
    SLOW_SCAN_SECONDS,
    SYSTEMS,
)
from scripts.tools.bench.run import Bench, Options

Cell = Callable[[Figures], str]


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _numbers(digits: int, *values: float | None) -> str:
    return " / ".join(_number(value, digits) for value in values)


def _mib(kib: float | None) -> str:
    return _number(None if kib is None else kib / 1024)


def _attempts(each: Figures) -> str:
    most = each.storm_attempts_most_in_a_second
    return f"{each.storm_attempts:,} / {most:,}" if each.storm_attempts else "–"


COLUMNS: dict[str, Cell] = {
    "mailboxes": lambda each: f"{each.mailboxes:,}",
    "system": lambda each: each.system,
    "start, s": lambda each: _number(each.start_seconds),
    "CPU of the start, s": lambda each: _number(each.start_cpu_seconds),
    "PSS, MiB": lambda each: _mib(each.pss_kib),
    "KiB a mailbox": lambda each: _number(each.kib_per_mailbox),
    "PSS / mailboxes, KiB": lambda each: _number(each.kib_per_mailbox_whole),
    "idle CPU, s/min": lambda each: _number(each.idle_cpu_seconds_per_minute, 2),
    "mail p50 / p99 / max, ms": lambda each: _numbers(
        1, each.steady_p50_ms, each.steady_p99_ms, each.steady_max_ms
    ),
    "burst p50 / median p99 / worst p99, ms": lambda each: _numbers(
        0, each.burst_p50_ms, each.burst_p99_ms, each.burst_p99_worst_ms
    ),
    "burst CPU, ms an event": lambda each: _number(each.burst_cpu_ms_per_event, 2),
    f"burst of {BURST:,}, backend {SLOW_SCAN_SECONDS:g} s a scan, p99, ms": lambda each: _number(
        each.slow_burst_p99_ms, 0
    ),
    "storm, s": lambda each: _number(each.storm_seconds),
    "attempts / most in 1 s": _attempts,
    "stop, s": lambda each: _number(each.stop_seconds, 2),
    "unscanned": lambda each: _number(each.unscanned, 0),
}


def table(figures: Sequence[Figures]) -> str:
    """All figures as a Markdown table."""
    rows = [[cell(each) for cell in COLUMNS.values()] for each in figures]
    rule = ["---:" if name != "system" else "---" for name in COLUMNS]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(COLUMNS), rule, *rows])


def machine() -> str:
    """What it ran on."""
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, {platform.system()}, {python}"


def notes(options: Options) -> str:
    """How the figures are to be read."""
    return f"""\
- start: from the start of the process until every mailbox is in IDLE; its CPU until each has had
  its first scan as well.
- KiB a mailbox: (PSS with N mailboxes - PSS of the process with one) / N. PSS after \
{options.idle_seconds:g} s of idling, over
  which the idle CPU is counted too.
- mail: from the server's write of EXISTS to the arrival of the whole POST, one mail every \
{MAIL_EVERY_SECONDS * 1000:g} ms,
  {options.mails:,} mails.
- burst: {BURST:,} mailboxes (all, where there are fewer) in one instant, timed likewise;
  {options.bursts} bursts at a backend that answers at once, p50 and CPU of all of them together.
- At the backend that takes {SLOW_SCAN_SECONDS:g} s for each scan it is one burst. With \
{SCANS_AT_ONCE} scans at once the
  last of {BURST:,} cannot begin before {SLOW_LAST_BEGINS_SECONDS:.1f} s.
- storm: from the reset of all connections until every mailbox is in IDLE again, the \
{RECONNECT_SECONDS} s before
  the first reconnect included; connection attempts in all, and the most within one second.
- unscanned: mailboxes for which no POST came after their last mail.
- The same for all: {CONNECTS_AT_ONCE} connection attempts and {SCANS_AT_ONCE} scan requests at \
once. The daemon's limit of logins for
  each host is opened but in the row "default limits"."""


def markdown(bench: Bench, options: Options) -> str:
    """The whole report."""
    troubles = [
        f"- **{each.system}, {each.mailboxes:,} mailboxes: {each.problem}**"
        for each in bench.figures
        if each.problem
    ]
    remarks = [f"- {text}" for text in bench.remarks]
    below = "\n".join([*troubles, *remarks, notes(options)])
    return f"{machine()}\n\n{table(bench.figures)}\n\n{below}\n"


def write(bench: Bench, options: Options) -> None:
    """Table, raw figures and plots."""
    text = markdown(bench, options)
    (options.out / "bench.md").write_text(text, encoding="utf-8")
    raw = {
        "machine": machine(),
        "remarks": bench.remarks,
        "figures": [each.raw() for each in bench.figures],
    }
    (options.out / "bench.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    print(text, flush=True)
    if importlib.util.find_spec("matplotlib") is None:
        say("matplotlib is not installed: no plots")
    else:
        plot(bench.figures, options.out / "bench.png")
    say(f"table, raw figures, logs and plots are in {options.out}")


PLOTS: dict[str, Callable[[Figures], float | None]] = {
    "memory, KiB a mailbox": lambda each: each.kib_per_mailbox,
    "steady mail, p99 in ms": lambda each: each.steady_p99_ms,
    f"bursts of {BURST:,}, median p99 in ms": lambda each: each.burst_p99_ms,
}


def plot(figures: Sequence[Figures], path: Path) -> None:
    """Each of `PLOTS` against the number of mailboxes, a line for each system."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    drawing, axes = pyplot.subplots(1, len(PLOTS), figsize=(13, 4), layout="constrained")
    for axis, (title, value) in zip(axes, PLOTS.items(), strict=True):
        for name in SYSTEMS:
            points = [
                (each.mailboxes, value(each))
                for each in figures
                if each.system == name and value(each) is not None
            ]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=title, xlabel="mailboxes", ylim=(0, None))
        axis.grid(alpha=0.3)
    if handles := axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(handles=handles)
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)
