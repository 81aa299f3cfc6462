"""A client of a running receiver's admin routes. It needs the standard library alone."""

import json
import re
import ssl
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode, urlsplit

from receiver.base.settings import SettingError
from receiver.base.tls import system
from receiver.settings import CA_FILE, ClientSettings

TIMEOUT_S: Final = 10.0  # of one read or write; a prune of much takes some seconds
DEADLINE_S: Final = 60.0  # of the whole request, whatever the answer does
RESPONSE_BYTES_MAX: Final = 256 * 1024 * 1024  # a body of the largest size, in JSON
_ERROR_BYTES_MAX: Final = 64 * 1024
_VISIBLE: Final = re.compile(r"[!-~]+")

Shape: TypeAlias = Mapping[str, Any]
"""What an answer must hold at least: names, each with a type or several, a test of a value, a list
of one shape, or the very value."""


class ClientError(Exception):
    """The service cannot be reached (`unreachable`), or refuses; the message is for people, in one
    line."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


def ask(
    settings: ClientSettings,
    path: str,
    query: dict[str, str] | None = None,
    *,
    post: bool = False,
    document: dict[str, Any] | None = None,
    shape: Shape | None = None,
) -> dict[str, Any]:
    """Return what the service answers at `path`, read or posted to, which must have this `shape`.
    Raises ClientError, also for a redirect: the key goes nowhere but to the service."""
    if settings.admin_key is None:
        raise ClientError("RECEIVER_ADMIN_KEY is not set: it is the key that the service runs with")
    if not _VISIBLE.fullmatch(settings.admin_key):
        raise ClientError("RECEIVER_ADMIN_KEY must be visible ASCII characters, without spaces")
    url = settings.url + path + (f"?{urlencode(query)}" if query else "")
    if not url.startswith(("http://", "https://")):
        raise ClientError(f"RECEIVER_URL must begin with http:// or https://, not {settings.url!r}")
    headers = {
        "Authorization": f"Bearer {settings.admin_key}",
        "Content-Type": "application/json",
    }
    body = None if document is None else json.dumps(document).encode()
    try:
        tls = system(CA_FILE, settings.ca_file) if url.startswith("https:") else None
        status, text = _exchange("POST" if post else "GET", url, body, headers, tls)
    except SettingError as error:
        raise ClientError(str(error)) from None
    except (OSError, ValueError, HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise ClientError(f"cannot ask {settings.url}: {reason}", unreachable=True) from None
    if not 200 <= status < 300:
        raise ClientError(_message_of(status, path, text))
    return _read(text, shape or {}, settings.url)


def get(settings: ClientSettings, path: str) -> tuple[int, bytes, Mapping[str, str]]:
    """Return the status, the body and the headers of what the service answers, whatever that is.
    Raises ClientError where it does not, and SettingError for authorities that cannot be used."""
    url = settings.url + path
    tls = system(CA_FILE, settings.ca_file) if url.startswith("https:") else None
    headers: dict[str, str] = {}
    try:
        status, body = _exchange("GET", url, None, {}, tls, headers)
    except (OSError, ValueError, HTTPException) as error:
        message = f"nothing answers at {settings.url} ({error})"
        raise ClientError(message, unreachable=True) from None
    return status, body, headers


def post(
    url: str, body: bytes, headers: dict[str, str], ca_file: str | None = None
) -> tuple[int, bytes]:
    """Post a message, as a dispatcher does; return the status and the body of the answer. Raises
    ClientError where none comes, and SettingError for authorities that cannot be used."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError(f"{url!r} is no URL that begins with http:// or https://")
    tls = system(CA_FILE, ca_file) if parts.scheme == "https" else None
    try:
        return _exchange("POST", url, body, headers, tls)
    except (OSError, ValueError, HTTPException) as error:
        message = f"cannot post to {url}: {str(error) or type(error).__name__}"
        raise ClientError(message, unreachable=True) from None


def is_time(value: object) -> bool:
    """Whether it is a time as the service writes one."""
    with suppress(TypeError, ValueError):
        return datetime.fromisoformat(str(value)).tzinfo is not None
    return False


def _exchange(
    method: str,
    url: str,
    body: bytes | None,
    headers: dict[str, str],
    tls: ssl.SSLContext | None,
    came: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """Return the status and the body of the answer, and put its headers into `came`, in lower case.
    No proxy is used and no redirect followed."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if tls is None:
        made = HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    else:
        made = HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=tls)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    late = threading.Event()
    with closing(made) as connection:
        connection.connect()
        # A byte now and then would meet no time-out of the socket's.
        timer = threading.Timer(DEADLINE_S, _end, (connection, late))
        timer.start()
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            if came is not None:
                came.update((name.lower(), value) for name, value in response.getheaders())
            is_good = 200 <= response.status < 300
            limit = RESPONSE_BYTES_MAX if is_good else _ERROR_BYTES_MAX
            text = response.read(limit + 1)
        except (OSError, HTTPException) as error:
            raise (_late() if late.is_set() else error) from None
        finally:
            timer.cancel()
        if late.is_set():
            raise _late()
        if is_good and len(text) > limit:
            raise ValueError(f"it answers more than {limit} bytes")
        return response.status, text


def _end(connection: HTTPConnection, late: threading.Event) -> None:
    late.set()
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(SHUT_RDWR)


def _late() -> TimeoutError:
    return TimeoutError(f"there is no whole answer within {DEADLINE_S:g} s")


def _read(text: bytes, shape: Shape, url: str) -> dict[str, Any]:
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or not _fits(reply, shape):
        raise ClientError(
            f"what answers at {url} is no receiver, or of another version: is RECEIVER_URL right?"
        )
    return reply


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(
            name in value and _fits(value[name], inner) for name, inner in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    if isinstance(shape, type):
        return isinstance(value, shape) and not (shape is int and isinstance(value, bool))
    if callable(shape):
        return bool(shape(value))
    return bool(value == shape)


def _message_of(status: int, path: str, text: bytes) -> str:
    if status == 404 and path in ("/inbox", "/expected"):
        return "the service has no admin routes: start it with RECEIVER_ADMIN_KEY set"
    if status == 401:
        return "the admin key is wrong: RECEIVER_ADMIN_KEY must be the receiver's own"
    if 300 <= status < 400:
        return f"it answers {status}, a redirect: RECEIVER_URL must name the service itself"
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"the service answered {status}"
