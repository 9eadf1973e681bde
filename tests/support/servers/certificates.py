"""A private CA and the certificates that the tests need."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class ServerCertificate:
    """A server's certificate and key, as PEM files."""

    cert_pem: Path
    key_pem: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_pem, self.key_pem)
        return context


class Certificates:
    """A private CA and the certificates that the tests need, good and bad.

    `server` is valid for localhost, 127.0.0.1, 127.0.0.2 and ::1; `wrong_name` comes from the same
    CA but is for other.example; `untrusted` names localhost but comes from a CA nobody trusts.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_pem = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_pem)
        local = ("localhost", "127.0.0.1", "127.0.0.2", "::1")
        self.server = _issue(authority, folder / "server", *local)
        self.wrong_name = _issue(authority, folder / "wrong-name", "other.example")
        self.untrusted = _issue(trustme.CA(), folder / "untrusted", *local)
        self.cert_pem = self.server.cert_pem
        self.key_pem = self.server.key_pem

    def client_context(self) -> ssl.SSLContext:
        """A verifying context that trusts the private CA and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca_pem))

    def server_context(self) -> ssl.SSLContext:
        return self.server.server_context()


def _issue(authority: trustme.CA, stem: Path, *names: str) -> ServerCertificate:
    issued = authority.issue_cert(*names)
    certificate = ServerCertificate(stem.with_suffix(".pem"), stem.with_suffix(".key"))
    issued.private_key_pem.write_to_path(certificate.key_pem)
    for index, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(certificate.cert_pem, append=index > 0)
    return certificate
