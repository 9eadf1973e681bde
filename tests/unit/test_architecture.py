"""How the rooms hang together, and what the program relies on in other people's packages."""

from __future__ import annotations

import ast
import configparser
import imaplib
import inspect
import ssl
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imapclient
import pytest
from imapclient.tls import IMAP4_TLS

import rebreak_idle
from rebreak_idle.imap.client import Client
from rebreak_idle.imap.transport import PRIVATE_NAMES, Transport

PACKAGE = Path(rebreak_idle.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MAX_FILE_LINES = 300
REPOSITORY = PACKAGE.parent
SCRIPTS = {
    str(path.relative_to(REPOSITORY)): path
    for path in sorted((REPOSITORY / "scripts").rglob("*.py"))
    if "node_modules" not in path.parts
}

# Who may know a package from outside: the folder or module before the first dot.
MAY_KNOW: dict[str, set[str]] = {
    "psycopg": {"store", "database", "database_url", "fingerprint", "fleet"},
    "requests": {"scan"},
    "urllib3": {"scan"},
    "imapclient": {"imap"},
    "imaplib": {"imap"},
    "cryptography": {"cipher"},
    "dotenv": {"dotenv_file"},
    "prometheus_client": {"metrics"},
}
# The upper floors: who may know them.
MAY_BE_KNOWN_BY: dict[str, set[str]] = {
    "__main__": set(),
    "supervisor": {"__main__"},
    "check": {"__main__"},
    "report": {"supervisor"},
    "stopping": {"supervisor"},
    "worker": {"__main__", "supervisor", "report", "stopping"},
    "services": {"__main__", "outside", "worker", "logins", "pooled"},
    "logins": {"worker"},
    "pooled": {"worker", "logins"},
    "inbox": {"worker"},
    "recovery": {"worker", "logins"},
}


def imports(module: str) -> tuple[set[str], set[str]]:
    """What a module imports anywhere in it: from the package, and from outside."""
    inside: set[str] = set()
    outside: set[str] = set()
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            inside |= {".".join([*base, name]) for name in names}
    return {name for name in inside if name in MODULES}, outside


def room(module: str) -> str:
    return module.split(".")[0]


def test_imap_and_scan_do_not_know_each_other() -> None:
    """The session knows nothing of scans, and the scans nothing of sessions."""
    for module in MODULES:
        known = {room(name) for name in imports(module)[0]}
        assert not (room(module) == "imap" and "scan" in known), module
        assert not (room(module) == "scan" and "imap" in known), module


def test_imports_form_no_cycle() -> None:
    """The modules can be put into an order in which each imports earlier ones only."""
    left = {module: imports(module)[0] for module in MODULES}
    while left:
        ready = {module for module, needs in left.items() if not needs & set(left)}
        assert ready, f"a cycle among {', '.join(sorted(left))}"
        left = {module: needs for module, needs in left.items() if module not in ready}


@pytest.mark.parametrize("known", MAY_BE_KNOWN_BY)
def test_imports_run_one_way(known: str) -> None:
    """An upper floor is known by the one above it and by nobody else."""
    knowing = {module for module in MODULES if known in imports(module)[0]}
    assert knowing <= MAY_BE_KNOWN_BY[known]


@pytest.mark.parametrize("package", MAY_KNOW)
def test_a_package_is_known_to_its_room_only(package: str) -> None:
    """What comes from outside is imported by its room and by nobody else."""
    knowing = {room(module) for module in MODULES if package in imports(module)[1]}
    assert knowing <= MAY_KNOW[package]


def test_no_other_package_is_used() -> None:
    """Besides the standard library there are the packages of the table, and no others."""
    used = set().union(*(imports(module)[1] for module in MODULES))
    assert used - sys.stdlib_module_names - set(MAY_KNOW) <= {"__future__"}


IMPORT_ALL = """
import os, threading
import cryptography.hazmat.primitives.ciphers.aead, dotenv, imapclient, psycopg, requests  # theirs
before = len(os.listdir("/proc/self/fd"))
import rebreak_idle.__main__
assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is open"
assert threading.active_count() == 1, threading.enumerate()
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux")
def test_nothing_is_made_at_import() -> None:
    """Importing the program opens no descriptor and starts no thread."""
    subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=PACKAGE.parent, timeout=60, check=True)


@pytest.mark.parametrize("module", MODULES)
def test_a_file_can_be_read_in_one_go(module: str) -> None:
    """No file is longer than 300 lines."""
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_read_in_one_go(script: str) -> None:
    """What the scripts do lies in modules of at most 300 lines, too."""
    assert len(SCRIPTS[script].read_text("utf-8").splitlines()) <= MAX_FILE_LINES


def test_a_script_is_started_and_never_imported() -> None:
    """What scripts and tests share lies in scripts/tools and tests/support; no path leads there."""
    tests = sorted((REPOSITORY / "tests").rglob("*.py"))
    for path in (*SCRIPTS.values(), *tests, *MODULES.values()):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            changes_path = isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"
            assert not changes_path, f"{path} uses sys.path"
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scripts"):
                shared = f"{node.module}.".startswith("scripts.tools.")
                assert shared, f"{path} imports {node.module}"


# What imap/transport.py relies on in IMAPClient and imaplib; setup.cfg pins IMAPClient to what was
# tested.

OVERRIDDEN = ["open", "read", "readline", "send", "shutdown", "starttls", "capability", "login"]
DOCUMENTED = ["untagged_responses", "capabilities", "state", "error", "debug", "welcome", "literal"]
CLIENT_METHODS = ["idle", "idle_check", "idle_done", "has_capability", "plain_login", "sasl_login"]


class MemoryIMAP4(IMAP4_TLS):  # type: ignore[misc]  # imapclient has no types
    """imaplib over a list of lines, through the overrides that transport.py uses, and no socket."""

    def __init__(self) -> None:
        self.lines = deque([b"* OK ready\r\n"])
        self.sent: list[bytes] = []
        self.logged: list[str] = []
        super().__init__("imap.example.org", ssl_context=ssl.create_default_context())

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        self.host, self.port = host, port

    def read(self, size: int) -> bytes:
        raise AssertionError("no literal was announced")

    def readline(self) -> bytes:
        return self.lines.popleft()

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        tag, command = data.split()[:2]
        if command == b"CAPABILITY":
            self.lines.append(b"* CAPABILITY IMAP4rev1 IDLE\r\n")
        # Or imaplib asks for them at once, from Python 3.14 on.
        told = b"[CAPABILITY IMAP4rev1 IDLE] " if command == b"LOGIN" else b""
        done = tag + b" OK " + told + b"done\r\n"
        self.lines.append(b"+ idling\r\n" if command == b"IDLE" else done)

    def shutdown(self) -> None:
        pass

    def _log(self, line: str) -> None:
        self.logged.append(line)


class MemoryClient(imapclient.IMAPClient):  # type: ignore[misc]  # imapclient has no types
    """IMAPClient over a `MemoryIMAP4`, which says when its socket is ready."""

    def __init__(self) -> None:
        self.polled: list[float | None] = []
        super().__init__("imap.example.org", timeout=imapclient.SocketTimeout(0, 0))

    def _create_IMAP4(self) -> MemoryIMAP4:  # noqa: N802  # IMAPClient's name
        return MemoryIMAP4()

    def _set_read_timeout(self) -> None:
        pass

    def socket(self) -> Any:
        def ignore(*_: object) -> None:
            pass

        return SimpleNamespace(settimeout=ignore, setblocking=ignore)

    def _poll_socket(self, sock: object, timeout: float | None = None) -> bool:
        self.polled.append(timeout)
        return False


def why(owner: str, name: str) -> str:
    return f"{owner} has no {name} any more, which rebreak_idle/imap/transport.py relies on"


@pytest.mark.parametrize("name", [*OVERRIDDEN, *DOCUMENTED])
def test_imaplib_has_the_name(name: str) -> None:
    """A connection of imaplib still has each name that the transport overrides or uses."""
    assert hasattr(MemoryIMAP4(), name), why("imaplib.IMAP4", name)


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_private_names_are_still_there(name: str) -> None:
    """Each private name that is listed still exists, on the Pythons that have it."""
    if name == "IMAP4._refresh_capabilities" and sys.version_info < (3, 14):
        return
    owner, _, attribute = name.partition(".")
    subject = MemoryIMAP4() if owner == "IMAP4" else MemoryClient()
    assert hasattr(subject, attribute), why(owner, attribute)


def test_private_names_are_all_listed() -> None:
    """Transport and client use no private name of imaplib or IMAPClient that is not in the list,
    and nobody else uses one that is.
    """
    listed = {name.partition(".")[2] for name in PRIVATE_NAMES}
    theirs = {name for name in (*dir(MemoryIMAP4()), *dir(MemoryClient())) if name[0] == "_"}
    for module, path in MODULES.items():
        if not module.startswith("imap."):
            continue
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if module in ("imap.transport", "imap.client"):
            used |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
            used = {name for name in used & theirs if not name.endswith("__")}
            assert used <= listed, module
        else:
            assert not used & listed, module


def test_imap4_tls_is_imaplib_s() -> None:
    """IMAPClient's class for TLS is still one of imaplib's."""
    assert issubclass(IMAP4_TLS, imaplib.IMAP4)


@pytest.mark.parametrize("name", CLIENT_METHODS)
def test_imapclient_has_the_method(name: str) -> None:
    """IMAPClient still has each method that the client overrides or calls."""
    assert callable(getattr(imapclient.IMAPClient, name, None)), why("IMAPClient", name)


def test_imapclient_keeps_what_create_imap4_makes() -> None:
    """IMAPClient speaks through what `_create_IMAP4` returns, and keeps it as `_imap`."""
    client = MemoryClient()
    made = getattr(client, "_imap", None)
    assert isinstance(made, MemoryIMAP4), why("IMAPClient", "_imap")
    client.noop()
    assert made.sent[-1].endswith(b" NOOP\r\n")


def test_the_overrides_are_all_of_imaplib_that_touches_the_network() -> None:
    """A whole dialogue goes through the overridden methods: none of it needs a socket."""
    client = MemoryClient()
    client.login("anna", "secret")
    client.select_folder("INBOX", readonly=True)
    client.idle()
    assert client.idle_check(5) == []
    client._imap.lines.append(f"{client._idle_tag.decode()} OK done\r\n".encode())
    commands = [line.split()[1] for line in client._imap.sent]
    assert commands == [b"CAPABILITY", b"LOGIN", b"EXAMINE", b"CAPABILITY", b"IDLE"]


def test_idle_check_asks_poll_socket() -> None:
    """`idle_check` waits in the `_poll_socket` that the client overrides, with its time-out.

    It reads nothing where that says that nothing came.
    """
    client = MemoryClient()
    client.login("anna", "secret")
    client.idle()
    assert client.idle_check(5) == []
    assert client.polled == [5], why("IMAPClient.idle_check", "_poll_socket")


def test_the_tag_of_a_command_under_way_is_known() -> None:
    """`tagged_commands` holds the tag of an IDLE that goes on, as bytes."""
    client = MemoryClient()
    client.login("anna", "secret")
    client.idle()
    tag = client._imap.sent[-1].split()[0]
    assert tag in client._imap.tagged_commands, why("imaplib.IMAP4", "tagged_commands")


def test_sasl_login_asks_for_each_answer() -> None:
    """Each challenge is handed over decoded, and an empty answer is an empty line."""
    client = MemoryClient()
    imap = client._imap
    imap.lines.clear()
    tag = f"{imap.tagpre.decode()}{imap.tagnum}".encode()
    imap.lines.extend([b"+ \r\n", b"+ e30=\r\n", tag + b" NO refused\r\n"])
    asked: list[bytes] = []
    imap.send = imap.sent.append
    answers = iter(["token", ""])
    with pytest.raises(imapclient.exceptions.LoginError):
        client.sasl_login("XOAUTH2", lambda challenge: asked.append(challenge) or next(answers))
    assert asked == [b"", b"{}"]
    assert b"".join(imap.sent[-4:]) == b"dG9rZW4=\r\n\r\n"


def test_log_is_where_imaplib_keeps_passwords() -> None:
    """imaplib hands LOGIN with the password to `_log`, which the transport therefore overrides."""
    imap = MemoryIMAP4()
    imap.debug = 0
    imap.login("anna", "secret")
    assert any("secret" in str(line) for line in imap.logged), why("imaplib.IMAP4", "_log")
    assert "_log" in vars(Transport)


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        *((Transport, IMAP4_TLS, name) for name in OVERRIDDEN),
        *(
            (Client, imapclient.IMAPClient, n)
            for n in vars(Client)
            if n in dir(imapclient.IMAPClient) and callable(vars(Client)[n]) and n != "__init__"
        ),
    ],
)
def test_overrides_take_what_the_originals_take(ours: type, theirs: type, name: str) -> None:
    """Each override has the parameters of the method that it replaces, in the same order."""
    expected = list(inspect.signature(getattr(theirs, name)).parameters)
    assert list(inspect.signature(getattr(ours, name)).parameters) == expected


def test_every_folder_is_installed() -> None:
    """`pip install` takes the packages that setup.cfg names, and no other."""
    settings = configparser.ConfigParser()
    settings.read(PACKAGE.parent / "setup.cfg", "utf-8")
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")}
    names = {".".join(folder.relative_to(PACKAGE.parent).parts) for folder in folders}
    assert set(settings["options"]["packages"].split()) == names
