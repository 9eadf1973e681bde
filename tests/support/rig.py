"""What a daemon needs in a test: its environment, and passwords as the backend stores them."""

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.servers import Certificates, Database

ADMIN_SECRET = "canary-admin-secret"
ENCRYPTION_KEY = "canary-encryption-key-32-characters!"


def stored(password: str, key: str = ENCRYPTION_KEY) -> str:
    """A password as a row carries it: AES-256-GCM, `iv:tag:ciphertext` in hex."""
    iv = os.urandom(12)
    sealed = AESGCM(key.encode()[:32]).encrypt(iv, password.encode(), None)
    return f"{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


def add_mailboxes(database: Database, number: int, port: int) -> None:
    """So many mailboxes at one port of localhost, all with the login user@example.org.

    Only a query that reads imap_username finds that: the default one does not.
    """
    for index in range(number):
        database.add(
            f"{index}@example.org",
            imap_port=port,
            imap_username="user@example.org",
            password_encrypted=stored("secret"),
        )


def environment(
    database_url: str, backend_url: str, certificates: Certificates, **more: object
) -> dict[str, str]:
    """The daemon's environment, with short waits; `more` overrides."""
    return {
        "DATABASE_URL": database_url,
        "BACKEND_URL": backend_url,
        "ADMIN_SECRET": ADMIN_SECRET,
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "SSL_CERT_FILE": str(certificates.ca_pem),
        "IMAP_ALLOW_PRIVATE_HOSTS": "true",
        "RECONNECT_INITIAL_SECONDS": "0.2",
        **{name: str(value) for name, value in more.items()},
    }
