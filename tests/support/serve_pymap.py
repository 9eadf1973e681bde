"""pymap's memory backend as a program, which needs nothing else of these tests.

Its arguments: port, certificate (PEM file), key (PEM file), and a `name:password` for each user.
"""

import argparse
import asyncio
import os
import ssl
import sys
import uuid
from collections.abc import Mapping


async def serve_pymap(port: int, tls: ssl.SSLContext, users: Mapping[str, str]) -> None:
    """Serve pymap's memory backend with these users until the process is ended."""
    from proxyprotocol.result import ProxyResultUnknown
    from proxyprotocol.sock import SocketInfo
    from pymap.backend.dict import DictBackend, Identity
    from pymap.imap import IMAPServer
    from pymap.user import UserMetadata
    from pysasl.hashing import Cleartext

    os.environ.setdefault("FQDN", "localhost")  # or every greeting asks the DNS for one
    backend, config = await DictBackend.init(_pymap_arguments(), hash_context=Cleartext())
    config.apply_context()
    for name, password in users.items():
        identity = Identity(name, backend.login, None, frozenset())
        await identity.set(UserMetadata(config, name, password=password))
    imap_server = IMAPServer(backend.login, config)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not by way of ProxyProtocolReader: nothing refers to the task that it makes, and on
        # Python 3.13 such a task is collected as garbage, and the connection with it.
        peer = SocketInfo.get(writer, ProxyResultUnknown(), unique_id=uuid.uuid4().bytes)
        await imap_server(reader, writer, peer)

    server = await asyncio.start_server(handle, "127.0.0.1", port, ssl=tls)
    await server.serve_forever()


def _pymap_arguments() -> argparse.Namespace:
    """What pymap's command line would have read; TLS is done outside, so STARTTLS is off."""
    return argparse.Namespace(
        host=None, port=0, debug=False, cert=None, key=None, tls=False, passlib_cfg=None,
        proxy_protocol=None, demo_data=False, demo_user="unused", demo_password=uuid.uuid4().hex,
    )  # fmt: skip


def _main() -> None:
    port, cert_pem, key_pem, *users = sys.argv[1:]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert_pem, key_pem)
    passwords = dict(user.split(":", 1) for user in users)
    asyncio.run(serve_pymap(int(port), tls, passwords))


if __name__ == "__main__":
    _main()
