"""Cyrus and Courier for the tests, each in a root folder of its own.

Debian has one IMAP server installed at a time, and Courier's paths are fixed when it is built. So
both are unpacked by `scripts/unpack_server` and run by chroot(2), which takes root.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from smtplib import LMTP

from imapclient import IMAPClient

from tests.support.servers import (
    RUNS_AS_ROOT,
    STOP_SECONDS,
    Certificates,
    MissingProgramError,
    Server,
    accepts_connections,
    deliver_to_maildir,
    find_program,
    free_port,
    message,
    run,
)
from tests.support.waiting import wait_for


def unpacked(server: str) -> Path:
    """The folder in which `scripts/unpack_server` unpacked a server.

    Raises:
        MissingProgramError: it did not, or nobody but root could use it.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "rebreak-idle" / server
    if not folder.is_dir():
        raise MissingProgramError(f"{server} is not unpacked: see scripts/unpack_server")
    if not RUNS_AS_ROOT:
        raise MissingProgramError(f"{server} runs by chroot, which takes root")
    return folder


def _link(source: str, target: str) -> None:
    """Have the file at `target` too: as a link where both are on one file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class ChrootedServer(Server):
    """An IMAP server over TLS in a root folder of its own.

    Its user is one of its own too: whoever has the same name shares a server of gamin's.
    """

    unpacked_name = ""
    # Where sessions were killed Cyrus's master does not always end when it is told to.
    stop_seconds = 1.0

    def __init__(self, certificates: Certificates) -> None:
        unpacked(self.unpacked_name)
        super().__init__()
        self.imaps_port = free_port()
        self.uid = self.imaps_port
        self.user = f"mail{self.uid}"
        self.root = self.folder / "root"
        self.passwords: dict[str, str] = {}
        self._certificates = certificates

    # users and mail

    def add_user(self, name: str, password: str) -> None:
        """Add a user, or give one a new password."""
        self.add_users({name: password})

    set_password = add_user

    def add_users(self, passwords: Mapping[str, str]) -> None:
        """Add many users, or give them new passwords."""
        raise NotImplementedError

    def count(self, user: str) -> int:
        """How many messages the user's INBOX holds."""
        return self.status(user, "MESSAGES")

    def status(self, user: str, item: str) -> int:
        """What STATUS tells of the user's INBOX: UIDNEXT, MESSAGES, …"""
        with self.client(user) as client:
            return int(client.folder_status("INBOX", [item])[item.encode()])

    @contextlib.contextmanager
    def client(self, user: str) -> Iterator[IMAPClient]:
        """A client that is logged in."""
        context = self._certificates.client_context()
        with IMAPClient("localhost", self.imaps_port, ssl_context=context, timeout=20) as client:
            client.login(user, self.passwords[user])
            yield client

    def kick(self, user: str) -> None:
        """Cut the user's sessions off."""
        for pid in self.session_pids(user):
            _end(pid)

    def sessions(self, user: str) -> int:
        """How many sessions the user has open."""
        return len(self.session_pids(user))

    def session_pids(self, user: str | None = None) -> list[int]:
        """The processes of the sessions of one user, or of all."""
        raise NotImplementedError

    # the server

    def pids(self) -> list[int]:
        """All processes in the root folder."""
        return [pid for pid in _numbers(Path("/proc")) if _root_of(pid) == str(self.root)]

    def stop(self) -> None:
        """Stop the server if it runs, and all that it has started."""
        super().stop()
        for pid in self.pids():
            _end(pid)
        wait_for(lambda: not self.pids(), STOP_SECONDS, f"the end of {self.name}'s processes")

    def _prepare(self) -> None:
        shutil.copytree(unpacked(self.unpacked_name), self.root, symlinks=True, copy_function=_link)
        self.write("etc/passwd", f"root:x:0:0::/:\n{self.user}:x:{self.uid}:{self.uid}::/:\n")
        self.write("etc/group", f"root:x:0:\n{self.user}:x:{self.uid}:\n")
        for name, mode in (("tmp", 0o1777), ("dev", 0o755), ("run", 0o755)):
            (self.root / name).mkdir(exist_ok=True)
            (self.root / name).chmod(mode)
        null = self.root / "dev/null"
        null.unlink(missing_ok=True)
        os.mknod(null, stat.S_IFCHR, os.makedev(1, 3))
        null.chmod(0o666)

    def write(self, path: str, text: str) -> None:
        """Write a file below the root folder that its user can read; nothing that is linked."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)

    def folder_of_mail(self, path: str) -> Path:
        """A folder below the root folder that the user of the mail owns."""
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, self.uid, self.uid)
        return folder

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a program in the root folder."""
        return run(*self._in_root(*command), text=text)

    def _in_root(self, *command: str) -> list[str]:
        return [find_program("chroot"), str(self.root), *command]


