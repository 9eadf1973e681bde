"""An IMAP server for tests, on real sockets, that behaves well until it is told not to.

`Mailbox` is the mail, `ScriptedImap` the server, `Connection` one client's connection. Left alone
the server is a small, correct IMAP4rev1 server with IDLE (RFC 9051, RFC 2177). A test bends it:

    server.on("login", lambda c: c.answer(b"NO [UNAVAILABLE] Try later"), times=1)
    server.after("idle", lambda c: mailbox.arrive(), glued=True)
    server.rewrite("examine", lambda out: out.replace(b"UIDNEXT", b"UIDNEXT x"))
    server.idling[0].rst()

TLS is done in memory (`ssl.MemoryBIO`), so that every byte of ciphertext can be held back or
replaced too. Each connection has one thread; all of them end with the server.
"""

import base64
import contextlib
import itertools
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

# What Gmail and Outlook say: https://developers.google.com/workspace/gmail/imap/xoauth2-protocol,
# https://github.com/simonrob/email-oauth2-proxy
GMAIL_ERROR = b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}'
GMAIL_NO = b"NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)"
GMAIL_BYE = b"* BYE Session expired, please login again.\r\n"
OUTLOOK_NO = b"NO AUTHENTICATE failed."
OUTLOOK_BAD = b"BAD Command Error. 12"
OUTLOOK_BYE = b"* BYE Session invalidated - AccessTokenExpired\r\n"
OUTLOOK_NOT_CONNECTED = b"BAD User is authenticated but not connected."

WAIT_SECONDS = 10.0  # how long a test waits for something that should happen at once
STALLED_SECONDS = 30.0  # a client that takes no byte for so long is given up
LITERAL = re.compile(rb"\{(\d+)(\+?)\}\r\n")
QUOTED = re.compile(rb'"((?:[^"\\\r\n]|\\["\\])*)"')
ATOM = re.compile(rb'[^ "\r\n]+')
STEPS = (
    *("tls-handshake", "greeting", "capability", "id", "starttls", "login", "examine", "status"),
    *("noop", "idle", "done", "logout"),
)


class Arrival(NamedTuple):
    """A mail's arrival: `at` is `time.monotonic()`."""

    at: float
    uid: int


class Snapshot(NamedTuple):
    """What EXAMINE tells of a mailbox; `position` is where the news after it begin."""

    exists: int
    uidnext: int
    uidvalidity: int
    position: int


class Mailbox:
    """One account's INBOX. Any thread may call any method."""

    def __init__(self, exists: int = 4, uidvalidity: int = 1) -> None:
        self.uids = list(range(1, exists + 1))
        self.uidnext = exists + 1
        self.uidvalidity = uidvalidity
        self.announcing = True
        """False: arrivals are swallowed; nothing but EXAMINE and STATUS shows them."""
        self.arrivals: list[Arrival] = []
        self._lock = threading.Lock()
        self._news: list[bytes] = []
        self._watchers: list[Callable[[], None]] = []

    @property
    def exists(self) -> int:
        return len(self.uids)

    def arrive(self, n: int = 1, announce: bool = True) -> None:
        """Add `n` mails and tell every idling connection, in one line, before returning."""
        with self._lock:
            for _ in range(n):
                self.arrivals.append(Arrival(time.monotonic(), self.uidnext))
                self.uids.append(self.uidnext)
                self.uidnext += 1
            line = b"* %d EXISTS\r\n" % len(self.uids)
        self._announce(line, announce)

    def expunge(self, index: int, announce: bool = True) -> None:
        """Remove the mail with the message sequence number `index`, which counts from 1."""
        with self._lock:
            del self.uids[index - 1]
        self._announce(b"* %d EXPUNGE\r\n" % index, announce)

    def renumber(self, uidvalidity: int) -> None:
        """Give all mails new UIDs under a new UIDVALIDITY (RFC 9051 2.3.1.1)."""
        with self._lock:
            self.uidvalidity = uidvalidity
            self.uids = list(range(1, len(self.uids) + 1))
            self.uidnext = len(self.uids) + 1

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(len(self.uids), self.uidnext, self.uidvalidity, len(self._news))

    def news_since(self, position: int) -> tuple[bytes, int]:
        """Return the untagged lines that were announced since `position`, and the new position."""
        with self._lock:
            return b"".join(self._news[position:]), len(self._news)

    def watch(self, watcher: Callable[[], None]) -> None:
        with self._lock:
            self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._watchers.remove(watcher)

    def _announce(self, line: bytes, announce: bool) -> None:
        if not (announce and self.announcing):
            return
        with self._lock:
            self._news.append(line)
            watchers = list(self._watchers)
        for watcher in watchers:  # outside the lock: each takes its connection's own
            watcher()


