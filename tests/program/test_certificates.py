"""SSL_CERT_FILE and SSL_CERT_DIR that OpenSSL would silently make nothing of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rebreak_idle.config import load
from rebreak_idle.errors import ConfigError
from tests.conftest import Run
from tests.support.daemon import Daemon
from tests.support.rig import ADMIN_SECRET, ENCRYPTION_KEY, environment, stored
from tests.support.scripted_imap import Mailbox, ScriptedImap
from tests.support.servers import Certificates, Database

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
REQUIRED = {
    "DATABASE_URL": "postgresql://localhost/none",
    "ADMIN_SECRET": ADMIN_SECRET,
    "ENCRYPTION_KEY": ENCRYPTION_KEY,
}


def the_problem(variable: str, value: str) -> str:
    """What is wrong with this variable, which must be all that is wrong."""
    with pytest.raises(ConfigError) as caught:
        load({**REQUIRED, variable: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{variable} ")
    return problem


@pytest.fixture
def folder(tmp_path: Path, certificates: Certificates) -> Path:
    """A directory with what such variables have named."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("no certificate at all\n")
    pem = certificates.ca_pem.read_text()
    (tmp_path / "torn.pem").write_text(pem[: len(pem) // 2])
    (tmp_path / "key.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n"
    )
    (tmp_path / "unhashed").mkdir()
    shutil.copy(certificates.ca_pem, tmp_path / "unhashed" / "ca.pem")
    (tmp_path / "hashed").mkdir()
    shutil.copy(certificates.ca_pem, tmp_path / "hashed" / "0a1b2c3d.0")
    (tmp_path / "none").mkdir()
    (tmp_path / "nonsense").mkdir()
    (tmp_path / "nonsense" / "0a1b2c3d.0").write_text("no certificate")
    return tmp_path


@pytest.mark.parametrize("name", ["gone", "none", "empty", "text", "torn.pem", "key.pem"])
def test_a_file_that_holds_nothing(folder: Path, name: str) -> None:
    """A file that is not there, cannot be read, or holds no certificate is a problem."""
    problem = the_problem("SSL_CERT_FILE", str(folder / name))
    assert "give a file of certificates in PEM" in problem


@pytest.mark.parametrize("name", ["gone", "text", "none", "unhashed", "nonsense", "gone:none"])
def test_a_directory_that_holds_nothing(folder: Path, name: str) -> None:
    """So is a directory in which OpenSSL finds nothing by its hashed names."""
    paths = ":".join(str(folder / part) for part in name.split(":"))
    problem = the_problem("SSL_CERT_DIR", paths)
    assert "openssl rehash" in problem


@pytest.mark.parametrize("name", ["hashed", "gone:hashed", "none:hashed", "hashed:gone"])
def test_one_directory_that_can_be_read_will_do(folder: Path, name: str) -> None:
    """Of several directories OpenSSL uses those that it can read."""
    paths = ":".join(str(folder / part) for part in name.split(":"))
    load({**REQUIRED, "SSL_CERT_DIR": paths})


def test_no_certificates_on_purpose() -> None:
    """/dev/null is a file that is meant to hold none."""
    load({**REQUIRED, "SSL_CERT_FILE": "/dev/null"})


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_empty_one(variable: str) -> None:
    """A variable that is there and empty would take all certificates from OpenSSL."""
    assert "is empty" in the_problem(variable, "")


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("place", ["environment", ".env"])
@pytest.mark.parametrize(("arguments", "status"), [([], 78), (["check"], 1)])
def test_the_program_does_not_start(
    tmp_path: Path,
    certificates: Certificates,
    variable: str,
    place: str,
    arguments: list[str],
    status: int,
) -> None:
    """The daemon ends with 78 and the preflight with 1, wherever the variable was set."""
    values = environment("postgresql://u@127.0.0.1:1/d", "http://127.0.0.1:1", certificates)
    values.pop("SSL_CERT_FILE")
    if place == ".env":
        (tmp_path / ".env").write_text(f"{variable}=/no/such/place\n")
    else:
        values[variable] = "/no/such/place"
    with Daemon(values, tmp_path, arguments) as daemon:
        assert daemon.wait() == status
    assert f"[idle/db] {variable} names no" in daemon.stderr
    assert daemon.lines == []


def test_a_private_ca_by_dotenv(
    run: Run, database: Database, certificates: Certificates, tmp_path: Path
) -> None:
    """One that names a CA starts as ever, and the CA is trusted."""
    (tmp_path / ".env").write_text(f"SSL_CERT_FILE='{certificates.ca_pem}'\n")
    users = {"user@example.org": "secret"}
    with ScriptedImap(Mailbox(), tls_context=certificates.server_context(), users=users) as server:
        sealed = stored("secret")
        database.add("user@example.org", imap_port=server.port, password_encrypted=sealed)
        with run("check") as daemon:
            assert daemon.wait(30) == 0, daemon.text + daemon.stderr
