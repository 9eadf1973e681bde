"""Dovecot, with passwords and with access tokens."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.servers.base import (
    RUNS_AS_ROOT,
    Server,
    accepts_connections,
    find_program,
    free_port,
    has_ipv6,
    run,
)
from tests.support.servers.certificates import ServerCertificate
from tests.support.servers.mail import message
from tests.support.waiting import wait_for

_MAIL_GID = 65534 if RUNS_AS_ROOT else os.getgid()


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
