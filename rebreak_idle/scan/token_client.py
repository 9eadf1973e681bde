"""The request for an access token, and what the backend's answer to it means."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

from ..access_token import AccessToken
from ..config import Config
from ..errors import AccessDenied, BackendUnavailable, ScanFailed, TokenUnavailable
from ..mailbox import Mailbox
from .answer import AWAY, SECRET_REFUSED, WRONG_SECRET, Answer, json_object, retry_after_seconds
from .client import METHOD_NOT_ALLOWED, ScanClient

# A provider's token endpoint answers within a second or two.
TOKEN_TIMEOUT_SECONDS = 30.0
NOT_FOUND, GONE = 404, 410
# With a JSON `error` they are about this mailbox.
OPERATOR_MUST_ACT = (NOT_FOUND, 409, 422)
MAX_SHOWN_CHARACTERS = 2000
# RFC 6750, section 2.1, has fewer: a blank or a control character breaks out of the SASL message.
_TOKEN = re.compile(r"[!-~]+")
_USERNAME = re.compile(r"[^\x00-\x1f\x7f]+")


class TokenClient:
    """Asks the backend for access tokens. Any thread may call.

    ``clock`` is `time.monotonic`.
    """

    def __init__(self, client: ScanClient, config: Config, clock: Callable[[], float]) -> None:
        self._client = client
        self._path = config.access_token_path
        self._clock = clock

    def request(self, mailbox: Mailbox, fresh: bool, hide: Callable[[str], str]) -> AccessToken:
        """A token for this mailbox; ``fresh`` where the server has just refused the last one.

        ``hide`` takes known tokens out of what the backend says.

        Raises:
            AccessDenied: the backend has none, and somebody must act.
            TokenUnavailable: it gave none this time.
        """
        body = {"connectionId": mailbox.id, "userId": mailbox.user_id, "fresh": fresh}
        asked_at = self._clock()
        try:
            answer = self._client.post(self._path, body, TOKEN_TIMEOUT_SECONDS)
        except BackendUnavailable as error:
            is_for_all = error.is_certain or None
            raise TokenUnavailable(hide(str(error)), is_for_all=is_for_all) from error
        except ScanFailed as error:
            raise TokenUnavailable(hide(str(error)), is_for_all=None) from error
        if 200 <= answer.status < 300:
            return _token(answer, asked_at)
        raise self._refusal(answer, hide)

    def _refusal(
        self, answer: Answer, hide: Callable[[str], str]
    ) -> AccessDenied | TokenUnavailable:
        """What an answer without a token means."""
        status, reason = answer.status, hide(answer.reason or "")
        said = f"the backend answered {status} {reason} to the request for an access token"
        told = (json_object(answer.content) or {}).get("error")
        if status == GONE:
            return AccessDenied(f"{said}: consent is needed anew{_shown(told, hide)}", "the user")
        if status in OPERATOR_MUST_ACT and told:
            return AccessDenied(f"{said}{_shown(told, hide)}", "the operator")
        if status in SECRET_REFUSED:
            text = f"{said} ({WRONG_SECRET})"
            return TokenUnavailable(text, is_for_all=True, who="the operator")
        if status in (NOT_FOUND, METHOD_NOT_ALLOWED):
            text = f"{said}: it has no {self._path}, see ACCESS_TOKEN_PATH and BACKEND_URL"
            return TokenUnavailable(text, is_for_all=True, who="the operator")
        return TokenUnavailable(
            said + _shown(told or answer.content.decode("utf-8", "replace").strip(), hide),
            retry_after_seconds(answer),
            is_for_all=None if status in AWAY else False,
        )


def _token(answer: Answer, asked_at: float) -> AccessToken:
    """The token in a 2xx answer.

    Raises:
        TokenUnavailable: there is none that could be used.
    """
    content = json_object(answer.content) or {}
    value, username = content.get("accessToken"), content.get("username")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise TokenUnavailable(f"the backend answered {answer.status} without an access token")
    if username and not (isinstance(username, str) and _USERNAME.fullmatch(username)):
        raise TokenUnavailable("the backend gave a user name that cannot be sent")
    life_seconds = _life_seconds(content.get("expiresIn"))
    if life_seconds <= 0:
        raise TokenUnavailable("the backend gave an access token that has run out")
    return AccessToken(value, asked_at + life_seconds, life_seconds, username or "")


def _life_seconds(value: object) -> float:
    """``expiresIn``; infinite where it is not there or cannot be meant."""
    try:
        seconds = float(value)  # type: ignore[arg-type]  # what else it is raises
    except (TypeError, ValueError, OverflowError):
        return math.inf
    return math.inf if isinstance(value, bool) or math.isnan(seconds) else seconds


def _shown(told: object, hide: Callable[[str], str]) -> str:
    """What the backend said, in parentheses, or nothing."""
    text = told if isinstance(told, str) else json.dumps(told) if told else ""
    return f" ({hide(text)[:MAX_SHOWN_CHARACTERS]})" if text else ""
