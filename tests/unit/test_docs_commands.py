"""The commands of the documents: each is run by a test, or at least its form is checked here.

What is run is run as it stands on the page, by `tests/program/test_docs_commands.py` or by the test
of the script. What cannot be run in a test (PM2, Docker, systemd and Infisical want a machine of
their own, `git pull` a remote) has its form checked: that it names what is there.
"""

import re
import shlex

import pytest

from tests.support.documents import PAGES, REPOSITORY, code_in, fences_of, prose_of, text_of

PROGRAMS = re.compile(
    r"(?:sudo |[A-Z]+=\S+ )?(?:pm2|pip|python3?|docker|systemctl|journalctl|infisical|chmod|cp|"
    r"psql|git|node|source|scripts/\w+|\.ci/run|\.venv/bin/python(?= ))(?= |$)"
)
RUN = "tests/program/test_docs_commands.py"
PROGRAM = "tests/program"
# Which test runs a command, as it stands or with figures that fit a test.
RUN_BY = {
    "python3 -m venv .venv": f"{RUN}::test_the_readme_s_installation",
    "source .venv/bin/activate": f"{RUN}::test_the_readme_s_installation",
    "pip install -e .": f"{RUN}::test_the_readme_s_installation",
    "cp .env.example .env": f"{RUN}::test_the_readme_s_installation",
    "python -m rebreak_idle check": f"{RUN}::test_the_readme_s_daemon",
    "python -m rebreak_idle": f"{RUN}::test_the_readme_s_daemon",
    ".venv/bin/python -m rebreak_idle": f"{RUN}::test_the_readme_s_daemon",
    ".venv/bin/python -m pip install -e .": f"{RUN}::test_the_upgrade",
    ".venv/bin/python -m rebreak_idle check": f"{RUN}::test_the_upgrade",
    "infisical run --env=staging -- python -m rebreak_idle check": f"{RUN}::test_with_infisical",
    "infisical run --env=staging -- python -m rebreak_idle": f"{RUN}::test_with_infisical",
    'psql "$DATABASE_URL" -f scripts/schema.sql': f"{RUN}::test_the_table_for_development",
    'psql "$DATABASE_URL" -f scripts/idle_instances.sql': f"{RUN}::"
    "test_the_table_of_several_daemons",
    "scripts/demo": f"{PROGRAM}/test_demo.py::test_ctrl_c_ends_a_running_demo_in_order",
    "scripts/demo --once": f"{PROGRAM}/test_demo.py::"
    "test_one_round_shows_everything_and_leaves_nothing",
    "scripts/demo --instances 3": f"{PROGRAM}/test_demo.py::"
    "test_of_three_daemons_one_is_killed_and_the_others_take_over",
    "scripts/soak": f"{PROGRAM}/test_soak.py::test_a_short_run_misses_nothing",
    "scripts/bench": f"{PROGRAM}/test_bench.py::"
    "test_a_small_run_counts_every_session_and_every_scan",
    "scripts/find_python": f"{PROGRAM}/test_find_python.py::"
    "test_path_comes_first_then_pyenvs_newest",
    "scripts/unpack_server": f"{PROGRAM}/test_unpack_server.py::test_one_that_is_unpacked_is_taken",
    "python scripts/stand_in_backend.py": f"{PROGRAM}/stand_in_backend/test_process.py::"
    "test_it_ends_orderly",
    "node scripts/make_password_vectors.js": "tests/unit/cipher/test_vectors.py::"
    "test_the_vectors_are_what_the_script_writes",
}
# Scripts that are run by the tests above with other figures, or that would run these tests.
SCRIPTS = ("scripts/soak", "scripts/bench", "scripts/demo", "scripts/test", ".ci/run")
# What is known of programs that are not there in a test: the forms that their manuals give.
APP = r"rebreak-idle(?:-staging)?"
FORMS = (
    rf"pm2 start ecosystem\.config\.js --only {APP}",
    rf"pm2 (?:stop|restart) {APP}(?: --update-env)?",
    rf"pm2 logs {APP} --nostream(?: --lines \d+)?",
    rf"pm2 sendSignal SIGHUP {APP}",
    rf"pm2 scale {APP} \d+",
    r"pm2 restart \d+",
    r"pm2 (?:ls|logs|startup|save|start|stop)",
    r"pm2 install pm2-logrotate",
    r"sudo systemctl daemon-reload",
    r"sudo systemctl enable --now rebreak-idle",
    r"sudo systemctl reload rebreak-idle",
    r"sudo systemctl kill --signal=USR1 rebreak-idle",
    r"journalctl -u rebreak-idle -n \d+",
    r"docker build -t rebreak-idle \.",
    r"docker run (?:-d|--(?:name|network|restart|stop-timeout|ulimit|volume) \S+| )+ rebreak-idle",
    r"docker logs --timestamps rebreak-idle",
    r"docker kill --signal HUP rebreak-idle",
    r"docker stop rebreak-idle",
    r"git pull",
    r"chmod 600 (?:\.env|~/\.pm2/dump\.pm2)",
    # These tests themselves, and the packages that they run on.
    r"\.venv/bin/python -m pytest tests/(?:unit/test_limits\.py|session/losses)[\w -]*",
    r"pip install -r scripts/requirements\.txt -e \.",
    # With the extra of setup.cfg; tests/program/test_metrics.py asks the same of the port.
    r"\.venv/bin/python -m pip install -e '\.\[metrics\]'",
    r"curl --fail http://127\.0\.0\.1:9464/healthz",
)


