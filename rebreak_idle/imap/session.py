"""One IMAP session on INBOX: connect, examine, wait in IDLE, interrupt, close.

Every failure of IMAPClient, imaplib, sockets and TLS leaves here as one of our own errors.
"""

from __future__ import annotations

import base64
import ssl
import time
from contextlib import suppress

from imapclient.exceptions import CapabilityError, IMAPClientError

from .. import __version__
from ..errors import HostUnreachable, LoginRefused, MailboxUnusable, RebreakError, SessionLost
from ..mailbox import Mailbox
from ..wake import Stop
from .addresses import resolve
from .refusals import Blame, classify_refusal
from .responses import Kind, Line, read_line
from .stream import Resumption, Stream, reason
from .transport import Client, IdleEvents
from .uids import Snapshot

# How long a session that is given up may take for DONE and LOGOUT together.
LOGOUT_SECONDS = 3.0


def tls_context() -> ssl.SSLContext:
    """The one context that all sessions share: TLS 1.2 or newer, chains and names verified.

    OpenSSL's SSL_CERT_FILE and SSL_CERT_DIR name a private CA. A context for each connection would
    cost about 900 KiB of memory each.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Flood:
    """Counts what a server makes us do in IDLE, and says when that is too much.

    Honest servers stay far below: the removal of a whole folder's mails comes in a few large
    pieces, announcements come a few in a second.
    """

    WINDOW_SECONDS = 10.0
    MOST_WAKE_UPS = 500
    MOST_BYTES = 256 * 1024

    def __init__(self) -> None:
        self._began_at = 0.0
        self._wake_ups = self._bytes = 0

    def count(self, received_bytes: int) -> str:
        """Count one wake-up; the bound that it exceeds, or empty."""
        now = time.monotonic()
        if now - self._began_at > self.WINDOW_SECONDS:
            self._began_at, self._wake_ups, self._bytes = now, 0, 0
        self._wake_ups += 1
        self._bytes += received_bytes
        if self._wake_ups > self.MOST_WAKE_UPS:
            return f"more than {self.MOST_WAKE_UPS} times {self._window()}"
        if self._bytes > self.MOST_BYTES:
            return f"more than {self.MOST_BYTES} bytes {self._window()}"
        return ""

    def _window(self) -> str:
        return f"within {self.WINDOW_SECONDS:.0f} s in IDLE"


class Connector:
    """Makes sessions; one for the whole program, shared by all threads."""

    def __init__(
        self, context: ssl.SSLContext, timeout_seconds: float, allow_private: bool
    ) -> None:
        self._context = context
        self._timeout_seconds = timeout_seconds
        self._allow_private = allow_private
        self._resumptions: dict[tuple[str, int], Resumption] = {}

    def session(self, mailbox: Mailbox, stop: Stop) -> Session:
        """A session that is still to be opened."""
        server = (mailbox.host.lower(), mailbox.port)
        resumption = self._resumptions.setdefault(server, Resumption())
        stream = Stream(stop, self._timeout_seconds, resumption)
        return Session(mailbox, stream, self._context, self._allow_private)


class Session:
    """One connection to the server of one mailbox. Used by one thread, but for `cut`.

    Every method may raise `SessionLost`, after which only `close` makes sense, and
    `Interrupted` when the mailbox is to stop.
    """

    def __init__(
        self, mailbox: Mailbox, stream: Stream, context: ssl.SSLContext, allow_private: bool
    ) -> None:
        self._mailbox = mailbox
        self._stream = stream
        self._context = context
        self._allow_private = allow_private
        self._hearing = IdleEvents()
        self._client: Client
        self._idling = False
        self._logged_in = False
        self._secrets: tuple[str, ...] = ()
        self._flood = _Flood()

    def open(self, password: str) -> None:
        """Connect, secure the connection and log in.

        Raises:
            LoginRefused: the server answered NO to the credentials.
            MailboxUnusable: user name or password cannot be sent at all.
        """
        username = self._mailbox.username
        _refuse_control_characters(username, password)
        self._secrets = _forms(username, password)  # a greeting may say them back already
        self.connect()
        self.login(password)

    def connect(self) -> None:
        """Connect and secure the connection.

        Raises:
            HostUnreachable: it did not come about.
        """
        try:
            with self._translated(f"connecting to {self._mailbox.host}:{self._mailbox.port}"):
                self._connect()
        except SessionLost as error:
            raise HostUnreachable(str(error)) from error

    def login(self, password: str) -> None:
        """Log in; raises what `open` does."""
        username = self._mailbox.username
        _refuse_control_characters(username, password)
        self._secrets = _forms(username, password)
        with self._translated("logging in"):
            self._login(username, password)
            self._introduce()
            self._stream.keep_tls_session()
        self._logged_in = True

    @property
    def offers_idle(self) -> bool:
        """Asked after login: some servers show IDLE only then."""
        with self._translated("asking for capabilities"):
            return bool(self._client.has_capability("IDLE"))

    def examine(self) -> Snapshot:
        """EXAMINE INBOX (read-only, RFC 9051, section 6.3.3).

        An answer with more than one EXISTS mixes news of the selection before or after it with its
        own: then nobody can say what UIDNEXT includes, and it counts as not told.
        """
        with self._translated("examining INBOX"):
            counts, uidnext, uidvalidity = self._client.transport.examine("INBOX")
        return Snapshot(
            exists=counts[-1] if counts else 0,
            uidnext=uidnext[-1] if uidnext and len(counts) == 1 else None,
            uidvalidity=uidvalidity[-1] if uidvalidity else None,
        )

    def start_idle(self) -> bool:
        """IDLE (RFC 2177); False when the server answers NO or BAD to it.

        What the server says before it agrees is kept for `wait`.
        """
        self._idling = True
        with self._translated("starting IDLE"):
            try:
                self._client.idle()
            except IMAPClientError:
                if read_line(self._hearing.last.rstrip()).kind is not Kind.TAGGED:
                    raise
                self._idling = False
        return self._idling

    def wait(self, seconds: float) -> list[Line]:
        """What the server says in IDLE; empty when it said nothing of interest for ``seconds``.

        May return early and empty.
        """
        hearing, stream = self._hearing, self._stream
        with self._translated("in IDLE"):
            self._client.idle_check(0 if hearing.lines or hearing.bye else seconds)
        if bound := self._flood.count(stream.answer_bytes):
            stream.ended = f"provider trouble: the server floods us, it sent {bound}"
            raise SessionLost(stream.ended)
        if hearing.idle_over:
            self._idling = False
        if hearing.lines:
            return self.take_events()
        if hearing.bye or stream.ended:
            raise SessionLost(self._why_ended())
        return []

    @property
    def idling(self) -> bool:
        """False also after the server ended IDLE by itself."""
        return self._idling

    def end_idle(self) -> list[Line]:
        """DONE; returns what was announced up to its answer."""
        with self._translated("ending IDLE"):
            if self._idling:
                self._idling = False
                self._client.idle_done()
            elif self._hearing.idle_over:
                self._client.idle_check(0)  # what came after the end
        return self.take_events()

    def take_events(self) -> list[Line]:
        """What was announced and not yet handed over; also after the session broke."""
        return [
            line._replace(text=self._redacted_bytes(line.text)) if line.text else line
            for line in self._hearing.take()
        ]

    def close(self) -> None:
        """Log out where the server still answers, and close; at most three seconds."""
        self._stream.begin_logout(LOGOUT_SECONDS)
        with suppress(RebreakError):
            if self._logged_in and not self._stream.ended:
                with self._translated("logging out"):
                    self._client.transport.log_out(self._idling)
        self._stream.close()

    def cut(self) -> None:
        """Free a thread that hangs in this session. Any thread may call."""
        self._stream.cut()

    def _connect(self) -> None:
        mailbox = self._mailbox
        addresses = resolve(mailbox.host, mailbox.port, self._allow_private)
        tls = not mailbox.starttls
        self._client = Client(
            mailbox.host, addresses, self._stream, self._hearing, self._context, tls
        )
        if self._client.transport.state != "NONAUTH":
            raise SessionLost(
                "the server greets as logged in already (PREAUTH), which is not trusted"
            )
        if mailbox.starttls:
            try:
                self._client.starttls(self._context)
            except CapabilityError as error:
                raise SessionLost(
                    "the server offers no STARTTLS, and a password never goes out in plain text: "
                    "fix imap_port or imap_security in the row"
                ) from error

    def _login(self, username: str, password: str) -> None:
        """LOGIN takes one round trip, AUTHENTICATE PLAIN two; the latter for what LOGIN cannot."""
        offered = self._client.transport.capabilities
        plain = "AUTH=PLAIN" in offered
        if "LOGINDISABLED" in offered and not plain:
            raise LoginRefused("the server takes neither LOGIN nor AUTHENTICATE PLAIN here")
        try:
            if plain and ("LOGINDISABLED" in offered or not (username + password).isascii()):
                self._client.plain_login(username, password)
            else:
                self._client.login(username, password)
        except Exception as error:
            self._raise_refusal(error)
            raise

    def _raise_refusal(self, error: Exception) -> None:
        """Turn the server's NO into what it means; anything else is a broken session."""
        words = self._hearing.last.decode("utf-8", "replace").split(None, 2)
        if len(words) < 2 or words[1].upper() != "NO":
            return
        text = self._redacted(words[2]).strip() if len(words) > 2 else "without a reason"
        if classify_refusal(text) is Blame.USER:
            raise LoginRefused(f"the server refused the login: {text}") from error
        raise SessionLost(f"provider trouble: the server refuses for now: {text}") from error

    def _introduce(self) -> None:
        """Say who we are where the server wants to know (RFC 2971)."""
        if self._client.has_capability("ID"):
            self._client.transport.send_id(f'("name" "rebreak_idle" "version" "{__version__}")')

    def _why_ended(self) -> str:
        if bye := self._hearing.bye:
            return f"provider trouble: the server said BYE: {self._redacted(bye)}"
        return self._stream.ended

    def _redacted(self, text: str) -> str:
        """A hostile server may say the password back to us; the log does not."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _redacted_bytes(self, data: bytes) -> bytes:
        text = self._redacted(data.decode("utf-8", "surrogateescape"))
        return text.encode("utf-8", "surrogateescape")

    def _translated(self, doing: str) -> _Translated:
        return _Translated(self, doing)

    def translate(self, error: Exception, doing: str) -> SessionLost:
        """What the error means to the session."""
        text = f"{self._why(error)} ({doing})"
        if isinstance(error, OSError):
            self._stream.ended = self._stream.ended or text  # no LOGOUT to whom is not there
        return SessionLost(text)

    def _why(self, error: Exception) -> str:
        if ended := self._why_ended():
            return ended
        if isinstance(error, ssl.SSLError):
            return reason(error)
        if isinstance(error, OSError):
            return f"network trouble: {reason(error)}"
        said = self._redacted(self._hearing.last.decode("utf-8", "replace")).strip()
        if said:
            return f"provider trouble: the server answered {said!a}"
        return f"provider trouble: the server's answer made no sense ({error.__class__.__name__})"


class _Translated:
    """Whatever IMAPClient and imaplib raise at what a server sends becomes `SessionLost`."""

    __slots__ = ("_doing", "_session")

    def __init__(self, session: Session, doing: str) -> None:
        self._session = session
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, RebreakError):
            raise self._session.translate(error, self._doing) from error


def _forms(username: str, password: str) -> tuple[str, ...]:
    """The password in the forms in which it goes over the line, the longest first."""
    sasl = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
    alone = base64.b64encode(password.encode()).decode()
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    return tuple(form for form in (sasl, alone, quoted, password) if form)


def _refuse_control_characters(username: str, password: str) -> None:
    """CR, LF and NUL would end the command line or the SASL message."""
    for what, text in (("the user name", username), ("the password", password)):
        if any(character in text for character in "\r\n\0"):
            raise MailboxUnusable(f"{what} contains a line break or NUL: fix the row")
