"""IMAPClient on our own stream: the methods that imaplib names as made for overriding.

`Transport` replaces imaplib's socket and reader (`open`, `read`, `readline`, `send`, `shutdown`)
and its start (`_connect`), `Client` makes IMAPClient use it. In IDLE each line is read here for its
meaning, and imaplib gets only those that begin and end it; what was heard is kept in `IdleEvents`,
whichever call happened to read it. RFC 2177 is IDLE, RFC 9051 IMAP.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import imapclient
from imapclient.tls import IMAP4_TLS

from .addresses import Address
from .responses import Kind, Line, read_line
from .stream import Stream

# What is kept of one portion, or of one answer, after it was put together.
MOST_HEARD = 1000


_TAG = b"REBREAK"
_TAGGED = re.compile(rb"(?P<tag>REBREAK\d+) (?P<type>[A-Z]+) (?P<data>.*)", re.ASCII)
_HEARD = (Kind.EXISTS, Kind.EXPUNGE, Kind.UNREADABLE)
_KEYWORD = re.compile(rb"\* (?:[0-9]+ )?[A-Za-z-]+")


@dataclass(slots=True)
class IdleEvents:
    """What a server said that matters to the session, whichever call read it."""

    lines: list[Line] = field(default_factory=list)
    """EXISTS, EXPUNGE and unreadable lines since somebody last took them."""
    bye: str = ""
    """The server's words when it hung up."""
    idle_over: bool = False
    """The server ended the last IDLE by itself."""
    last: bytes = b""
    """The last line of all."""

    def add(self, line: Line) -> bool:
        """Keep what the line says, in as little room as it takes; False when it is too much.

        Growing EXISTS need only the last, EXPUNGE their number, and of what is unreadable the
        first tells enough.
        """
        last = self.lines[-1] if self.lines else None
        if last is None or last.kind is not line.kind:
            self.lines.append(line)
        elif line.kind is Kind.EXPUNGE:
            self.lines[-1] = Line(Kind.EXPUNGE, last.number + line.number)
        elif line.kind is Kind.EXISTS and line.number < last.number:
            self.lines.append(line)
        elif line.kind is Kind.EXISTS:
            self.lines[-1] = line
        return len(self.lines) <= MOST_HEARD

    def take(self) -> list[Line]:
        """The lines so far; each is handed out once. The number of EXPUNGE is how many."""
        lines, self.lines = self.lines, []
        return lines


class _NoSocket:
    """What IMAPClient takes for the socket: it may set time-outs, which belong to the stream."""

    def settimeout(self, seconds: float | None) -> None: ...
    def setblocking(self, flag: bool) -> None: ...


_NO_SOCKET = _NoSocket()


class Reading(Enum):
    """What the lines are that are read now."""

    ANSWERS = auto()
    IDLE_BEGINS = auto()
    """Up to the continuation, which means something only here."""
    IDLE_ENDS = auto()


class _Own:
    """What imaplib knows nothing of.

    In slots: imaplib's own attributes are just few enough for Python to keep their names once for
    all instances, which saves a kilobyte for each.
    """

    __slots__ = (
        "_addresses", "_idle_tag", "_implicit_tls", "_reading", "hearing", "stream",
    )  # fmt: skip


