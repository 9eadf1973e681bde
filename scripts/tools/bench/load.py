"""The load server as a process, and what it is told."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Self, cast

from scripts.tools.console import Failure
from tests.support.servers import Certificates

ANSWERS_WITHIN_SECONDS = 60.0


class Load:
    """The load server as a process of its own; to be used as `with Load(…) as load`."""

    def __init__(self, mailboxes: int, certificates: Certificates) -> None:
        command: list[str | Path] = [
            sys.executable, "-m", "scripts.tools.bench.load_server", "--mailboxes", str(mailboxes),
            "--certificate", certificates.cert_pem, "--key", certificates.key_pem,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._commands: IO[bytes] = cast("IO[bytes]", self._process.stdin)
        self._answers: IO[bytes] = cast("IO[bytes]", self._process.stdout)
        self.mailboxes = mailboxes
        self.certificates = certificates

    def __enter__(self) -> Self:
        ports = self._answer()
        self.imap_port, self.http_port = int(ports["imap_port"]), int(ports["http_port"])
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._commands.close()
        self._answers.close()
        try:
            self._process.wait(ANSWERS_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something; its answer."""
        self._commands.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._commands.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise Failure("the load server has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer
