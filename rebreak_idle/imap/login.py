"""The login: which command carries it, and what the server's refusal means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from imapclient.exceptions import IMAPClientError

from ..errors import LoginRefused, SessionLost
from .refusals import Blame, classify_bad, classify_code, classify_refusal
from .transport import Client, Transport


def log_in(client: Client, username: str, password: str, redacted: Callable[[str], str]) -> None:
    """Log in. ``redacted`` takes the secrets out of what the server says.

    Raises:
        LoginRefused: the server refused, by its answer or by a code that means the credentials.
        SessionLost: it refused for trouble of its own.
        IMAPClientError, OSError: the connection broke without a word of either.
    """
    with refusals(client.transport, username, redacted, lambda: "the login"):
        _send_login(client, username, password)


def _send_login(client: Client, username: str, password: str) -> None:
    """LOGIN takes one round trip, AUTHENTICATE PLAIN two: that is for what LOGIN cannot.

    AUTHENTICATE LOGIN takes three, and some servers have nothing else (Exchange).
    """
    offered = client.transport.capabilities
    disabled = "LOGINDISABLED" in offered
    if "AUTH=PLAIN" in offered and (disabled or not (username + password).isascii()):
        client.plain_login(username, password)
    elif not disabled:
        client.login(username, password)
    elif "AUTH=LOGIN" in offered:
        answers = iter((username, password))
        client.sasl_login("LOGIN", lambda _prompt: next(answers, None))
    else:
        raise LoginRefused(
            "the server takes no password here: neither LOGIN nor AUTHENTICATE PLAIN or LOGIN"
        )


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
    words = transport.events.last.decode("utf-8", "replace").split(None, 2)
    if len(words) < 2 or words[0] != transport.last_tag.decode():
        return None
    status = words[1].upper()
    text = words[2].strip() if words[2:] else "without a reason"
    return (status, text) if status in ("NO", "BAD") else None


class _Said:
    """What a server said to a login that failed, each text with what it means.

    ``answer`` is the command's own, None where there is none. Of what is said besides only that
    which means the credentials is a refusal; of an untagged NO only its code tells, as its text
    may be about anything (RFC 9051, section 7.1.2).
    """

    def __init__(self, transport: Transport, username: str, redacted: Callable[[str], str]) -> None:
        # A user may be called "temporary".
        self._username = re.compile(rf"(?<!\w){re.escape(username)}(?!\w)")
        self._redacted = redacted
        self.answer: tuple[str, Blame] | None = None
        if tagged := _own_answer(transport):
            status, text = tagged
            self.answer = self._judged(text, classify_bad if status == "BAD" else classify_refusal)
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
