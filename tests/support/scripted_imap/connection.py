"""The IMAP conversation with one client."""

import base64
import contextlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tests.support.scripted_imap.commands import LITERAL, Received, bearer, parse_command
from tests.support.scripted_imap.mailbox import Mailbox
from tests.support.scripted_imap.wire import OverError, Wire

if TYPE_CHECKING:
    from tests.support.scripted_imap.server import Script, ScriptedImap


class Connection(Wire):
    """The IMAP conversation with one client.

    Actions get it while its own thread waits for them; a test's thread may use it at any time.
    """

    def __init__(self, server: "ScriptedImap", sock: socket.socket, number: int) -> None:
        super().__init__(server, sock, number)
        self.accepted_at = time.monotonic()
        self.commands: list[Received] = []
        self.state = "not authenticated"
        """"not authenticated", "authenticated", "selected", "idle" or "logout"."""
        self.logged_out = False
        self.login = ""
        self.tag = b"*"
        self.arguments: list[bytes] = []
        self.answers: list[bytes] = []
        """What the client said to each challenge of a login by token, CRLF included."""
        self.mailbox: Mailbox | None = None
        self._position = 0
        self._received = bytearray()

    @property
    def idling(self) -> bool:
        return self.state == "idle" and self.closed is None

    def answer(self, text: bytes) -> bool:
        """Send `text` with the tag of the present command; as an action, replaces the default."""
        self.send(self.tag + b" " + text + b"\r\n")
        return False

    def bye(self, text: bytes = b"Server shutting down") -> None:
        """Say BYE and close."""
        self.send(b"* BYE " + text + b"\r\n")
        self.fin()

    # The conversation

    def _converse(self) -> None:
        if context := self.server.tls_context:
            self._step("tls-handshake", lambda: self._handshake(context))
        self._transmit(b"")  # a cut after no byte at all comes here
        self._step("greeting", self._greet)
        try:
            while True:
                self._handle(self._read_command())
        finally:
            self._forget_mailbox()

    def _handle(self, line: bytes) -> None:
        self.commands.append(Received(time.monotonic(), line))
        self.server.notify()
        if self.idling:
            self._handle_in_idle(line)
            return
        words = parse_command(line)
        if len(words) < 2:
            self.send(b"* BAD Neither tag nor command\r\n")
            return
        self.tag, self.arguments = words[0], words[2:]
        step, default = self._COMMANDS.get(words[1].upper(), ("", Connection._unknown))
        self._step(step, lambda: default(self))
        if self.state == "starttls":
            self._start_tls()

    def _handle_in_idle(self, line: bytes) -> None:
        if line.strip().upper() == b"DONE":
            self._step("done", lambda: self.end_idle(b"OK IDLE terminated"))
        else:
            self.end_idle(b"BAD Expected DONE")

    def _step(self, step: str, default: Callable[[], object]) -> None:
        """Run the test's actions around the default answer."""
        before, changes, after = (
            self.server.take(step, when) for when in ("before", "change", "after")
        )
        with contextlib.ExitStack() as glued:
            if any(script.glued for script in before + after):
                glued.enter_context(self.glue())
            if all(self._act(script) for script in before):
                with contextlib.ExitStack() as rewritten:
                    for script in changes:
                        rewritten.enter_context(self.glue(script.act))
                    default()
            for script in after:
                self._act(script)

    def _act(self, script: "Script") -> bool:
        """Do what the test wants; say whether the default answer follows."""
        return script.act(self) is not False and not script.instead

    def _greet(self) -> None:
        self.send(b"* OK " + self._capability_code("greeting") + b"Ready\r\n")

    def _capability(self) -> None:
        self._reply(b"OK CAPABILITY completed", b"CAPABILITY " + self._capabilities())

    def _id(self) -> None:
        self._reply(b"OK ID completed", b'ID ("name" "scripted")')

    def _noop(self) -> None:
        self._tell_news()
        self._reply(b"OK NOOP completed")

    def _reply(self, text: bytes, *untagged: bytes) -> None:
        self.send(b"".join(b"* " + line + b"\r\n" for line in untagged))
        self.answer(text)

    def _starttls(self) -> None:
        if not self.server.starttls_context or self._tls:
            self.answer(b"BAD STARTTLS is not offered")
            return
        self.answer(b"OK Begin TLS negotiation now")
        self.state = "starttls"

    def _start_tls(self) -> None:
        context = self.server.starttls_context
        assert context
        self._set_state("not authenticated")
        self._received.clear()  # commands sent before TLS count for nothing (RFC 9051 6.2.1)
        self._step("tls-handshake", lambda: self._handshake(context))

    def _login(self) -> None:
        if len(self.arguments) == 2:
            self._check_password(*self.arguments)
        else:
            self.answer(b"BAD LOGIN takes a user name and a password")

    def _authenticate(self) -> None:
        if self.arguments[:1] == [b"LOGIN"]:
            self._check_password(self._ask(b"Username:"), self._ask(b"Password:"))
            return
        if self.arguments and self.arguments[0].upper() in (b"XOAUTH2", b"OAUTHBEARER"):
            self._authenticate_by_token()
            return
        if not self.arguments or self.arguments[0].upper() != b"PLAIN":
            self.answer(b"NO [CANNOT] Unsupported mechanism")
            return
        if len(self.arguments) == 1:
            self.send(b"+ \r\n")
            self.arguments.append(self._read_line()[:-2])
        try:
            _, login, password = base64.b64decode(self.arguments[1], validate=True).split(b"\0")
        except ValueError:
            self.answer(b"BAD Invalid or cancelled response")
        else:
            self._check_password(login, password)

    def _authenticate_by_token(self) -> None:
        self.challenge(b"")
        self.login, token = bearer(base64.b64decode(self.answers[-1]))
        if self.server.takes_token(self.login, token):
            self._set_state("authenticated")
            self.answer(b"OK " + self._capability_code("login") + b"Logged in")
        else:
            self.server.refuse_token(self)

    def challenge(self, data: bytes) -> bytes:
        """Ask on, and keep the client's answer; returns it."""
        self.send(b"+ " + base64.b64encode(data) + b"\r\n")
        self.answers.append(self._read_line())
        return self.answers[-1]

    def _ask(self, prompt: bytes) -> bytes:
        self.send(b"+ " + base64.b64encode(prompt) + b"\r\n")
        return base64.b64decode(self._read_line())

    def _check_password(self, login: bytes, password: bytes) -> None:
        self.login = login.decode("utf-8", "replace")
        expected = self.server.users.get(self.login)
        if expected is None or expected.encode() != password:
            self.answer(b"NO [AUTHENTICATIONFAILED] Invalid credentials")
            return
        self._set_state("authenticated")
        self.answer(b"OK " + self._capability_code("login") + b"Logged in")

    def _examine(self) -> None:
        mailbox = self._mailbox_named()
        if not mailbox:
            self.answer(b"NO [NONEXISTENT] No such mailbox")
            return
        self._forget_mailbox()
        now = mailbox.snapshot()
        self.mailbox, self._position = mailbox, now.position
        mailbox.watch(self._announce)
        self._set_state("selected")
        lines = [
            rb"FLAGS (\Answered \Flagged \Deleted \Seen \Draft)",
            b"%d EXISTS" % now.exists,
            b"0 RECENT",
            b"OK [UIDVALIDITY %d] UIDs valid" % now.uidvalidity,
        ]
        if self.server.tell_uidnext:
            lines.append(b"OK [UIDNEXT %d] Predicted next UID" % now.uidnext)
        self._reply(b"OK [READ-ONLY] Completed", *lines)

    def _status(self) -> None:
        mailbox = self._mailbox_named()
        if not mailbox:
            self.answer(b"NO [NONEXISTENT] No such mailbox")
            return
        now = mailbox.snapshot()
        items = {b"MESSAGES": now.exists, b"UIDVALIDITY": now.uidvalidity}
        if self.server.tell_uidnext:
            items[b"UIDNEXT"] = now.uidnext
        asked = b" ".join(self.arguments[1:]).strip(b"()").upper().split()
        told = [b"%s %d" % (name, value) for name, value in items.items() if name in asked]
        self._reply(b"OK STATUS completed", b"STATUS INBOX (" + b" ".join(told) + b")")

    def _idle(self) -> None:
        if b"IDLE" not in self._capabilities().split():
            self.answer(b"BAD Unknown command")
        elif self.state != "selected":
            self.answer(b"BAD No mailbox is selected")
        else:
            self.begin_idle()

    def begin_idle(self, continuation: bytes = b"+ idling\r\n") -> bool:
        """Ask the client to go on, and announce from now on; replaces the default."""
        with self._output:
            self.send(continuation)
            self._set_state("idle")
            self._tell_news()
        return False

    def end_idle(self, text: bytes) -> bool:
        """Answer the IDLE command with `text`, asked by DONE or not; replaces the default."""
        with self._output:
            if self.state == "idle":
                self._set_state("selected")
                self.answer(text)
        return False

    def _logout(self) -> None:
        self.logged_out = True
        self._set_state("logout")
        self._reply(b"OK LOGOUT completed", b"BYE Logging out")
        self.fin(how="logout")

    def _unknown(self) -> None:
        self.answer(b"BAD Unknown command")

    _COMMANDS: Mapping[bytes, tuple[str, Callable[["Connection"], None]]] = {
        b"CAPABILITY": ("capability", _capability),
        b"ID": ("id", _id),
        b"NOOP": ("noop", _noop),
        b"STARTTLS": ("starttls", _starttls),
        b"LOGIN": ("login", _login),
        b"AUTHENTICATE": ("login", _authenticate),
        b"EXAMINE": ("examine", _examine),
        b"SELECT": ("examine", _examine),
        b"STATUS": ("status", _status),
        b"IDLE": ("idle", _idle),
        b"LOGOUT": ("logout", _logout),
    }

    def _capabilities(self) -> bytes:
        if self.state in ("not authenticated", "starttls"):
            starttls = ["STARTTLS"] if self.server.starttls_context and not self._tls else []
            return " ".join([*self.server.capabilities_before_login, *starttls]).encode()
        return " ".join(self.server.capabilities_after_login).encode()

    def _capability_code(self, step: str) -> bytes:
        if step in self.server.capability_code_in:
            return b"[CAPABILITY " + self._capabilities() + b"] "
        return b""

    def _mailbox_named(self) -> Mailbox | None:
        if self.state not in ("authenticated", "selected") or not self.arguments:
            return None
        return self.server.mailbox_of(self.login) if self.arguments[0].upper() == b"INBOX" else None

    def _announce(self) -> None:
        # Looked at before the lock is taken, too: the thread that cuts a connection holds that
        # one's lock while mail arrives, and two such threads must not wait for each other.
        if self.idling:
            with self._output, contextlib.suppress(OverError):  # the next watcher is told, too
                if self.idling:
                    self._tell_news()

    def _tell_news(self) -> None:
        if self.mailbox:
            news, self._position = self.mailbox.news_since(self._position)
            if news:
                self.send(news)

    def _forget_mailbox(self) -> None:
        if self.mailbox:
            self.mailbox.unwatch(self._announce)
            self.mailbox = None

    def _set_state(self, state: str) -> None:
        self.state = state
        self.server.notify()

    # Bytes in

    def _read_command(self) -> bytes:
        line = command = self._read_line()
        while literal := re.search(LITERAL.pattern + rb"\Z", line):
            if not literal[2]:
                self.send(b"+ Ready for the literal\r\n")
            content = self._read_exactly(int(literal[1]))
            line = self._read_line()
            command += content + line
        return command

    def _read_line(self) -> bytes:
        while not (end := self._received.find(b"\n") + 1):
            self._received += self._receive()
        return self._take(end)

    def _read_exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._received += self._receive()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken
