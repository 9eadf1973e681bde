"""The request that tells the backend of a mailbox's state, and what its answer means."""

from __future__ import annotations

from ..config import Config
from ..errors import ScanFailed
from .answer import SECRET_REFUSED, WRONG_SECRET, retry_after_seconds
from .client import ScanClient

NOTICE_TIMEOUT_SECONDS = 30.0
_MISSING = "CONNECTION_STATE_PATH or BACKEND_URL is wrong, or the backend does not know the id"
_ADVICE = {**dict.fromkeys(SECRET_REFUSED, WRONG_SECRET), 404: _MISSING, 405: _MISSING}


class NoticeClient:
    """Tells the backend, over connections of its own. Any thread may call."""

    def __init__(self, config: Config) -> None:
        self._client = ScanClient(config)
        self._path = config.connection_state_path or ""

    def tell(self, body: dict[str, object]) -> None:
        """Send one message.

        Raises:
            ScanFailed: no 2xx came: it is still to be told.
        """
        answer = self._client.post(self._path, body, NOTICE_TIMEOUT_SECONDS)
        if 200 <= answer.status < 300:
            return
        said = _ADVICE.get(answer.status) or answer.content[:2000].decode("utf-8", "replace")
        said = f" ({said.strip()})" if said.strip() else ""
        text = f"the backend answered {answer.status} {answer.reason}{said}"
        raise ScanFailed(text, retry_after_seconds(answer), is_answer=True)

    def abort_overdue(self) -> None:
        """End the requests that take too long; to be called every few seconds."""
        self._client.abort_overdue()