def commands_of(page: str) -> set[str]:
    """What the page tells a reader to type: in blocks for a shell, after a prompt, in a line."""
    lines = [ln for fence in fences_of(page, "sh") for ln in fence.text.splitlines() if ln]
    lines += re.findall(r"^\$ (.+)$", text_of(page), re.MULTILINE)
    lines += [code for code in code_in(prose_of(page)) if PROGRAMS.match(code)]
    return {line for line in lines if not line.startswith("#")}


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


# Every option that a script, or a program that it starts, takes.
OPTIONS = {
    option
    for file in REPOSITORY.rglob("*")
    if file.parent.name == "scripts" or file.suffix == ".py"
    if file.is_file() and not {".venv", "tests"} & set(file.parts)
    for option in re.findall(r"(?<=[\s\"'|])--[a-z][a-z-]+", file.read_text("utf-8", "replace"))
}


def is_a_script_s(command: str) -> bool:
    """Whether it is a script's, with options that scripts take."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z]+=", word)]
    if words[0] not in SCRIPTS or not (REPOSITORY / words[0]).exists():
        return False
    return {word for word in words[1:] if word.startswith("--")} <= OPTIONS


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_run_or_has_its_form(command: str) -> None:
    """No command stands in the documents that nothing has tried."""
    inner = command.partition(" -- ")[2] if command.startswith("infisical ") else ""
    known = command in RUN_BY or is_a_script_s(command)
    forms = [form for form in FORMS if re.fullmatch(form, inner or command)]
    assert known or len(forms) == 1


@pytest.mark.parametrize("test", sorted(set(RUN_BY.values())))
def test_the_test_of_a_command_exists(test: str) -> None:
    """The tests that are said to run commands are there."""
    file, _, name = test.partition("::")
    assert f"def {name}(" in (REPOSITORY / file).read_text("utf-8")


def test_no_form_is_left_over() -> None:
    """What no page says any more is known here no longer."""
    inner = [c.partition(" -- ")[2] if c.startswith("infisical ") else c for c in COMMANDS]
    assert not [form for form in FORMS if not any(re.fullmatch(form, c) for c in inner)]
    assert not set(RUN_BY) - set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "docker run" in c])
def test_docker_does_not_kill_before_the_daemon_stops(command: str) -> None:
    """As for PM2 and systemd."""
    words = shlex.split(command)
    assert int(words[words.index("--stop-timeout") + 1]) > 10