class Received(NamedTuple):
    """One command as it came, literals and CRLF included; `at` is `time.monotonic()`."""

    at: float
    line: bytes


class _OverError(Exception):
    """The conversation has ended; its thread unwinds."""


class Wire:
    """One TCP connection, with TLS or without, and all that can be done with it and to it.

    What ends it raises `_OverError` in its own thread and returns in any other.
    """

    def __init__(self, server: "ScriptedImap", sock: socket.socket, number: int) -> None:
        self.server = server
        self.number = number
        """1 for the server's first connection."""
        self.closed: str | None = None
        """Who or what ended it: "client", "logout", "fin", "truncate", "close_notify", "rst",
        "silence", "server" (its end), "tls", "stalled" or "error"; None while it goes on."""
        self.sent_bytes = 0
        """Application bytes sent: lines, not TLS records."""
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls: ssl.SSLObject | None = None
        self._from_client, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._held: list[bytearray] = []
        self._output = threading.RLock()  # guards the order of output, and the TLS object
        self._life = threading.Lock()  # guards the socket against use after its close
        self._gone = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"scripted-imap-{number}")
        self.thread.daemon = True

    @property
    def open(self) -> bool:
        """Whether the TCP connection still stands on this side."""
        return not self._gone.is_set()

    def _run(self) -> None:
        try:
            self._converse()
        except _OverError:
            pass
        except Exception as error:  # an action's failure is the test's failure
            self.server.errors.append(error)
            self._mark("error")
        finally:
            with contextlib.suppress(_OverError):
                self._linger()
            self._close()

    def _converse(self) -> None:
        raise NotImplementedError

    # Sending

    def send(self, data: bytes) -> None:
        """Send `data` as it is: one TLS record and one segment, unless it is held by `glue`."""
        with self._output:
            if self._held:
                self._held[-1] += data
            else:
                self._transmit(data)

    @contextlib.contextmanager
    def glue(self, change: Callable[[bytes], bytes] = bytes) -> Iterator[None]:
        """Hold back what is sent meanwhile and send it as one segment, passed through `change`."""
        with self._output:
            self._held.append(bytearray())
        try:
            yield
        finally:
            with self._output:
                held = self._held.pop()
                if held and not self.closed:
                    self.send(change(bytes(held)))

    def send_split(self, data: bytes, size: int = 1, pause_seconds: float = 0.0) -> None:
        """Send `data` in pieces of `size` bytes, each in a TLS record and a segment of its own."""
        self._flush()
        for piece in _pieces(data, size):
            if not self._transmit(piece) or self.pause(pause_seconds):
                return

    def send_segments(self, data: bytes, size: int = 1, pause_seconds: float = 0.0) -> None:
        """Send `data` as one TLS record whose ciphertext goes out in segments of `size` bytes."""
        self._flush()
        with self._output:
            for piece in _pieces(self._encrypt(data), size):
                self.send_raw(piece)
                if self.pause(pause_seconds):
                    return

    def send_partial_record(self, data: bytes) -> bytes:
        """Send half of the TLS record of `data`; return the rest, for `send_raw`.

        Nothing else may be sent before the rest, or the client sees a broken record.
        """
        self._flush()
        with self._output:
            record = self._encrypt(data)
            self.send_raw(record[: len(record) // 2])
        return record[len(record) // 2 :]

    def send_raw(self, data: bytes) -> None:
        """Put bytes on the wire as they are, outside any TLS record."""
        self._flush()
        with self._output:
            if not self._stopped():
                self._write(data)

    def drip(self, data: bytes, every_seconds: float = 0.05, size: int = 1) -> None:
        """Send `data` over and over, `size` bytes at a time, until the connection ends."""
        self._flush()
        for piece in itertools.cycle(_pieces(data, size)):
            if not self._transmit(piece) or self.pause(every_seconds):
                return

    def flood(self, data: bytes, max_bytes: int = 1 << 30) -> None:
        """Send `data` over and over, as fast as it is taken, for at most about `max_bytes`."""
        self._flush()
        block = data * (65536 // len(data) + 1)
        for _ in range(max_bytes // len(block) + 1):
            if not self._transmit(block):
                return

    def pause(self, seconds: float) -> bool:
        """Do nothing for so long; return at once, with True, when the connection ends."""
        if seconds and not self._stopped() and self._poll(select.POLLRDHUP, seconds):
            self._mark("client")
        return self._stopped()

    # Ending

    def fin(self, notify: bool = True, how: str = "fin") -> None:
        """Close by FIN, with TLS's close_notify before it unless `notify` is False."""
        self._flush()
        with self._output:
            self._mark(how, by_test=True)
            if notify:
                self._write_close_notify()
            self._shutdown(socket.SHUT_WR)
        self._stopped()

    def close_notify(self) -> None:
        """End TLS by its close_notify, and leave the TCP connection open."""
        self._flush()
        with self._output:
            self._mark("close_notify", by_test=True)
            self._write_close_notify()
        self._stopped()

    def rst(self) -> None:
        """Reset the TCP connection."""
        self._flush()
        self._mark("rst", by_test=True)
        self._shutdown(socket.SHUT_RD)  # sends nothing, but wakes the thread that must close it
        self._stopped()

    def silence(self) -> None:
        """Read, answer and announce nothing any more, and leave the TCP connection open."""
        self._flush()
        self._mark("silence", by_test=True)
        self._stopped()

    def end(self, how: str) -> None:
        """End in the way that `closed` will name."""
        if how in ("fin", "truncate"):
            self.fin(notify=how == "fin", how=how)
        else:
            {"rst": self.rst, "silence": self.silence, "close_notify": self.close_notify}[how]()

    def stop(self) -> None:
        """Wake the thread, wherever it waits, and let it end. For the server."""
        self._mark("server")
        self._shutdown(socket.SHUT_RDWR)

    # Bytes in

    def _receive(self) -> bytes:
        data = b""
        while not (plain := self._decrypt(data)):
            data = self._receive_raw()
        return plain

    def _receive_raw(self) -> bytes:
        self._poll(select.POLLIN)
        try:
            data = self._socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._mark("client")
        self._stopped()
        return data

    # Bytes out

    def _transmit(self, data: bytes) -> bool:
        """Encrypt and write `data`, or as much of it as a cut lets through; False once ended."""
        with self._output:
            if self._stopped():
                return False
            cut = self.server.cut
            if not cut or not cut.applies_to(self):
                self._write(self._encrypt(data))
                return not self._stopped()
            self._write(self._encrypt(data[: cut.n_bytes - self.sent_bytes]))
            if self.sent_bytes == cut.n_bytes:
                cut.fire(self)
            return not self._stopped()

    def _encrypt(self, data: bytes) -> bytes:
        self.sent_bytes += len(data)
        if not self._tls or not data:
            return data
        self._tls.write(data)
        return self._to_client.read()

    def _decrypt(self, data: bytes) -> bytes:
        if not self._tls:
            return data
        plain = b""
        with self._output:
            self._from_client.write(data)
            try:
                while chunk := self._tls.read(65536):
                    plain += chunk
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self._mark("client")
            except ssl.SSLError:
                self._mark("tls")
        if not plain:
            self._stopped()
        return plain

    def _handshake(self, context: ssl.SSLContext) -> None:
        tls = context.wrap_bio(self._from_client, self._to_client, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._write(self._to_client.read())
                self._from_client.write(self._receive_raw())
            except ssl.SSLError:
                self._write(self._to_client.read())  # the alert
                self._mark("tls")
                self._stopped()
            else:
                self._write(self._to_client.read())
                self._tls = tls
                return

    def _write_close_notify(self) -> None:
        if self._tls:
            with contextlib.suppress(ssl.SSLError):  # the client's own close_notify is not awaited
                self._tls.unwrap()
            self._write(self._to_client.read())

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                events = self._poll(select.POLLOUT | select.POLLRDHUP, STALLED_SECONDS)
                if events != select.POLLOUT:
                    self._mark("client" if events else "stalled")
                    break
            except OSError:
                self._mark("client")
                break

    def _flush(self) -> None:
        """Send what is held: what follows must not overtake it."""
        with self._output:
            held = b"".join(self._held)
            for buffer in self._held:
                buffer.clear()
            if held:
                self._transmit(held)

    # The socket's life

    def _poll(self, events: int, seconds: float | None = None) -> int:
        poller = select.poll()
        poller.register(self._socket, events)
        found = poller.poll(None if seconds is None else seconds * 1000)
        return found[0][1] if found else 0

    def _stopped(self) -> bool:
        """Say whether the conversation has ended; its own thread leaves it here."""
        if self.closed and threading.current_thread() is self.thread:
            raise _OverError
        return self.closed is not None

    def _mark(self, how: str, by_test: bool = False) -> None:
        if self.closed is None or (by_test and self.open):
            self.closed = how
        self.server.notify()

    def _shutdown(self, how: int) -> None:
        with self._life, contextlib.suppress(OSError):
            self._socket.shutdown(how)

    def _linger(self) -> None:
        """After an end that leaves the TCP connection standing, wait for the client's."""
        if self.closed == "silence":
            self._poll(select.POLLRDHUP)
        elif self.closed in ("fin", "truncate", "logout", "close_notify"):
            with contextlib.suppress(OSError):
                while self._poll(select.POLLIN) and self._socket.recv(65536):
                    pass

    def _close(self) -> None:
        with self._output, self._life:
            if self.closed == "rst":
                reset = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self._socket.close()
        self._gone.set()
        self.server.notify()


@dataclass
class CutAfter:
    """End a connection after exactly `n_bytes` application bytes, wherever in a line that is.

    `how` is "fin", "truncate" (FIN without close_notify), "rst", "silence" or "close_notify".
    `callback` is called after the last byte and before the client can know of the end.
    The first connection is cut, or with `every` each of them.
    """

    n_bytes: int
    how: str
    callback: Callable[[], object] | None = None
    every: bool = False
    fired: threading.Event = field(default_factory=threading.Event)

    def applies_to(self, connection: Wire) -> bool:
        return self.every or connection.number == 1

    def fire(self, connection: Wire) -> None:
        connection.closed = self.how  # nothing that the callback does goes out over it
        if self.callback:
            self.callback()
        self.fired.set()
        connection.end(self.how)


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

    def _act(self, script: "_Script") -> bool:
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
            with self._output, contextlib.suppress(_OverError):  # the next watcher is told, too
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


def bearer(message: bytes) -> tuple[str, str]:
    """User name and token in what XOAUTH2 and OAUTHBEARER say first; empty where there is none."""
    first, *rest = message.decode().split("\x01")
    user = first.removeprefix("user=") if first.startswith("user=") else first.split(",")[1][2:]
    tokens = [part.removeprefix("auth=Bearer ") for part in rest if part.startswith("auth=")]
    return user.replace("=2C", ",").replace("=3D", "="), tokens[0] if tokens else ""


def gmail_refuses(connection: Connection) -> bool:
    """The error in a challenge, and NO once that is answered."""
    connection.challenge(GMAIL_ERROR)
    return connection.answer(GMAIL_NO)


Action = Callable[[Connection], object] | bytes


@dataclass
class _Script:
    """What a test wants done at a step, and how many times more (None: always)."""

    act: Callable[[Any], Any]
    times: int | None
    glued: bool = False
    instead: bool = False


@dataclass(kw_only=True, eq=False)
class ScriptedImap:
    """An IMAP server on a loopback port: with implicit TLS, with STARTTLS, or neither.

    The settings may be changed while it runs.
    """

    mailboxes: Mailbox | Mapping[str, Mailbox] = field(kw_only=False)
    """One INBOX for everybody, or one for each user name."""
    tls_context: ssl.SSLContext | None = None
    """For TLS from the first byte."""
    starttls_context: ssl.SSLContext | None = None
    """For TLS by STARTTLS, which is then offered."""
    users: Mapping[str, str] = field(default_factory=lambda: {"user@example.org": "secret"})
    """User names and their passwords."""
    takes_token: Callable[[str, str], bool] = lambda _login, _token: False
    """Whether a token is good for a user name."""
    refuse_token: Callable[["Connection"], object] = gmail_refuses
    """What follows one that is not."""
    capabilities_before_login: Sequence[str] = ("IMAP4rev1", "ID", "SASL-IR", "AUTH=PLAIN")
    capabilities_after_login: Sequence[str] = ("IMAP4rev1", "ID", "LITERAL+", "IDLE")
    capability_code_in: Sequence[str] = ("greeting", "login")
    """The answers that carry [CAPABILITY …] of their own accord."""
    tell_uidnext: bool = True
    cut: CutAfter | None = None
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        self.connections: list[Connection] = []
        self.errors: list[Exception] = []
        self._scripts: dict[tuple[str, str], list[_Script]] = defaultdict(list)
        self._changed = threading.Condition()
        self._stopping = False
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="scripted-imap", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if self.errors and kind is None:
            raise ExceptionGroup("actions of the scripted server failed", self.errors)

    def close(self) -> None:
        """End every connection and thread."""
        with self._changed:
            self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(WAIT_SECONDS)
        self._listener.close()
        for connection in self.connections:
            connection.stop()
        deadline = time.monotonic() + WAIT_SECONDS
        for connection in self.connections:
            connection.thread.join(max(0.0, deadline - time.monotonic()))
        alive = [each.thread.name for each in self.connections if each.thread.is_alive()]
        assert not alive, f"still running: {alive}"

    # Scripts

    def on(
        self,
        step: str,
        action: Action,
        *,
        times: int | None = None,
        glued: bool = False,
        instead: bool = False,
        when: str = "before",
    ) -> None:
        """At each `step`, or the next `times`, do `action` before the default answer.

        An action is bytes to send, or is called with the connection. `instead`, or an action that
        returns False, leaves the default answer out, and the connection's state as it was.
        `glued`: what the action sends goes out in one segment with the default answer.
        "idling" is the same as after "idle".
        """
        if step == "idling":
            step, when = "idle", "after"
        act = action if callable(action) else lambda connection: connection.send(action)
        self._add(step, when, _Script(act, times, glued, instead))

    def after(
        self, step: str, action: Action, *, times: int | None = None, glued: bool = False
    ) -> None:
        """As `on`, but after the default answer."""
        self.on(step, action, times=times, glued=glued, when="after")

    def rewrite(
        self, step: str, change: Callable[[bytes], bytes], *, times: int | None = None
    ) -> None:
        """Pass the default answer of `step`, whole, through `change`, and send the result."""
        self._add(step, "change", _Script(change, times))

    def off(self, step: str) -> None:
        """Forget what was scripted for `step`."""
        with self._changed:
            for when in ("before", "change", "after"):
                self._scripts.pop((step, when), None)

    def take(self, step: str, when: str) -> list[_Script]:
        """Return the scripts that are due now, counted as used. For connections."""
        with self._changed:
            due = [each for each in self._scripts[step, when] if each.times != 0]
            for script in due:
                if script.times is not None:
                    script.times -= 1
            return due

    def _add(self, step: str, when: str, script: _Script) -> None:
        assert step in STEPS, step
        with self._changed:
            self._scripts[step, when].append(script)

    # What can be seen and waited for

    @property
    def connects(self) -> int:
        return len(self.connections)

    @property
    def idling(self) -> list[Connection]:
        return [connection for connection in list(self.connections) if connection.idling]

    def wait_until(self, condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
        """Wait for something to come true that a connection, a command or a state brings about."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), "did not come true in time"

    def wait_for_connections(self, n: int, seconds: float = WAIT_SECONDS) -> None:
        self.wait_until(lambda: self.connects >= n, seconds)

    def wait_for_idling(self, n: int = 1, seconds: float = WAIT_SECONDS) -> None:
        self.wait_until(lambda: len(self.idling) >= n, seconds)

    def notify(self) -> None:
        """Let `wait_until` look again. For connections."""
        with self._changed:
            self._changed.notify_all()

    def mailbox_of(self, login: str) -> Mailbox | None:
        if isinstance(self.mailboxes, Mailbox):
            return self.mailboxes
        return self.mailboxes.get(login)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if not self._stopping:
                    self.errors.append(error)
                return
            with self._changed:
                if self._stopping:
                    sock.close()
                    return
                connection = Connection(self, sock, len(self.connections) + 1)
                self.connections.append(connection)
                self._changed.notify_all()
            connection.thread.start()


def parse_command(command: bytes) -> list[bytes]:
    """Split a command into tag, name and arguments; atoms, quoted strings and literals alike.

    Returns fewer than two words when it is none.
    """
    words: list[bytes] = []
    text = command.removesuffix(b"\n").removesuffix(b"\r")
    at = 0
    while at < len(text):
        if literal := LITERAL.match(text, at):
            end = literal.end() + int(literal[1])
            words.append(text[literal.end() : end])
        elif quoted := QUOTED.match(text, at):
            end = quoted.end()
            words.append(re.sub(rb"\\(.)", rb"\1", quoted[1]))
        elif atom := ATOM.match(text, at):
            end = atom.end()
            words.append(atom[0])
        else:
            return []
        at = end + (text[end : end + 1] == b" ")
    return words


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
