#!/usr/bin/env python3
"""Watches mailboxes with aioimaplib and asks for scans with aiohttp; the job is a JSON file."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import re
import resource
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

# By name: these are there only where the benchmark is run.
aiohttp: Any = importlib.import_module("aiohttp")
aioimaplib: Any = importlib.import_module("aioimaplib")

RENEW_SECONDS = 1500
TIMEOUT_SECONDS = 30
LOGOUT_SECONDS = 3
UIDNEXT = re.compile(rb"UIDNEXT (\d+)")


class Peer:
    """The job, and what all mailboxes share."""

    def __init__(self, job: dict[str, Any], http: Any) -> None:
        self.job = job
        self.clients: set[Any] = set()
        self._http = http
        self._tls = ssl.create_default_context(cafile=job["caFile"])
        self._connects = asyncio.Semaphore(job["connectsAtOnce"])
        self._scans = asyncio.Semaphore(job["scansAtOnce"])

    async def watch(self, mailbox: dict[str, str]) -> None:
        """Hold a session on this mailbox for ever."""
        seen = b""
        while True:
            client: Any = None
            try:
                async with self._connects:
                    client, uidnext = await self._open(mailbox)
                if uidnext != seen:
                    await self._scan(mailbox, "catch-up")
                    seen = uidnext
                while await self._idle(client):
                    seen = b""  # what is announced counts anew at the next connection
                    await self._scan(mailbox, "exists")
            except (OSError, TimeoutError, aioimaplib.AioImapException):
                pass
            finally:
                self.clients.discard(client)
            await asyncio.sleep(self.job["reconnectSeconds"])

    async def _open(self, mailbox: dict[str, str]) -> tuple[Any, bytes]:
        """A session in IDLE, and the UIDNEXT of INBOX."""
        client = aioimaplib.IMAP4_SSL(
            self.job["imapHost"],
            self.job["imapPort"],
            timeout=TIMEOUT_SECONDS,
            ssl_context=self._tls,
        )
        protocol = client.protocol
        protocol.conn_lost_cb = lambda _error: protocol.idle_queue.put_nowait(None)
        await client.wait_hello_from_server()
        await client.login(mailbox["email"], mailbox["password"])
        examined = await client.select("INBOX")
        await client.idle_start(timeout=RENEW_SECONDS)
        self.clients.add(client)
        found = UIDNEXT.search(b"\n".join(examined.lines))
        return client, found[1] if found else b"none"

    async def _idle(self, client: Any) -> bool:
        """Wait for mail; False when the connection is lost."""
        while (said := await client.wait_server_push(timeout=2 * RENEW_SECONDS)) is not None:
            if said == aioimaplib.STOP_WAIT_SERVER_PUSH:
                client.idle_done()
                await client.idle_start(timeout=RENEW_SECONDS)
            elif any(line.endswith(b"EXISTS") for line in said):
                return True
        return False

    async def _scan(self, mailbox: dict[str, str], reason: str) -> None:
        """Ask for a scan until it is made."""
        body = {"connectionId": mailbox["id"], "userId": mailbox["userId"], "reason": reason}
        headers = {"x-admin-secret": self.job["secret"]}
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with (
                    self._scans,
                    self._http.post(self.job["scanUrl"], json=body, headers=headers) as answer,
                ):
                    await answer.json()
                    if answer.status == 200:
                        return
            await asyncio.sleep(1)

    async def log_out(self) -> None:
        """End all sessions in order."""
        await asyncio.gather(*map(_log_out, list(self.clients)), return_exceptions=True)


async def _log_out(client: Any) -> None:
    client.idle_done()
    async with asyncio.timeout(LOGOUT_SECONDS):
        await client.logout()


async def main() -> None:
    """Watch until SIGTERM."""
    job = json.loads(Path(sys.argv[1]).read_text())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=job["scansAtOnce"])
    ) as http:
        peer = Peer(job, http)
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(peer.watch(mailbox)) for mailbox in job["mailboxes"]
        ]
        stopped = asyncio.create_task(stop.wait())
        ended, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await peer.log_out()
        for done in ended:
            done.result()  # a mailbox's task ends by an unforeseen error only


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main())
