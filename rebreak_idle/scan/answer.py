"""What the backend's answer to a scan request means; pure."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from ..errors import BackendUnavailable, ScanFailed

# A backend that asks for more patience than this is asked again all the same.
RETRY_AFTER_MAX_SECONDS = 300.0
AWAY = (502, 503, 504)
SECRET_REFUSED = (401, 403)
# Of a proxy, of another host's server, of one that wants TLS (RFC 9110, section 15.5).
WRONG_CONNECTION = (407, 421, 426)
# To plain HTTP on a port for TLS: nginx (ngx_http_special_response.c), Apache
# (ssl_engine_kernel.c), Go (net/http/server.go).
_NO_TLS = re.compile(
    rb"plain HTTP request was sent to HTTPS port"
    rb"|speaking plain HTTP to an SSL-enabled server"
    rb"|HTTP request to an HTTPS server"
)
# Python 3.13.0 crashes on 65,536 nested brackets on a stack of 1 MiB; 8,000 do no harm.
MAX_BRACKETS = 5_000


class ScanResult(NamedTuple):
    """What the backend's answer tells, None where it does not."""

    scanned: int | None = None
    blocked: int | None = None
    remark: str = ""
    """What somebody should look at although the scan counts as done."""


class Answer(NamedTuple):
    """What the backend said, its body up to 64 KiB."""

    status: int
    reason: str
    content: bytes
    retry_after: str | None = None
    date: str | None = None


def read_result(answer: Answer) -> ScanResult:
    """The counts in a 2xx answer; whatever else it holds, the scan was done.

    Raises:
        ScanFailed: any other status.
    """
    status, content = answer.status, answer.content
    if not 200 <= status < 300:
        raise _refusal(answer)
    counts = json_object(content)
    if counts is None and content.strip():
        return ScanResult(remark="the backend's answer is no JSON object: is BACKEND_URL right?")
    counts = counts or {}
    return ScanResult(_count(counts.get("scanned")), _count(counts.get("blocked")))


def raise_unless_reached(answer: Answer) -> None:
    """Judge the answer to a GET at the scan endpoint, which takes POST.

    Other client errors, 500 and 501 may be about the method alone.

    Raises:
        ScanFailed: a scan request would fare no better.
    """
    status = answer.status
    is_refused = status in SECRET_REFUSED + WRONG_CONNECTION or bool(_NO_TLS.search(answer.content))
    if status < 200 or 300 <= status < 400 or status >= 502 or is_refused:
        raise _refusal(answer)


def _refusal(answer: Answer) -> ScanFailed:
    status = answer.status
    said = _ADVICE.get(status) or answer.content[:2000].decode("utf-8", "replace").strip()
    if 300 <= status < 400:
        said = "redirects are not followed: set BACKEND_URL to where the backend itself listens"
    text = f"the backend answered {status} {answer.reason}" + (f" ({said})" if said else "")
    retry_after = retry_after_seconds(answer)
    if status in AWAY:
        return BackendUnavailable(text, retry_after, is_certain=False)
    return ScanFailed(text, retry_after, is_answer=True)


WRONG_SECRET = "ADMIN_SECRET or ADMIN_SECRET_HEADER is wrong"  # noqa: S105  # no secret
_ADVICE = {
    **dict.fromkeys(SECRET_REFUSED, WRONG_SECRET),
    404: "BACKEND_URL does not lead to the scan endpoint, or the backend does not know the id",
}


def retry_after_seconds(answer: Answer) -> float | None:
    """Retry-After in seconds, 5 minutes at most (RFC 9110, section 10.2.3).

    A date is measured against the answer's own, because our clock may be wrong.
    """
    value = answer.retry_after
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), RETRY_AFTER_MAX_SECONDS)
    until = _date(value)
    if until is None:
        return None
    seconds = (until - (_date(answer.date) or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), RETRY_AFTER_MAX_SECONDS)


def _date(value: str | None) -> datetime | None:
    try:
        when = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return when.replace(tzinfo=when.tzinfo or UTC)


def json_object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that it is, or None."""
    if content.count(b"[") + content.count(b"{") > MAX_BRACKETS:
        return None
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _count(value: object) -> int | None:
    """A number fit for the log."""
    plausible = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**12
    return value if plausible else None  # type: ignore[return-value]  # checked just now