class Transport(_Own, IMAP4_TLS):  # type: ignore[misc]  # imapclient has no types
    """imaplib's protocol over a `Stream`; implicit TLS unless ``starttls``."""

    def __init__(
        self,
        host: str,
        addresses: list[Address],
        stream: Stream,
        hearing: IdleEvents,
        context: ssl.SSLContext,
        tls: bool,
    ) -> None:
        self.stream = stream
        self.hearing = hearing
        self._addresses = addresses
        self._implicit_tls = tls
        self._reading = Reading.ANSWERS
        self._idle_tag = b""
        super().__init__(host, ssl_context=context)

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.stream.connect(self._addresses)
        if self._implicit_tls:
            self.stream.secure(self.ssl_context, host)
        self.stream.restart_deadline()

    def _connect(self) -> None:
        """Read the greeting.

        imaplib makes up a tag for each connection, and compiles an expression that matches it: a
        third of a millisecond and two kilobytes, for tags that need to be unique within their
        connection only (RFC 9051, section 2.2.1).
        """
        self.tagpre, self.tagre = _TAG, _TAGGED
        self.welcome = self._get_response()
        if "PREAUTH" in self.untagged_responses:
            self.state = "AUTH"
        elif "OK" in self.untagged_responses:
            self.state = "NONAUTH"
        else:
            raise self.error(self.welcome)
        self._get_capabilities()
        if "IMAP4REV1" not in self.capabilities:
            raise self.error("server not IMAP4rev1 compliant")

    def starttls(self, ssl_context: ssl.SSLContext | None = None) -> tuple[str, list[bytes]]:
        """STARTTLS; what was said before it counts for nothing (RFC 9051, section 6.2.1)."""
        typ, data = self._simple_command("STARTTLS")
        if typ != "OK":
            raise self.error(f"STARTTLS refused: {data!r}")
        self.stream.secure(ssl_context or self.ssl_context, self.host)
        self.hearing.lines, self.hearing.bye = [], ""
        self.untagged_responses: dict[str, list[bytes]] = {}
        self._tls_established = True
        self._get_capabilities()
        return typ, data

    def capability(self) -> tuple[str, list[Any]]:
        """CAPABILITY, asked for only where the server did not volunteer it in its greeting."""
        told = self.untagged_responses.pop("CAPABILITY", None)
        return ("OK", told) if told else super().capability()

    def login(self, user: str, password: str) -> Any:
        """LOGIN with both quoted alike on each Python, and what is not ASCII in UTF-8.

        A password beyond ASCII goes as a literal (RFC 9051, section 4.3); quoted strings hold no
        8-bit characters before ENABLE.
        """
        arguments = [_quoted(user)]
        if password.isascii():
            arguments.append(_quoted(password))
        else:
            self.literal = password.encode()
        typ, data = self._simple_command("LOGIN", *arguments)
        if typ != "OK":
            raise self.error(data[-1])
        self.state = "AUTH"
        return typ, data

    def _refresh_capabilities(self, consume: bool = False) -> None:
        """Ask nothing after a login (Python 3.14 does): IMAPClient asks when it wants to know."""

    def examine(self, mailbox: str) -> tuple[list[int], list[int], list[int]]:
        """EXAMINE; all numbers of EXISTS, UIDNEXT and UIDVALIDITY that came with its answer."""
        typ, data = self.select(mailbox, readonly=True)
        if typ != "OK":
            raise self.error(f"EXAMINE refused: {data!r}")
        told = self.untagged_responses
        exists, uidnext, uidvalidity = (
            [int(number) for number in told.get(name, [])]
            for name in ("EXISTS", "UIDNEXT", "UIDVALIDITY")
        )
        return exists, uidnext, uidvalidity

    def send_id(self, fields: str) -> None:
        """Send ID (RFC 2971) and do not wait: its answer is read with the next command's."""
        self._command("ID", fields)

    def send(self, data: bytes) -> None:
        if self._reading is Reading.IDLE_BEGINS:
            self._idle_tag = data.split(b" ", 1)[0]
        self.stream.send(data)

    def read(self, size: int) -> bytes:
        return self.stream.exactly(size)

    def readline(self) -> bytes:
        line = self._plain_line() if self._reading is Reading.ANSWERS else self._idle_line()
        return line.rstrip(b"\r\n") + b"\r\n" if line else b""

    def _plain_line(self) -> bytes:
        """The next line, its keyword in upper case: imaplib knows no other, IMAP allows any."""
        line = self._note(self.stream.line())
        keyword = _KEYWORD.match(line)
        if keyword is None or keyword[0].isupper():
            return line
        return keyword[0].upper() + line[keyword.end() :]

    def shutdown(self) -> None:
        self.stream.close()

    def _log(self, line: str) -> None:
        """imaplib keeps the last lines, LOGIN with its password among them; this does not."""

    def read_as(self, reading: Reading, action: Callable[[], Any]) -> Any:
        """Do what reads the lines of an IDLE."""
        self._reading = reading
        try:
            return action()
        finally:
            self._reading = Reading.ANSWERS

    def forget_answers(self) -> None:
        """Let go of what was read up to now: imaplib keeps two kilobytes of it."""
        self.untagged_responses.clear()
        self.mo, self.welcome = None, b""

    def log_out(self, from_idle: bool) -> None:
        """DONE and LOGOUT in one piece, and read on to the answer or the end."""
        done = b"DONE\r\n" if from_idle else b""
        self.stream.send(done + self._new_tag() + b" LOGOUT\r\n")
        while self.stream.line().startswith((b"* ", self._idle_tag + b" ")):
            pass

    def listen(self, seconds: float) -> None:
        """Wait in IDLE until the server says something, and hear all that came."""
        self.stream.restart_deadline()
        if not self.stream.ready(seconds):
            return
        while raw := self.stream.line_at_hand():
            if self._hear(raw).kind is Kind.TAGGED:
                self.hearing.idle_over = True
                self.tagged_commands.pop(self._idle_tag, None)

    def _idle_line(self) -> bytes:
        """The next line, while IDLE begins or ends, that IMAPClient is to see."""
        while raw := self.stream.line():
            kind = self._hear(raw).kind
            if kind is Kind.BYE:
                return b"* BYE\r\n"
            if kind is Kind.TAGGED:
                return raw
            if kind is Kind.CONTINUATION and self._reading is Reading.IDLE_BEGINS:
                return raw
        return b""

    def _hear(self, raw: bytes) -> Line:
        """Take in a line of an IDLE; what it is, TAGGED where it is IDLE's own answer."""
        line = read_line(self._note(raw).rstrip(b"\r\n"))
        if line.kind is Kind.EXPUNGE:
            line = Line(Kind.EXPUNGE, 1)
        elif line.kind is Kind.UNREADABLE or (
            line.kind is Kind.TAGGED and raw.split(b" ", 1)[0] != self._idle_tag
        ):
            line = Line(Kind.UNREADABLE, text=raw)
        if line.kind in _HEARD and not self.hearing.add(line):
            self.stream.refuse(f"the server said more than {MOST_HEARD} things at once")
        return line

    def _note(self, raw: bytes) -> bytes:
        """Keep what a log line may want to quote."""
        self.hearing.last = raw or self.hearing.last
        if b"BYE" in raw.upper() and (line := read_line(raw.rstrip(b"\r\n"))).kind is Kind.BYE:
            self.hearing.bye = line.text.decode("utf-8", "replace").strip() or "without a reason"
        return raw