def _numbers(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def _root_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/root").readlink())
    return ""


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Cyrus(ChrootedServer):
    """A private Cyrus. Without idled it looks for new mail once a minute in IDLE."""

    name = "Cyrus"
    unpacked_name = "cyrus"

    def __init__(
        self, certificates: Certificates, idled: bool = True, logins_per_user: int = 0
    ) -> None:
        super().__init__(certificates)
        self._idled = idled
        self._logins_per_user = logins_per_user

    def add_users(self, passwords: Mapping[str, str]) -> None:
        for user, password in passwords.items():
            name, _, domain = user.partition("@")
            self.run("/usr/sbin/saslpasswd2", "-p", "-c", "-u", domain, name, text=password)
            self.passwords[user] = password
        (self.root / "etc/sasldb2").chmod(0o644)

    def deliver(
        self,
        user: str,
        subject: str = "Hello",
        sender: str = "sender@example.org",
        body: str = "Hello there.",
    ) -> str:
        """Hand over a new message as mail servers do, by LMTP; its Message-ID.

        Raises:
            OSError: Cyrus is down (smtplib's errors are of this kind too).
        """
        mail = message(user, subject, sender, body)
        with LMTP(str(self._lmtp_socket), local_hostname="localhost", timeout=20) as lmtp:
            lmtp.send_message(mail)
        return str(mail["Message-ID"])

    def session_pids(self, user: str | None = None) -> list[int]:
        """The processes of the sessions of one user, or of all: Cyrus notes each in a file.

        The notes of those that were killed stay behind.
        """
        notes = self.root / "var/lib/cyrus/proc"
        found = []
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError):
                words = (notes / str(pid)).read_text().split("\t")
                if len(words) > 2 and words[2].strip() and user in (None, words[2].strip()):
                    found.append(pid)
        return found

    @property
    def _lmtp_socket(self) -> Path:
        return self.root / "run/lmtp"

    def _prepare(self) -> None:
        super()._prepare()
        certificate = self._certificates.server
        self.write("etc/server.pem", certificate.cert_pem.read_text())
        self.write("etc/server.key", certificate.key_pem.read_text())
        self.write("etc/imapd.conf", self._settings())
        self.write("etc/cyrus.conf", self._services())
        for path in ("", "/db", "/socket", "/proc", "/lock", "/msg", "/log"):
            self.folder_of_mail(f"var/lib/cyrus{path}")
        self.folder_of_mail("var/spool/cyrus")
        self.folder_of_mail("run")

    def _settings(self) -> str:
        return f"""\
configdirectory: /var/lib/cyrus
defaultpartition: default
partition-default: /var/spool/cyrus
cyrus_user: {self.user}
cyrus_group: {self.user}
servername: localhost
virtdomains: userid
unixhierarchysep: yes
autocreate_quota: 0
autocreate_post: yes
duplicatesuppression: no
allowplaintext: yes
sasl_mech_list: PLAIN
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
failedloginpause: 0
maxlogins_per_user: {self._logins_per_user}
tls_server_cert: /etc/server.pem
tls_server_key: /etc/server.key
"""

    def _services(self) -> str:
        idled = 'idled cmd="idled"' if self._idled else ""
        return f"""\
START {{
  recover cmd="ctl_cyrusdb -r"
  {idled}
}}
SERVICES {{
  imaps cmd="imapd -s" listen="127.0.0.1:{self.imaps_port}"
  lmtpunix cmd="lmtpd" listen="/run/lmtp"
}}
"""

    def _command(self) -> Sequence[str | Path]:
        return self._in_root("/usr/sbin/cyrmaster", "-D", "-p", "/run/master.pid")

    def _ready(self) -> bool:
        return self._lmtp_socket.exists() and accepts_connections(self.imaps_port)


