"""How the modules hang together, and what the program relies on in other people's packages."""

from __future__ import annotations

import ast
import imaplib
import inspect
import ssl
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imapclient
import pytest
from imapclient.tls import IMAP4_TLS

import rebreak_idle
from rebreak_idle.imap.transport import Client, Transport

PACKAGE = Path(rebreak_idle.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

LEAVES = {
    "addresses", "backoff", "crew", "debt", "errors", "gate", "logs", "mailbox", "poller",
    "renewal", "responses", "turns", "wake",
}  # fmt: skip

# What each module may import from the package: __main__ → supervisor → worker → adapters → leaves.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "mailbox": set(),
    "backoff": set(),
    "debt": set(),
    "turns": set(),
    "crew": {"turns"},
    "logs": {"turns"},
    "poller": {"logs", "turns"},
    "gate": {"turns"},
    "renewal": set(),
    "responses": set(),
    "wake": {"errors", "poller", "turns"},
    "addresses": {"errors", "turns"},
    "vault": {"errors"},
    "store": {"errors", "mailbox"},
    "config": {"errors", "store", "vault"},
    "stream": {"addresses", "poller", "turns", "wake"},
    "transport": {"addresses", "responses", "stream"},
    "imap": {
        "",
        "refusals",
        "addresses", "debt", "errors", "mailbox", "responses", "stream", "transport", "wake"
    },
    "backend": {"errors", "mailbox", "poller", "turns"},
    "scanner": LEAVES | {"backend"},
    "hosts": {"backoff", "gate", "logs"},
    "refusals": set(),
    "worker": LEAVES | {"backend", "hosts", "imap", "scanner"},
    "report": {"backoff", "logs", "worker"},
    "supervisor": {"backoff", "debt", "errors", "logs", "mailbox", "report", "turns", "worker"},
    "check": LEAVES | {"backend", "imap", "worker"},
    "__main__": {*MODULES, ""} - {"__main__"},
}  # fmt: skip

# Who may know a package from outside.
MAY_KNOW: dict[str, set[str]] = {
    "psycopg": {"store"},
    "requests": {"backend"},
    "imapclient": {"imap", "transport"},
    "imaplib": {"imap", "transport"},
    "cryptography": {"vault"},
    "dotenv": {"config"},
}


def imports(module: str) -> tuple[set[str], set[str]]:
    """What a module imports anywhere in it: from the package ("" is its root), and from outside."""
    inside: set[str] = set()
    outside: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            outside.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            inside |= {name if name in MODULES else "" for name in names}
    absolute = {name for name in outside if name.split(".")[0] == "rebreak_idle"}
    inside |= {name.partition(".")[2] for name in absolute}
    return inside, {name.split(".")[0] for name in outside - absolute}


def test_every_module_has_its_place() -> None:
    """The table names each module there is and none that there is not."""
    assert sorted(MAY_IMPORT) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_it_may(module: str) -> None:
    """Each module imports from the package only what the table allows it."""
    assert imports(module)[0] <= MAY_IMPORT.get(module, set())


def test_imports_form_no_cycle() -> None:
    """The modules can be put into an order in which each imports earlier ones only."""
    left = {module: imports(module)[0] - {""} for module in MODULES}
    while left:
        ready = {module for module, needs in left.items() if not needs & set(left)}
        assert ready, f"a cycle among {', '.join(sorted(left))}"
        left = {module: needs for module, needs in left.items() if module not in ready}


@pytest.mark.parametrize("package", MAY_KNOW)
def test_a_package_is_known_to_its_adapter_only(package: str) -> None:
    """What comes from outside is imported by its adapter and by nobody else."""
    knowing = {module for module in MODULES if package in imports(module)[1]}
    assert knowing <= MAY_KNOW[package]


def test_no_other_package_is_used() -> None:
    """Besides the standard library there are the packages of the table, and no others."""
    used = set().union(*(imports(module)[1] for module in MODULES))
    assert used - sys.stdlib_module_names - set(MAY_KNOW) <= {"__future__"}


# What transport.py relies on in IMAPClient and imaplib. These are partly private names, which is
# why setup.cfg pins IMAPClient to what was tested.

IMAP4_METHODS = [
    "open", "read", "readline", "send", "shutdown", "starttls", "login",
    "_simple_command", "_command", "_get_capabilities", "_get_response", "_get_line",
    "_log", "_connect", "_new_tag", "select",
]  # fmt: skip
IMAP4_ATTRIBUTES = [
    "untagged_responses", "tagged_commands", "capabilities", "state", "error", "debug",
    "_tls_established", "ssl_context", "mo", "tagpre", "tagre", "welcome",
]  # fmt: skip
CLIENT_METHODS = [
    "_poll_socket", "_create_IMAP4", "_set_read_timeout", "socket",
    "idle", "idle_check", "idle_done",
]  # fmt: skip


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
    return f"{owner} has no {name} any more, which rebreak_idle/transport.py relies on"


@pytest.mark.parametrize("name", IMAP4_METHODS)
def test_imaplib_has_the_method(name: str) -> None:
    """imaplib still has each method that the transport overrides or calls."""
    assert callable(getattr(imaplib.IMAP4, name, None)), why("imaplib.IMAP4", name)
    assert issubclass(IMAP4_TLS, imaplib.IMAP4)


@pytest.mark.parametrize("name", CLIENT_METHODS)
def test_imapclient_has_the_method(name: str) -> None:
    """IMAPClient still has each method that the client overrides or calls."""
    assert callable(getattr(imapclient.IMAPClient, name, None)), why("IMAPClient", name)


@pytest.mark.parametrize("name", IMAP4_ATTRIBUTES)
def test_imaplib_has_the_attribute(name: str) -> None:
    """A connection of imaplib still has each attribute that the transport touches."""
    assert hasattr(MemoryIMAP4(), name), why("imaplib.IMAP4", name)


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
        *((Transport, IMAP4_TLS, name) for name in IMAP4_METHODS if name in vars(Transport)),
        *((Client, imapclient.IMAPClient, n) for n in CLIENT_METHODS if n in vars(Client)),
    ],
)
def test_overrides_take_what_the_originals_take(ours: type, theirs: type, name: str) -> None:
    """Each override has the parameters of the method that it replaces, in the same order."""
    expected = list(inspect.signature(getattr(theirs, name)).parameters)
    assert list(inspect.signature(getattr(ours, name)).parameters) == expected
