"""SSL_CERT_FILE and SSL_CERT_DIR, which OpenSSL reads itself, and ignores where it cannot."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

# A certificate's name in a directory: the hash of its subject, and a number
# (https://docs.openssl.org/3.0/man1/openssl-rehash/).
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def check_file(path: str) -> None:
    """See that OpenSSL finds a certificate in the file. /dev/null is how one says: none.

    Raises:
        ValueError: it does not; the sentence continues one that begins with the variable.
    """
    if path == os.devnull:
        return
    advice = "give a file of certificates in PEM, or remove it"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        pass  # no PEM, or no certificate in it
    except OSError as error:
        raise ValueError(f"names no file that can be read ({error.strerror}): {advice}") from None
    if not context.cert_store_stats()["x509"]:
        raise ValueError(f"names a file without a certificate that can be read: {advice}")


def check_directories(paths: str) -> None:
    """See that OpenSSL finds a certificate in one of the directories.

    Raises:
        ValueError: it does not; the sentence continues one that begins with the variable.
    """
    problem = ""
    for path in paths.split(os.pathsep):
        try:
            names = os.listdir(path)  # noqa: PTH208  # an empty name is none, not "."
        except OSError as error:
            problem = problem or f"names no directory that can be read ({error.strerror})"
            continue
        if any(_is_certificate(Path(path, name)) for name in names):
            return
        problem = "names a directory without a certificate that OpenSSL finds by its hashed name"
    raise ValueError(f"{problem}: give one that `openssl rehash` was run on, or remove it")


def _is_certificate(path: Path) -> bool:
    if not _HASHED.fullmatch(path.name):
        return False
    try:
        check_file(str(path))
    except ValueError:
        return False
    return True
