"""The peers: programs on other IMAP libraries that do the same job."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.tools.bench.rules import CONNECTS_AT_ONCE, RECONNECT_SECONDS, SCANS_AT_ONCE
from scripts.tools.bench.systems import Place, Process, System, identity
from scripts.tools.console import Failure
from scripts.tools.servers import ROOT, base_environment
from tests.support.rig import ADMIN_SECRET

PEERS = ROOT / "scripts" / "bench_peers"
GO_PATH = Path("/usr/share/gocode")
GO_PACKAGES = ("go-imap", "go-imap-idle")

BUILT_IN_SECONDS = 300.0


class Peer(System):
    """A short program that reads its job from a JSON file."""

    def start(self, place: Place, parts: ExitStack) -> Process:
        job = place.folder / "job.json"
        job.write_text(json.dumps(_job(place)))
        command = [*self._command(place.folder), job]
        return Process(command, place, base_environment())

    def _command(self, folder: Path) -> list[str | Path]:
        raise NotImplementedError


def _job(place: Place) -> dict[str, Any]:
    return {
        "imapHost": "127.0.0.1",
        "imapPort": place.load.imap_port,
        "caFile": str(place.load.certificates.ca_pem),
        "scanUrl": f"{place.backend_url}/api/mail/scan-internal",
        "secret": ADMIN_SECRET,
        "connectsAtOnce": CONNECTS_AT_ONCE,
        "scansAtOnce": SCANS_AT_ONCE,
        "reconnectSeconds": RECONNECT_SECONDS,
        "mailboxes": [
            {
                "id": identity(box),
                "userId": str(uuid.uuid4()),
                "email": f"box{box}@bench.example",
                "password": "a password of usual length",
            }
            for box in range(place.load.mailboxes)
        ],
    }


class ImapFlow(Peer):
    """ImapFlow on Node."""

    name = "imapflow"

    def missing(self) -> str:
        if shutil.which("node") is None:
            return "Node is not installed"
        if not (PEERS / "node_modules" / "imapflow").is_dir():
            return "npm install in scripts/bench_peers was not run"
        return ""

    def _command(self, folder: Path) -> list[str | Path]:
        return ["node", PEERS / "imapflow.mjs"]


class Aioimaplib(Peer):
    """aioimaplib and aiohttp on asyncio."""

    name = "aioimaplib"

    def missing(self) -> str:
        absent = [name for name in ("aioimaplib", "aiohttp") if not importlib.util.find_spec(name)]
        return f"not installed: {', '.join(absent)}" if absent else ""

    def _command(self, folder: Path) -> list[str | Path]:
        return [sys.executable, PEERS / "aioimaplib_peer.py"]


class GoImap(Peer):
    """go-imap v1, compiled at each start."""

    name = "go-imap"

    def missing(self) -> str:
        if shutil.which("go") is None:
            return "Go is not installed (Debian: golang-go)"
        sources = GO_PATH / "src" / "github.com" / "emersion"
        absent = [name for name in GO_PACKAGES if not (sources / name).is_dir()]
        packages = [f"golang-github-emersion-{name}-dev" for name in absent]
        return f"not installed: {', '.join(packages)}" if packages else ""

    def _command(self, folder: Path) -> list[str | Path]:
        program = folder / "go-imap"
        if not program.exists():
            modes = {"GOPATH": str(GO_PATH), "GO111MODULE": "off", "GOCACHE": str(folder / "cache")}
            env = {**base_environment(), **modes}
            _build(["go", "build", "-o", program, PEERS / "go-imap" / "main.go"], env)
        return [program]


def _build(command: Sequence[str | Path], env: Mapping[str, str]) -> None:
    try:
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=BUILT_IN_SECONDS)
    except subprocess.CalledProcessError as error:
        raise Failure(f"it does not compile: {error.stderr.decode(errors='replace')}") from error
    except subprocess.TimeoutExpired as error:
        raise Failure(f"it was not compiled within {BUILT_IN_SECONDS:.0f} s") from error
