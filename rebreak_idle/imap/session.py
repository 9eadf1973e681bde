"""One IMAP session on INBOX: connect, examine, wait in IDLE, close.

Every failure that a server or the network causes leaves here as one of our own errors; a fault of
our own leaves as what it is.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

from imapclient.exceptions import CapabilityError, IMAPClientError

from .. import __version__
from ..access_token import AccessToken
from ..errors import HostUnreachable, IdleUnanswered, NameUnusable, RebreakError, SessionLost
from ..mailbox import Mailbox
from .addresses import Resolver
from .client import Client
from .credentials import forms, refuse_control_characters
from .ended import kind_of_loss
from .events import IdleEvents
from .examine import examine
from .greeting import greeting_of
from .login import log_in, opening
from .network import concerns_name, describe, is_open, is_timeout
from .oauth import log_in_by_token
from .pace import IDLE_BYTES_PER_SECOND, Pace
from .responses import Kind, Line
from .stream import Stream
from .translated import Translated
from .transport import Transport
from .uids import Snapshot

# How long a session that is given up may take for DONE and LOGOUT together.
LOGOUT_SECONDS = 3.0


class Session:
    """One connection to the server of one mailbox. Used by one thread at a time, but for
    `interrupt` and `abort`.

    Every method may raise `SessionLost`, after which only `close` makes sense, and
    `Interrupted` when the mailbox is to stop.
    """

    def __init__(
        self, mailbox: Mailbox, stream: Stream, context: ssl.SSLContext, resolver: Resolver
    ) -> None:
        self._mailbox = mailbox
        self._stream = stream
        self._context = context
        self._resolver = resolver
        self._events = IdleEvents()
        self._client: Client
        self._idling = False
        self._logged_in = False
        self._secrets: tuple[str, ...] = ()
        self._token: AccessToken | None = None
        self.mechanism = ""
        """How an access token was taken, if one was."""
        self._pace = Pace(IDLE_BYTES_PER_SECOND)
        self.rest_seconds = 0.0
        """How long to leave a server alone that says much, before the next `wait`."""

    def open(self, secret: str | AccessToken) -> None:
        """Connect, secure the connection and log in; the secret is the password or a token.

        Raises:
            LoginRefused: the server refused the login.
            MailboxUnusable: user name or password cannot be sent at all.
        """
        self._redact(secret)  # a greeting may say it back already
        self.connect()
        self.login(secret)

    def connect(self) -> None:
        """Connect and secure the connection.

        Raises:
            HostUnreachable: it did not come about.
            ServerUnusable: the server is not what the row says.
        """
        try:
            with self._translated(f"connecting to {self._mailbox.host}:{self._mailbox.port}"):
                self._connect()
        except NameUnusable:
            raise
        except SessionLost as error:
            answered = self._stream.address_failed()
            self._resolver.forget(self._mailbox.host, self._mailbox.port)
            unreachable = NameUnusable if concerns_name(error.__cause__) else HostUnreachable
            answered |= isinstance(error.__cause__, ConnectionError)
            raise unreachable(str(error), answered) from error

    def login(self, secret: str | AccessToken) -> None:
        """Log in; raises what `open` does."""
        mailbox = self._mailbox
        self._redact(secret)
        with self._translated("logging in"):
            if isinstance(secret, AccessToken):
                self.mechanism = log_in_by_token(self._client, mailbox, secret, self._redacted)
            else:
                log_in(self._client, mailbox.username, secret, self._redacted)
            self._send_id()
            self._stream.keep_tls_session()
        self._logged_in = True

    @property
    def offers_idle(self) -> bool:
        """Asked after login: some servers show IDLE only then."""
        with self._translated("asking for capabilities"):
            return bool(self._client.has_capability("IDLE"))

    def examine(self) -> Snapshot:
        """EXAMINE INBOX (read-only, RFC 9051, section 6.3.3).

        Raises:
            AccessRefused: the server refuses it for what the account is.
        """
        transport = self._client.transport
        opened = opening(transport, self._mailbox.username, self._redacted)
        with self._translated("examining INBOX"), opened:
            return examine(transport, "INBOX")

    def start_idle(self) -> bool:
        """IDLE (RFC 2177); False when the server ends it at once: NO, BAD, even OK.

        What the server says before it agrees is kept for `wait`.

        Raises:
            IdleUnanswered: no answer came in time, though the connection stands.
        """
        self._idling = True
        try:
            with self._translated("starting IDLE"):
                self._client.idle()
        except SessionLost as error:
            if isinstance(error.__cause__, OSError) and is_timeout(error.__cause__):
                raise IdleUnanswered(str(error)) from error
            if not self._events.answered:
                raise
            self._idling = False
        return self._idling

    def wait(self, seconds: float) -> list[Line]:
        """What the server says in IDLE; empty when it said nothing of interest for ``seconds``.

        May return early and empty.
        """
        events, stream = self._events, self._stream
        with self._translated("in IDLE"):
            # What it returns is in the events too, where an error afterwards does not lose it.
            self._client.idle_check(0 if events.lines or events.bye else seconds)
        self.rest_seconds = self._pace.rest_seconds(stream.answer.received_bytes)
        if events.idle_over:
            self._idling = False
        if events.lines:
            return self.take_events()
        if events.bye or stream.close_reason:
            raise kind_of_loss(events)(self._why_ended())
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
                self._end_idle()
            elif self._events.idle_over:
                self._client.idle_check(0)  # what came after the end
        return self.take_events()

    def _end_idle(self) -> None:
        """A tagged answer ends IDLE, whatever it says (RFC 2177, section 3); what a server means
        that refuses is not understood.
        """
        try:
            self._client.idle_done()
        except IMAPClientError:
            if not self._events.answered:
                raise
            self._events.add(Line(Kind.UNREADABLE, text=self._events.last))

    def take_events(self) -> list[Line]:
        """What was announced and not yet handed over; also after the session broke."""
        return [
            line._replace(text=self._redacted_bytes(line.text)) if line.text else line
            for line in self._events.take()
        ]

    def close(self, wait: bool = True) -> None:
        """Log out where the server still answers, and close; at most three seconds.

        ``wait`` False sends LOGOUT and does not wait for its answer.
        """
        try:
            self._stream.begin_logout(LOGOUT_SECONDS)
            if self._logged_in and not self._stream.close_reason:
                with suppress(RebreakError), self._translated("logging out"):
                    self._client.transport.log_out(self._idling, wait)
        finally:
            self._stream.close()

    def interrupt(self) -> None:
        """End the wait for the server where the mailbox is to stop. Any thread may call."""
        self._stream.interrupt()

    def is_alive(self) -> bool:
        """Whether the server has not ended it, as far as the system knows. Any thread may call."""
        sock = self._stream.sock
        return sock is not None and is_open(sock)

    def abort(self) -> None:
        """Free a thread that hangs in this session. Any thread may call."""
        self._stream.abort()

    def _connect(self) -> None:
        mailbox = self._mailbox
        addresses = self._resolver.addresses(mailbox.host, mailbox.port)
        tls = not mailbox.starttls

        def transport() -> Transport:
            return Transport(
                mailbox.host, addresses, self._stream, self._events, self._context, tls
            )

        with greeting_of(mailbox, self._redacted):
            self._client = Client(mailbox.host, tls, transport)
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

    def _send_id(self) -> None:
        """Say who we are where the server wants to know (RFC 2971)."""
        if self._client.has_capability("ID"):
            self._client.transport.send_id(f'("name" "rebreak_idle" "version" "{__version__}")')

    def _redact(self, secret: str | AccessToken) -> None:
        if isinstance(secret, AccessToken):
            self._token = secret
        else:
            refuse_control_characters(self._mailbox.username, secret)
            self._secrets = forms(self._mailbox.username, secret)

    def _redacted(self, text: str) -> str:
        """A hostile server may say the secret back to us; the log does not."""
        if self._token is not None:
            return self._token.hide(text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _redacted_bytes(self, data: bytes) -> bytes:
        text = self._redacted(data.decode("utf-8", "surrogateescape"))
        return text.encode("utf-8", "surrogateescape")

    def _translated(self, doing: str) -> Translated:
        return Translated(self._session_lost, doing)

    def _session_lost(self, error: Exception, doing: str) -> SessionLost:
        text = f"{self._why(error)} ({doing})"
        if isinstance(error, OSError):
            self._stream.close_reason = self._stream.close_reason or text  # nobody to log out from
        is_closed = bool(self._stream.close_reason)
        return kind_of_loss(self._events, None if is_closed else error)(text)

    def _why(self, error: Exception) -> str:
        if ended := self._why_ended():
            return ended
        if isinstance(error, ssl.SSLError):
            return describe(error)
        if isinstance(error, OSError):
            is_alive = is_timeout(error) and self._stream.answer.reads
            hint = ", though it sends signs of life: raise IMAP_TIMEOUT_SECONDS" if is_alive else ""
            return f"network trouble: {describe(error)}{hint}"
        if said := self._redacted(self._events.last.decode("utf-8", "replace")).strip():
            return f"provider trouble: the server answered {said!a}"
        return f"provider trouble: the server's answer made no sense ({error.__class__.__name__})"

    def _why_ended(self) -> str:
        if bye := self._events.bye:
            return f"provider trouble: the server said BYE: {self._redacted(bye)}"
        return self._stream.close_reason
