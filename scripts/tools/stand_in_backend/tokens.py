"""The access tokens of the stand-in for the backend: it makes them itself, where the real backend
asks Google or Microsoft with the refresh token that it keeps.

    python scripts/stand_in_backend.py --token-key keys/default/HS256/default

They are JSON Web Tokens (RFC 7519) signed by HS256 with the key in that file, which is made where
it is not there: 32 bytes in base64, as Dovecot 2.3 wants it for local validation. So a Dovecot of
your own takes them:

    auth_mechanisms = plain xoauth2 oauthbearer
    passdb {
      driver = oauth2
      mechanisms = xoauth2 oauthbearer
      args = /etc/dovecot/oauth2.conf
    }

and in oauth2.conf:

    introspection_mode = local
    local_validation_key_dict = fs:posix:prefix=/path/to/keys/
    username_attribute = email
    active_attribute =
    active_value =
    issuers = https://rebreak.example/stand-in
    scope = imap

The backend's half of the contract:

*   ``POST /api/mail/access-token`` (ACCESS_TOKEN_PATH) takes ``{"connectionId", "userId",
    "fresh"}`` as JSON, with the secret in its header, and answers ``{"accessToken", "expiresIn"}``:
    seconds that are left of this very token. ``username`` may stand beside it.
*   ``fresh`` true: the mail server has just refused the last token, so a new one must be made.
    Otherwise one that is good for a while may be handed out again.
*   401 for a wrong secret; 404 with a JSON ``error`` for a connection that is unknown or inactive,
    409 for one that has a password; 410 when the user must consent anew; 503 for trouble with the
    database or at the provider. No token ever gets into a log.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from imapclient import IMAPClient

from rebreak_idle.mailbox import Mailbox

ISSUER = "https://rebreak.example/stand-in"
SCOPE = "imap"
KEY_BYTES = 32
LIFE_SECONDS = 3599.0
# One that is handed out again must be good for a login at the end of a long line.
REUSED_SECONDS = 900.0


class TokenRefused(Exception):
    """The request gets this status and this sentence instead of a token."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Token(NamedTuple):
    """One token; it ends at that time of `time.time`."""

    value: str
    ends_at: float


class TokenMaker:
    """Makes the tokens. Any number of threads may call.

    ``key_file`` holds the key in base64; without one it is a new one that nobody knows.
    """

    def __init__(self, key_file: Path | None, life_seconds: float = LIFE_SECONDS) -> None:
        self._key = _key(key_file)
        self._life_seconds = life_seconds
        self._lock = threading.Lock()
        self._handed_out: dict[str, Token] = {}

    def answer(self, mailbox: Mailbox, fresh: bool) -> dict[str, object]:
        """What the daemon is told.

        Raises:
            TokenRefused: the row wants none.
        """
        token = self.token(mailbox, fresh)
        return {"accessToken": token.value, "expiresIn": int(token.ends_at - time.time())}

    def token(self, mailbox: Mailbox, fresh: bool = False) -> Token:
        """The mailbox's last token while that is good for a while, else a new one.

        Raises:
            TokenRefused: the row wants none.
        """
        if not mailbox.oauth2:
            raise TokenRefused(HTTPStatus.CONFLICT, "imap_auth of this connection is not oauth2")
        with self._lock:
            last = self._handed_out.get(mailbox.id)
            if fresh or last is None or last.ends_at - time.time() < REUSED_SECONDS:
                last = self._handed_out[mailbox.id] = self._make(mailbox.username)
            return last

    def _make(self, user: str) -> Token:
        now = time.time()
        claims = {
            "sub": user,
            "email": user,
            "iss": ISSUER,
            "scope": SCOPE,
            "iat": int(now),
            "exp": int(now + self._life_seconds),
            "jti": secrets.token_hex(8),
        }
        header = {"alg": "HS256", "typ": "JWT", "kid": "default"}
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = _base64url(hmac.digest(self._key, signed, hashlib.sha256))
        return Token(f"{signed.decode()}.{signature.decode()}", now + self._life_seconds)


def log_in_by_token(client: IMAPClient, username: str, token: Token) -> None:
    """Log in by XOAUTH2; an error challenge gets the empty answer that it wants."""
    answers = iter([f"user={username}\x01auth=Bearer {token.value}\x01\x01", ""])
    client.sasl_login("XOAUTH2", lambda _challenge: next(answers, None))


def read_fresh(body: bytes) -> tuple[str, str, bool]:
    """Connection, user and ``fresh`` in a request.

    Raises:
        TokenRefused: it is not the object of the contract.
    """
    try:
        found = json.loads(body)
        connection_id, user_id, fresh = (found[n] for n in ("connectionId", "userId", "fresh"))
    except (ValueError, RecursionError, TypeError, KeyError):
        text = "the body is no JSON object with connectionId, userId and fresh"
        raise TokenRefused(HTTPStatus.BAD_REQUEST, text) from None
    if not (isinstance(connection_id, str) and isinstance(user_id, str) and fresh in (True, False)):
        text = "connectionId and userId are strings, fresh is true or false"
        raise TokenRefused(HTTPStatus.BAD_REQUEST, text)
    return connection_id, user_id, bool(fresh)


def _key(key_file: Path | None) -> bytes:
    if key_file is None:
        return secrets.token_bytes(KEY_BYTES)
    if not key_file.exists():
        key_file.parent.mkdir(parents=True, exist_ok=True)
        key_file.write_bytes(base64.b64encode(secrets.token_bytes(KEY_BYTES)))
        key_file.chmod(0o600)
    return base64.b64decode(key_file.read_bytes())


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
