"""The login: which command carries it, and what the server's refusal means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from imapclient.exceptions import IMAPClientError

from ..errors import AccessRefused, LoginRefused, ServerUnusable, SessionLost
from .client import Client
from .refusals import Blame, classify_bad, classify_code, classify_refusal, is_about_command
from .transport import Transport


def log_in(client: Client, username: str, password: str, redacted: Callable[[str], str]) -> None:
    """Log in. ``redacted`` takes the secrets out of what the server says.

    Where a server does not take the command, the next way that it offers is tried.

    Raises:
        LoginRefused: the server refused, by its answer or by a code that means the credentials.
        ServerUnusable: it takes no password.
        SessionLost: it refused for trouble of its own.
        IMAPClientError, OSError: the connection broke without a word of either.
    """
    transport, ways = client.transport, _ways(client, username, password)
    said: _Said | None = None
    for number, send in enumerate(ways, 1):
        try:
            send()
            return
        except (IMAPClientError, OSError) as error:
            if isinstance(error, IMAPClientError):
                _read_on_after_bye(transport)
            last = _Said(transport, username, redacted)
            said = last if last.answer or not said else said
            if number == len(ways) or not last.is_about_command:
                _raise_refusal(said, error)
                raise


def _ways(client: Client, username: str, password: str) -> list[Callable[[], object]]:
    """How the password can be sent, in the order of trial.

    LOGIN takes one round trip, AUTHENTICATE PLAIN two: that is for what LOGIN cannot. AUTHENTICATE
    LOGIN takes three, and some servers have nothing else (Exchange).
    """
    offered = client.transport.capabilities
    answers = iter((username, password))
    ways: list[Callable[[], object]] = []
    if "LOGINDISABLED" not in offered:
        ways.append(lambda: client.login(username, password))
    if "AUTH=PLAIN" in offered:
        is_first = not (username + password).isascii()
        ways.insert(0 if is_first else 1, lambda: client.plain_login(username, password))
    if "AUTH=LOGIN" in offered:
        ways.append(lambda: client.sasl_login("LOGIN", lambda _prompt: next(answers, None)))
    if not ways:
        mechanisms = sorted(name for name in offered if name.startswith("AUTH="))
        raise ServerUnusable(
            "the server takes no password here, neither by LOGIN nor by AUTHENTICATE PLAIN or "
            f"LOGIN: it offers {', '.join(mechanisms) or 'no mechanism'}"
        )
    return ways


@contextmanager
def opening(transport: Transport, username: str, redacted: Callable[[str], str]) -> Iterator[None]:
    """In its block INBOX is opened.

    Raises:
        AccessRefused: the server refuses it in words that mean the account.
    """
    try:
        yield
    except IMAPClientError as error:
        said = _Said(transport, username, redacted)
        for text, blame in (*filter(None, [said.answer]), *said.besides):
            if blame is Blame.USER:
                raise AccessRefused(f"the server refused INBOX: {text}") from error
        raise


def _read_on_after_bye(transport: Transport) -> None:
    """Wait for the command's answer where BYE came before it; imaplib reads no further.

    A BYE that means the credentials says enough.
    """
    bye = transport.events.bye
    if bye and classify_refusal(bye) is not Blame.USER:
        with suppress(OSError):
            while _own_answer(transport) is None and transport.readline():
                pass


def _own_answer(transport: Transport) -> tuple[str, str] | None:
    """Status and words of the command's NO or BAD, if that is the last line read."""
    if not transport.events.answered:
        return None
    status, _, text = transport.events.last.decode("utf-8", "replace").partition(" ")
    return (status, text.strip() or "without a reason") if status in ("NO", "BAD") else None


class _Said:
    """What a server said to a login that failed, each text with what it means.

    ``answer`` is the command's own, None where there is none; ``is_about_command``: another way to
    log in may do. Of what is said besides only that which means the credentials is a refusal; of an
    untagged NO only its code tells, as its text may be about anything (RFC 9051, section 7.1.2).
    """

    def __init__(self, transport: Transport, username: str, redacted: Callable[[str], str]) -> None:
        # A user may be called "temporary".
        self._username = re.compile(rf"(?<!\w){re.escape(username)}(?!\w)")
        self._redacted = redacted
        self.answer: tuple[str, Blame] | None = None
        self.is_about_command = False
        if tagged := _own_answer(transport):
            status, text = tagged
            self.answer = self._judged(text, classify_bad if status == "BAD" else classify_refusal)
            is_unclear = status == "BAD" and self.answer[1] is Blame.UNKNOWN
            self.is_about_command = is_unclear or is_about_command(text)
        self.besides: list[tuple[str, Blame]] = []
        if bye := transport.events.bye:
            self.besides.append(self._judged(bye, classify_refusal))
        for line in transport.untagged_responses.get("NO", []):
            if isinstance(line, bytes):
                self.besides.append(self._judged(line.decode("utf-8", "replace"), classify_code))

    def _judged(self, text: str, classify: Callable[[str], Blame]) -> tuple[str, Blame]:
        text = self._redacted(text)
        return text, classify(self._username.sub("", text))


def _raise_refusal(said: _Said, error: Exception, what: str = "the login") -> None:
    """Turn a refusal into what it means; returns where the connection is simply broken. ``what``
    was refused.
    """
    answered = [said.answer] if said.answer else []
    for text, blame in (*answered, *said.besides):
        if blame is Blame.USER:
            raise LoginRefused(f"the server refused {what}: {text}") from error
        if blame is Blame.PROVIDER and answered:
            raise SessionLost(f"provider trouble: the server refuses for now: {text}") from error
    for text, _ in answered:
        raise LoginRefused(f"the server refused {what}: {text}", is_clear=False) from error


@contextmanager
def refusals(
    transport: Transport,
    username: str,
    redacted: Callable[[str], str],
    what: Callable[[], str],
) -> Iterator[None]:
    """In its block a login is sent; raises what `log_in` does. ``what`` names what was refused."""
    try:
        yield
    except (IMAPClientError, OSError) as error:
        if isinstance(error, IMAPClientError):
            _read_on_after_bye(transport)
        _raise_refusal(_Said(transport, username, redacted), error, what())
        raise