def _quoted(text: str) -> bytes:
    """A quoted string (RFC 9051, section 4.3), in UTF-8."""
    return b'"' + re.sub(rb'(["\\\\])', rb"\\\1", text.encode()) + b'"'


class Client(imapclient.IMAPClient):  # type: ignore[misc]  # imapclient has no types
    """IMAPClient over a `Transport`.

    `idle`, `idle_check` and `idle_done` are IMAPClient's own; lines that it could not read never
    reach them, and what `idle_check` would hand out is in the `IdleEvents`.
    """

    def __init__(
        self,
        host: str,
        addresses: list[Address],
        stream: Stream,
        hearing: IdleEvents,
        context: ssl.SSLContext,
        tls: bool,
    ) -> None:
        self._make_transport: Callable[[], Transport] = lambda: Transport(
            host, addresses, stream, hearing, context, tls
        )
        super().__init__(host, ssl=tls, ssl_context=context)
        del self._make_transport
        self._imap.debug = 0

    @property
    def transport(self) -> Transport:
        transport: Transport = self._imap
        return transport

    def _create_IMAP4(self) -> Transport:  # noqa: N802  # IMAPClient's name
        return self._make_transport()

    def socket(self) -> _NoSocket:
        return _NO_SOCKET

    def _set_read_timeout(self) -> None: ...

    def _poll_socket(self, sock: object, timeout: float | None = None) -> bool:
        self._imap.listen(86400.0 if timeout is None else timeout)
        return False

    def idle(self) -> None:
        self.transport.hearing.idle_over = False
        self.transport.read_as(Reading.IDLE_BEGINS, super().idle)
        self.transport.forget_answers()

    def idle_done(self) -> Any:
        return self.transport.read_as(Reading.IDLE_ENDS, super().idle_done)