class Courier(ChrootedServer):
    """A private Courier.

    In IDLE it looks for new mail once a minute; with `enhanced_idle` it has gamin tell it, and
    without gamin tells of nothing before DONE.
    """

    name = "Courier"
    unpacked_name = "courier"

    def __init__(
        self,
        certificates: Certificates,
        enhanced_idle: bool = True,
        gamin: bool = True,
        connections_per_ip: int = 200,
    ) -> None:
        super().__init__(certificates)
        self._enhanced_idle = enhanced_idle
        self._gamin = gamin
        self._connections_per_ip = connections_per_ip
        self._authdaemon: subprocess.Popen[bytes] | None = None

    def add_users(self, passwords: Mapping[str, str]) -> None:
        for user in passwords:
            for part in ("", "/Maildir", "/Maildir/tmp", "/Maildir/new", "/Maildir/cur"):
                self.folder_of_mail(f"home/{user}{part}")
        self.passwords |= passwords
        self._write_users("userdb", self._user)
        self._write_users("userdbshadow", self._secret)

    def _write_users(self, name: str, fields: Callable[[str], str]) -> None:
        """Write one of its databases of users; each line is a user and the fields."""
        lines = [f"{user}\t{fields(user)}\n" for user in self.passwords]
        path = f"/etc/courier/{name}"
        command = (
            "/usr/lib/courier/courier-authlib/makedatprog",
            "-",
            f"{path}.tmp",
            f"{path}.dat",
        )
        self.run(*command, text="".join([*lines, ".\n"]))

    def _user(self, name: str) -> str:
        return f"uid={self.uid}|gid={self.uid}|home=/home/{name}"

    def _secret(self, name: str) -> str:
        digest = hashlib.sha256(self.passwords[name].encode()).digest()
        return f"imappw={{SHA256}}{b64encode(digest).decode()}"

    def maildir(self, user: str) -> Path:
        return self.root / "home" / user / "Maildir"

    def deliver(
        self,
        user: str,
        subject: str = "Hello",
        sender: str = "sender@example.org",
        body: str = "Hello there.",
    ) -> str:
        """Put a new message into the user's INBOX as mail servers do; its Message-ID."""
        mail = message(user, subject, sender, body)
        deliver_to_maildir(self.maildir(user), mail.as_bytes())
        return str(mail["Message-ID"])

    def session_pids(self, user: str | None = None) -> list[int]:
        """The processes of the sessions of one user, or of all, by what Courier tells them."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                names = [v[14:].decode() for v in variables if v.startswith(b"AUTHENTICATED=")]
                # gamin's server inherits them.
                is_session = Path(f"/proc/{pid}/comm").read_text().strip() == "imapd"
                if is_session and names and user in (None, names[0]):
                    found.append(pid)
        return found

    def start(self) -> None:
        if self._process is None:
            authdaemond = "/usr/lib/courier/courier-authlib/authdaemond"
            self._authdaemon = self._spawn(self._in_root(authdaemond))
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._authdaemon is not None:
            self._authdaemon.wait(STOP_SECONDS)

    def _prepare(self) -> None:
        super()._prepare()
        certificate = self._certificates.server
        pem = certificate.key_pem.read_text() + certificate.cert_pem.read_text()
        self.write("etc/courier/imapd.pem", pem)
        self.write("etc/courier/authdaemonrc", self._authdaemonrc())
        self.write("etc/courier/ours", self._settings())
        self.folder_of_mail("run/courier/authdaemon")
        if not self._gamin:
            (self.root / "usr/libexec/gam_server").unlink()

    @staticmethod
    def _authdaemonrc() -> str:
        return """\
authmodulelist="authuserdb"
authmodulelistorig="authuserdb"
daemons=5
authdaemonvar=/run/courier/authdaemon
"""

    def _settings(self) -> str:
        return f"""\
IMAP_TLS=1
IMAP_ENHANCEDIDLE={self._enhanced_idle:d}
TLS_CACHEFILE=
"""

    def _command(self) -> Sequence[str | Path]:
        """couriertcpd as Debian's imapd-ssl starts it, with Debian's settings and ours."""
        settings = [self.root / "etc/courier" / name for name in ("imapd", "imapd-ssl", "ours")]
        limits = ("-maxprocs=200", f"-maxperip={self._connections_per_ip}")
        options = ("-address=127.0.0.1", *limits, "-nodnslookup", "-noidentlookup")
        login = ("/usr/lib/courier/courier/imaplogin", "/usr/bin/imapd", "Maildir")
        tls = ("/usr/bin/couriertls", "-server", "-tcpd", f"-user={self.user}", *login)
        command = self._in_root("/usr/sbin/couriertcpd", *options, str(self.imaps_port), *tls)
        script = 'set -a; . "$1"; . "$2"; . "$3"; shift 3; exec "$@"'
        return ["sh", "-c", script, "sh", *settings, *command]

    def _ready(self) -> bool:
        asked = self.root / "run/courier/authdaemon/socket"
        return asked.exists() and accepts_connections(self.imaps_port)
