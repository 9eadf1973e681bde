"""IMAPClient on our own stream: the methods that imaplib names as made for overriding.

In IDLE each line is read here for its meaning, and IMAPClient gets only those that it can read;
what was announced is kept in `IdleEvents`, whichever call happened to read it. RFC 2177 is IDLE,
RFC 9051 IMAP.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from imapclient.tls import IMAP4_TLS

from . import greeting
from .addresses import Address
from .answers import in_plain_form, is_expunge, is_unwanted, replaces_last
from .capabilities import union
from .credentials import quoted
from .events import IdleEvents, Phase
from .responses import TAGGED, Kind, Line, read_line
from .stream import Stream

QUOTED_BYTES = 2000

# Names that imaplib and IMAPClient do not document, and what they are used for, here and in
# `imap.client`; a test holds them.
PRIVATE_NAMES = {
    "IMAP4._simple_command": "send a command and wait for its answer (LOGIN, STARTTLS, ID)",
    "IMAP4._command": "send a command and do not wait (LOGOUT)",
    "IMAP4._get_capabilities": "ask again after STARTTLS",
    "IMAP4._refresh_capabilities": "overridden: from Python 3.14 on a login would ask once more",
    "IMAP4._log": "overridden: it would keep LOGIN with its password",
    "IMAP4.tagged_commands": "forget an IDLE that the server ended by itself",
    "IMAP4._tls_established": "told that STARTTLS is done",
    "IMAP4.tagpre": "with tagnum, the tag of the last command",
    "IMAP4.tagnum": "with tagpre, the tag of the last command",
    "IMAP4.mo": "let go of the last match, which holds two kilobytes",
    "IMAPClient._imap": "the transport",
    "IMAPClient._create_IMAP4": "overridden: makes the transport",
    "IMAPClient._poll_socket": "overridden: a whole line may be at hand already",
}

# Objects share the names of their dicts where each gets them in one go, up to some 20 (PEP 412).
# imaplib adds some while it connects, and newer ones have more; each dict would take 1.2 KiB.
SLOTS_FOR_IMAPLIB = (
    *("PROTOCOL_VERSION", "_cmd_log", "_cmd_log_idx", "_cmd_log_len", "capabilities"),
    *("mo", "tagpre", "tagre", "welcome"),
    *("_idle_capture", "_idle_responses", "_readbuf"),  # from Python 3.14 on
)

_EVENTS = (Kind.EXISTS, Kind.EXPUNGE, Kind.UNREADABLE)


class Transport(IMAP4_TLS):  # type: ignore[misc]  # imapclient has no types
    """imaplib's protocol over a `Stream`; implicit TLS unless ``tls`` is False."""

    __slots__ = (
        *SLOTS_FOR_IMAPLIB,
        *("_addresses", "_has_announced", "_implicit_tls", "_phase"),
        *("events", "has_expunged", "stream"),
    )

    def __init__(
        self,
        host: str,
        addresses: list[Address],
        stream: Stream,
        events: IdleEvents,
        context: ssl.SSLContext,
        tls: bool,
    ) -> None:
        self.stream = stream
        self.events = events
        self._addresses = addresses
        self._implicit_tls = tls
        self._phase = Phase.ANSWERS
        self._has_announced = False
        self.has_expunged = False
        """Whether an EXPUNGE stood in an answer since this was set last."""
        super().__init__(host, ssl_context=context)

    @property
    def sock(self) -> Any:
        """The stream's socket."""
        return self.stream.sock

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.stream.connect(self._addresses)
        if self._implicit_tls:
            self.stream.secure(self.ssl_context, host, greeting.refuse_plain_text)
        self.stream.restart_deadline()

    def starttls(self, ssl_context: ssl.SSLContext | None = None) -> tuple[str, list[bytes]]:
        """STARTTLS; what was said before it counts for nothing (RFC 9051, section 6.2.1)."""
        typ, data = self._simple_command("STARTTLS")
        if typ != "OK":
            raise self.error(f"STARTTLS refused: {data!r}")
        self.stream.secure(ssl_context or self.ssl_context, self.host)
        self.events.lines, self.events.bye = [], ""
        self.untagged_responses: dict[str, list[bytes]] = {}
        self._tls_established = True
        self._get_capabilities()
        return typ, data

    def capability(self) -> tuple[str, list[Any]]:
        """CAPABILITY, asked for only where the server did not volunteer it in its greeting."""
        told = self.untagged_responses.pop("CAPABILITY", None)
        typ, told = ("OK", told) if told else super().capability()
        return typ, union(told) if typ == "OK" else told

    def login(self, user: str, password: str) -> Any:
        """LOGIN with both quoted; imaplib's own does not quote the user name on every Python.

        A password beyond ASCII goes as a literal (RFC 9051, section 4.3); quoted strings hold no
        8-bit characters before ENABLE.
        """
        if password.isascii():
            typ, data = self._simple_command("LOGIN", quoted(user), quoted(password))
        else:
            self.literal = password.encode()
            typ, data = self._simple_command("LOGIN", quoted(user))
        if typ != "OK":
            raise self.error(data[-1])
        self.state = "AUTH"
        return typ, data

    def _refresh_capabilities(self, consume: bool = False) -> None:
        """Ask at the start, and not after a login, as Python 3.14 would: IMAPClient asks then."""
        if not hasattr(self, "capabilities"):
            self._get_capabilities()

    def send_id(self, fields: str) -> None:
        """ID (RFC 2971)."""
        self.if_known(self._simple_command, "ID", fields)

    def if_known(self, command: Callable[..., Any], *args: str) -> object:
        """What a command answers that a server need not know; None where it refuses it."""
        try:
            return command(*args)[1]
        except self.abort:
            raise
        except self.error:
            return None

    @property
    def _last_tag(self) -> bytes:
        """The tag of the last command; in IDLE it is IDLE's."""
        tag: bytes = self.tagpre + b"%d" % (self.tagnum - 1)
        return tag

    def send(self, data: bytes) -> None:
        self.events.last, self.events.answered = b"", False
        self.stream.send(data)

    def read(self, size: int) -> bytes:
        return self.stream.exactly(size)

    def readline(self) -> bytes:
        """The next line that imaplib and IMAPClient are to see; empty at the end of the stream.

        Raises:
            TimeoutError: in IDLE, when no further line is at hand; `idle_check` returns then.
        """
        if self._phase is Phase.IDLING:
            return self._announcement_at_hand()
        if self._phase is Phase.ANSWERS:
            return self._answer_line()
        return in_plain_form(self._idle_line())

    def shutdown(self) -> None:
        self.stream.close()

    def _log(self, line: str) -> None:
        """imaplib keeps the last lines, LOGIN with its password among them; this does not."""

    def begin_phase(self, phase: Phase) -> None:
        """What is read from now on are the lines of that phase."""
        self._phase, self._has_announced = phase, False

    def forget_answers(self) -> None:
        """Let go of what was read up to now: imaplib keeps two kilobytes of it."""
        self.untagged_responses.clear()
        self.mo, self.welcome = None, b""

    def log_out(self, from_idle: bool, wait: bool) -> None:
        """DONE where it is due, and LOGOUT; read on to their answers or the end if ``wait``."""
        if from_idle:
            self.stream.send(b"DONE\r\n")
            self._skip_untagged(wait)
        self._command("LOGOUT")
        self._skip_untagged(wait)

    def _skip_untagged(self, wait: bool) -> None:
        while wait and self.stream.line().startswith(b"* "):
            pass

    def _answer_line(self) -> bytes:
        """The next line that tells anything."""
        if self.state == "LOGOUT":  # what imaplib calls the time before the greeting
            context = None if self._implicit_tls else self.ssl_context
            return in_plain_form(greeting.first_line(self.stream, self._note, context, self.host))
        exists = self.untagged_responses.get("EXISTS", [])
        while is_unwanted(line := self.stream.line()) or replaces_last(exists, line):
            self.stream.answer.not_kept(len(line))
            self.has_expunged |= is_expunge(line)
        self.stream.answer.line_kept()
        return self._note(in_plain_form(line))

    def _idle_line(self) -> bytes:
        """The next line, while IDLE begins or ends, that IMAPClient is to see."""
        while raw := self.stream.line():
            kind = self._hear(raw).kind
            if kind is not Kind.UNREADABLE:
                self.stream.answer.not_kept(len(raw))
            if kind is Kind.BYE:
                return b"* BYE\r\n"
            if kind is Kind.TAGGED:
                return raw
            if kind is Kind.CONTINUATION and self._phase is Phase.IDLE_BEGINS:
                return raw
        return b""

    def _announcement_at_hand(self) -> bytes:
        """The first EXISTS of those received; the other lines are only taken in.

        At the end of the stream it is as if nothing more had come: IMAPClient keeps the error that
        imaplib raises there in a frame that the error holds, and with both the whole session.
        """
        while raw := self.stream.line_at_hand():
            line = self._hear(raw)
            if line.kind is Kind.TAGGED:
                self.events.idle_over = True
                self.tagged_commands.pop(self._last_tag, None)
            elif line.kind is Kind.EXISTS and not self._has_announced:
                self._has_announced = True
                return b"* %d EXISTS\r\n" % line.number
        raise TimeoutError("no further line is at hand")

    def _hear(self, raw: bytes) -> Line:
        """Take in a line of an IDLE; what it is, TAGGED where it is IDLE's own answer."""
        line = read_line(self._note(raw).rstrip(b"\r\n"))
        if line.kind is Kind.TAGGED and not self.events.answered:
            line = Line(Kind.UNREADABLE)
        if line.kind is Kind.UNREADABLE:
            line = line._replace(text=raw)
        if line.kind in _EVENTS:
            self.events.add(Line(Kind.EXPUNGE, 1) if line.kind is Kind.EXPUNGE else line)
        return line

    def _note(self, raw: bytes) -> bytes:
        """Keep what a log line may want to quote, and whether it is the last command's answer."""
        tagged = TAGGED.match(shown := raw.rstrip(b"\r\n"))
        tag = tagged[1].upper() if tagged else b""
        self.events.answered = tag == self._last_tag
        if tag.startswith(self.tagpre):
            shown = shown[len(tag) :].lstrip()
        self.events.last = shown[:QUOTED_BYTES] or self.events.last
        if b"BYE" in raw[:16].upper() and (line := read_line(raw.rstrip(b"\r\n"))).kind is Kind.BYE:
            self.events.bye = line.text.decode("utf-8", "replace").strip() or "without a reason"
        return raw
