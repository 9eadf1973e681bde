"""PM2's file, and the systemd unit and the Dockerfile of the documents."""

import json
import re
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest

from rebreak_idle import __version__
from rebreak_idle.__main__ import CONNECT_THREADS, EX_CONFIG
from rebreak_idle.process import OTHER_DESCRIPTORS
from tests.conftest import require
from tests.support.documents import REPOSITORY, fences_of, text_of
from tests.support.servers import find_program
from tests.support.settings import variables

OPERATIONS = "docs/operations.md"
# A daemon's own stop; nothing may kill it sooner.
STOP_SECONDS = 10
MAILBOXES = 10_000  # for which the unit and the container are made
SYSTEMD_PLACE = "/opt/rebreak-idle"


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
    assert app["kill_timeout"] > STOP_SECONDS * 1000
    assert app["autorestart"] is True
    assert app["exp_backoff_restart_delay"] > 0
    assert app["stop_exit_codes"] == [EX_CONFIG]
    assert re.fullmatch(r"\d+[GMK]", app["max_memory_restart"])
    assert app["log_date_format"]
    assert "time" not in app, "it would replace log_date_format"


def test_the_page_says_what_pm2_s_file_says(apps: dict[str, dict[str, Any]]) -> None:
    """Its delays and its limit of memory."""
    app, text = apps["rebreak-idle"], text_of(OPERATIONS)
    assert f"kill the daemon after {app['kill_timeout'] // 1000} seconds" in text
    assert f"after {app['exp_backoff_restart_delay']} ms" in text
    assert f"Over {app['max_memory_restart'][:-1]} GiB" in text


# --- systemd --------------------------------------------------------------------------------------


@pytest.fixture
def unit() -> str:
    """The unit of the page."""
    (fence,) = fences_of(OPERATIONS, "ini")
    return fence.text


def settings_of(unit: str) -> RawConfigParser:
    parser = RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd minds the case
    parser.read_string(unit)
    return parser


def test_systemd_understands_the_unit(unit: str, tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say; its paths are made ours, which exist."""
    require("systemd-analyze")
    place = tmp_path / "rebreak-idle"
    python = place / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    file = tmp_path / "rebreak-idle.service"
    file.write_text(unit.replace(SYSTEMD_PLACE, str(place)))
    command = [find_program("systemd-analyze"), "verify", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in done.stderr.splitlines() if "rebreak-idle" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_runs_the_daemon_with_care(unit: str) -> None:
    """It lets the daemon stop, leaves wrong settings to a person, and has room for threads and
    descriptors.
    """
    service = settings_of(unit)["Service"]
    assert service["ExecStart"] == f"{SYSTEMD_PLACE}/.venv/bin/python -m rebreak_idle"
    assert service["WorkingDirectory"] == SYSTEMD_PLACE
    assert service["RestartPreventExitStatus"] == str(EX_CONFIG)
    assert int(service["TimeoutStopSec"]) > STOP_SECONDS
    threads = MAILBOXES + CONNECT_THREADS + int(variables()["SCAN_CONCURRENCY"])
    assert int(service["TasksMax"]) > threads
    assert int(service["LimitNOFILE"]) > MAILBOXES + OTHER_DESCRIPTORS


# --- Docker ---------------------------------------------------------------------------------------


@pytest.fixture
def instructions() -> list[list[str]]:
    """The lines of the page's Dockerfile, in words."""
    (fence,) = fences_of(OPERATIONS, "dockerfile")
    return [line.split() for line in fence.text.splitlines()]


def test_what_the_image_copies_is_there(instructions: list[list[str]]) -> None:
    """Each source is in the repository, and what the installation reads is among them."""
    sources = {source for name, *words in instructions if name == "COPY" for source in words[:-1]}
    assert all((REPOSITORY / source).exists() for source in sources)
    assert {"setup.py", "setup.cfg", "README.md", "rebreak_idle"} <= sources


def test_the_image_runs_the_daemon(instructions: list[list[str]]) -> None:
    """By a Python that is supported, as a user of its own, and as the first process, by name."""
    by_name = {name: " ".join(words) for name, *words in instructions}
    version = re.fullmatch(r"python:(3\.\d+)-slim", by_name["FROM"])
    assert version
    assert f"Python :: {version[1]}\n" in text_of("setup.cfg")
    assert by_name["USER"] != "root"
    assert json.loads(by_name["CMD"]) == ["python", "-m", "rebreak_idle"]


def test_the_image_is_complete(instructions: list[list[str]], tmp_path: Path) -> None:
    """What is copied suffices: the package is complete in it. `pip install` of such a folder is run
    in tests/program/test_docs_commands.py.
    """
    for name, *words in instructions:
        if name == "COPY":
            *sources, target = words
            options = ["-r", *sources, str(tmp_path / target)]
            subprocess.run(["cp", *options], cwd=REPOSITORY, check=True, timeout=60)
    command = [sys.executable, "-m", "rebreak_idle", "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"rebreak_idle {__version__}\n"
