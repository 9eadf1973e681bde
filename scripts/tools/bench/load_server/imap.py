"""The IMAP side."""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Callable

from scripts.tools.bench.load_server.connection import Connection, Loop
from scripts.tools.bench.load_server.mailboxes import Mailboxes

CAPABILITIES = "IMAP4rev1 SASL-IR LITERAL- AUTH=PLAIN AUTH=XOAUTH2 ID IDLE"
UIDVALIDITY = 1700000000
USER = re.compile(r"box(\d+)@bench\.example")


class ImapConnection(Connection):
    """One IMAP session (RFC 3501 and 2177), as far as programs that wait for mail need it."""

    sock: ssl.SSLSocket

    def __init__(
        self,
        loop: Loop,
        sock: ssl.SSLSocket,
        mailboxes: Mailboxes,
        closed: Callable[[ImapConnection], None],
    ) -> None:
        super().__init__(loop, sock)
        self._mailboxes = mailboxes
        self._closed = closed
        self._greeted = False
        self._mailbox: int | None = None
        self._idle_tag = ""
        self._sasl_tag = ""
        self._commands: dict[str, Callable[[str, str], None]] = {
            "CAPABILITY": self._capability,
            "LOGIN": self._login,
            "AUTHENTICATE": self._authenticate,
            "ID": self._id,
            "EXAMINE": self._examine,
            "SELECT": self._examine,
            "STATUS": self._status,
            "LIST": self._list,
            "NOOP": self._nothing,
            "IDLE": self._idle,
            "LOGOUT": self._logout,
        }

    def ready(self) -> None:
        if self._greeted or not self._open:
            super().ready()
            return
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.watch(self.sock, self.ready)
        except ssl.SSLWantWriteError:
            self._loop.watch(self.sock, self.ready, writing=True)
        except OSError:
            self.close()
        else:
            self._greeted = True
            self._loop.watch(self.sock, self.ready)
            self.say(f"* OK [CAPABILITY {CAPABILITIES}] at your service")
            super().ready()  # the handshake may have read on

    def take(self) -> None:
        while (end := self._received.find(b"\n")) >= 0:
            line = self._received[:end].decode("utf-8", "replace").rstrip("\r")
            del self._received[: end + 1]
            self._line(line)

    def say(self, line: str) -> None:
        """Send one line."""
        self.send(line.encode() + b"\r\n")

    def close(self) -> None:
        if self._open:
            self._end_idle()
            super().close()
            self._closed(self)

    def _line(self, line: str) -> None:
        if self._idle_tag:
            tag, done = self._idle_tag, line.upper() == "DONE"
            self._end_idle()
            self.say(f"{tag} OK IDLE is over" if done else f"{tag} BAD DONE was expected")
            return
        if self._sasl_tag:
            tag, self._sasl_tag = self._sasl_tag, ""
            self._log_in(tag, _sasl_user(line))
            return
        tag, _, rest = line.partition(" ")
        name, _, arguments = rest.partition(" ")
        command = self._commands.get(name.upper())
        if command is None:
            self.say(f"{tag or '*'} BAD no such command here")
        elif self._mailbox is None and name.upper() in ("EXAMINE", "SELECT", "STATUS", "IDLE"):
            self.say(f"{tag} BAD log in first")
        else:
            command(tag, arguments)

    def _capability(self, tag: str, _arguments: str) -> None:
        self.say(f"* CAPABILITY {CAPABILITIES}\r\n{tag} OK done")

    def _login(self, tag: str, arguments: str) -> None:
        self._log_in(tag, arguments)

    def _authenticate(self, tag: str, arguments: str) -> None:
        mechanism, _, response = arguments.partition(" ")
        if mechanism.upper() not in ("PLAIN", "XOAUTH2"):
            self.say(f"{tag} NO only PLAIN and XOAUTH2")
        elif response:
            self._log_in(tag, _sasl_user(response))
        else:
            self._sasl_tag = tag
            self.say("+ ")

    def _log_in(self, tag: str, user: str) -> None:
        """Log in the mailbox that is named in this text."""
        found = USER.search(user)
        if found is None or int(found[1]) >= len(self._mailboxes.messages):
            self.say(f"{tag} NO [AUTHENTICATIONFAILED] there is no such mailbox")
            return
        self._mailbox = int(found[1])
        self.say(f"{tag} OK [CAPABILITY {CAPABILITIES}] logged in")

    def _id(self, tag: str, _arguments: str) -> None:
        self.say(f'* ID ("name" "bench_load")\r\n{tag} OK done')

    def _examine(self, tag: str, _arguments: str) -> None:
        messages = self._count()
        self.say(
            f"* FLAGS (\\Seen \\Deleted)\r\n* {messages} EXISTS\r\n* 0 RECENT\r\n"
            "* OK [PERMANENTFLAGS ()] none\r\n"
            f"* OK [UIDVALIDITY {UIDVALIDITY}] stays\r\n* OK [UIDNEXT {messages + 1}] next\r\n"
            f"{tag} OK [READ-ONLY] INBOX"
        )

    def _status(self, tag: str, _arguments: str) -> None:
        messages = self._count()
        status = f"MESSAGES {messages} UIDNEXT {messages + 1} UIDVALIDITY {UIDVALIDITY}"
        self.say(f"* STATUS INBOX ({status})\r\n{tag} OK done")

    def _list(self, tag: str, arguments: str) -> None:
        named = "INBOX" in arguments.upper() or "*" in arguments or "%" in arguments
        found = '* LIST () "/" INBOX' if named else '* LIST (\\Noselect) "/" ""'
        self.say(f"{found}\r\n{tag} OK done")

    def _nothing(self, tag: str, _arguments: str) -> None:
        self.say(f"{tag} OK done")

    def _idle(self, tag: str, _arguments: str) -> None:
        self._idle_tag = tag
        self.say("+ idling")
        if self._mailbox is not None and self._open:
            self._mailboxes.listens(self._mailbox, self)

    def _logout(self, tag: str, _arguments: str) -> None:
        self.say(f"* BYE see you\r\n{tag} OK logged out")
        self.close()

    def _end_idle(self) -> None:
        if self._idle_tag and self._mailbox is not None:
            self._mailboxes.listens_no_more(self._mailbox, self)
        self._idle_tag = ""

    def _count(self) -> int:
        return 0 if self._mailbox is None else self._mailboxes.messages[self._mailbox]


def _sasl_user(response: str) -> str:
    """The user's name in a response of SASL PLAIN (RFC 4616) or XOAUTH2, or nothing."""
    try:
        return re.split("[\0=\1]", base64.b64decode(response).decode())[1]
    except (binascii.Error, UnicodeError, IndexError):
        return ""
