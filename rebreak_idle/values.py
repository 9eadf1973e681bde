"""What the text of one variable means: each function raises `ValueError` with what is wrong.

The sentence continues one that begins with the variable, and shows no secret.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit

from .cipher import make_key

KEY_ENCODINGS = ("utf8", "hex", "base64", "sha256")
MINIMUM_KEY_CHARACTERS = 32
# threading.TIMEOUT_MAX is lower still on some platforms; no wait of the daemon needs a year.
LONGEST_SECONDS = 366 * 86400.0
LONGEST_NAME = 100


def is_utf8(text: str) -> bool:
    """Bytes of the environment that are no UTF-8 arrive as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def refuse_quotes(text: str) -> None:
    """Shells and `.env` take quotes off, docker's --env-file and process managers do not."""
    if re.fullmatch(r"""(['"`]).*\1""", text.strip(), re.DOTALL):
        raise ValueError("begins and ends with a quote, which would be part of it: give it without")


def refuse_placeholders(text: str) -> None:
    """dotenv-expand, as Next.js and Prisma use it, docker compose and shells fill in ``${NAME}``;
    Node's dotenv and docker's --env-file hand on the letters.
    """
    if re.search(r"\$\{[A-Za-z_]\w*(:?[-+?=][^}]*)?\}", text):
        raise ValueError("holds a ${…} that nobody fills in here: give the value itself")


def refuse_blanks(text: str) -> None:
    if text != text.strip():
        raise ValueError("begins or ends with a blank or a line break: give it without")


def positive_number(text: str) -> float:
    if not re.fullmatch(r"\s*\+?(\d+\.?\d*|\.\d+)\s*", text, re.ASCII):
        raise ValueError(f"is {shown(text)}: give a positive decimal number")
    number = float(text)
    if number <= 0 or math.isinf(number):
        raise ValueError(f"is {shown(text)}: give a number above 0")
    return number


def positive_seconds(text: str) -> float:
    number = positive_number(text)
    if number > LONGEST_SECONDS:
        raise ValueError(f"is {shown(text)}: give a number of seconds below {LONGEST_SECONDS:.0f}")
    return number


def seconds_or_off(text: str) -> float:
    """Seconds; 0 is off."""
    return 0.0 if re.fullmatch(r"\s*\+?0+\.?0*\s*", text, re.ASCII) else positive_seconds(text)


def positive_integer(text: str) -> int:
    if not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) or int(text) == 0:
        raise ValueError(f"is {shown(text)}: give a whole number, 1 or more")
    return int(text)


def boolean(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(f"is {shown(text)}: give true or false")
    return text.strip().lower() == "true"


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        value = text.strip().lower()
        if value not in choices:
            raise ValueError(f"is {shown(text)}: give one of {', '.join(choices)}")
        return value

    return parse


def http_url(text: str) -> str:
    url = text.strip().rstrip("/")
    advice = "give the backend's address, such as http://127.0.0.1:3016"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise ValueError(f"is not an http or https URL: {advice}")
    if "?" in url or "#" in url or parts.username is not None:
        raise ValueError(f"carries more than scheme, host, port and path: {advice}")
    return url


def url_path(text: str) -> str:
    # RFC 3986, section 3.3: visible ASCII; a query or fragment is not the path's.
    if not re.fullmatch(r"/[!-~]*", text) or "?" in text or "#" in text:
        raise ValueError(
            f"is {shown(text)}: give a path that begins with /, such as /api/mail/access-token"
        )
    return text


class Listen(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listen_address(text: str) -> Listen:
    found = re.fullmatch(r"(\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|[\w.-]+):([0-9]{1,5})", text.strip())
    if not found or not 0 < int(found[3]) < 65536:
        raise ValueError(
            f"is {shown(text)}: give host:port, such as 127.0.0.1:9464, or [::1]:9464 for IPv6"
        )
    return Listen(found[2] or found[1], int(found[3]))


def metrics_address(text: str) -> Listen:
    listen = listen_address(text)
    if not _is_installed("prometheus_client"):
        raise ValueError(
            "needs the package prometheus-client: pip install 'rebreak-idle[metrics]', "
            "in this folder pip install -e '.[metrics]'"
        )
    return listen


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a spec stands in its place
        return False


def header_name(text: str) -> str:
    # RFC 9110, section 5.6.2: a field name is a token.
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):
        name = text.partition(":")[0]  # its value may follow
        raise ValueError(f"is {shown(name)}…: give the name of an HTTP header")
    if text.lower() in (
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
    ):
        raise ValueError(f"is {shown(text)}, which HTTP itself needs: give another name")
    return text


def header_value(text: str) -> str:
    # RFC 9110, section 5.5: visible ASCII, with blanks only inside.
    if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", text):
        raise ValueError("has characters that an HTTP header cannot carry: use visible ASCII")
    return text


def key_encoding(text: str) -> str:
    if text not in KEY_ENCODINGS and not re.fullmatch(r"scrypt:.+", text, re.DOTALL):
        kind = re.split("[:=]", text)[0]  # a salt may follow
        raise ValueError(
            f"is {shown(kind)}…: give one of {', '.join(KEY_ENCODINGS)}, scrypt:<salt>"
        )
    refuse_blanks(text)
    refuse_quotes(text.partition(":")[2])
    return text


def encryption_key(text: str, encoding: str | None) -> bytes:
    refuse_blanks(text)
    if len(text) < MINIMUM_KEY_CHARACTERS:
        raise ValueError(
            f"has {len(text)} characters: it takes {MINIMUM_KEY_CHARACTERS} or more, "
            "identical to the backend's"
        )
    return make_key(text, encoding) if encoding else b""


def shown(text: str) -> str:
    """A value that is no secret, fit for one line."""
    return ascii(text if len(text) <= 60 else text[:60] + "…")


def default_instance_name(variables: Mapping[str, str]) -> str:
    """The host's name; PM2 numbers the processes of one application that runs several times."""
    number = variables.get("NODE_APP_INSTANCE", "").strip()
    return "-".join(filter(None, (socket.gethostname(), number)))


def instance_name(text: str) -> str:
    if not text.strip().isprintable() or len(text.strip()) > LONGEST_NAME:
        raise ValueError(f"is not a name of up to {LONGEST_NAME} printable characters: give one")
    return text.strip()
