"""A client of a running receiver's admin routes. It needs the standard library alone."""

import json
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlencode

from receiver.settings import ClientSettings

TIMEOUT_S: Final = 10.0
RESPONSE_BYTES_MAX: Final = 256 * 1024 * 1024  # a body of the largest size, in JSON


class ClientError(Exception):
    """The service cannot be reached, or refuses; the message is for people, in one line."""


def ask(
    settings: ClientSettings,
    path: str,
    query: dict[str, str] | None = None,
    *,
    post: bool = False,
    document: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what the service answers at `path`, read or posted to. Raises ClientError."""
    if settings.admin_key is None:
        raise ClientError("RECEIVER_ADMIN_KEY is not set: it is the key that the service runs with")
    url = settings.url + path + (f"?{urlencode(query)}" if query else "")
    if not url.startswith(("http://", "https://")):
        raise ClientError(f"RECEIVER_URL must begin with http:// or https://, not {settings.url!r}")
    try:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            url,
            data=_body(document) if post else None,
            headers={
                "Authorization": f"Bearer {settings.admin_key}",
                "Content-Type": "application/json",
            },
        )
        with _opener().open(request, timeout=TIMEOUT_S) as response:
            reply: dict[str, Any] = json.loads(response.read(RESPONSE_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            raise ClientError(_message_of(error)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ClientError(f"cannot ask {settings.url}: {reason}") from None
    return reply


def _body(document: dict[str, Any] | None) -> bytes:
    return b"" if document is None else json.dumps(document).encode()


def _opener() -> urllib.request.OpenerDirector:
    """Use no proxies: an admin key goes nowhere but to the service."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _message_of(error: urllib.error.HTTPError) -> str:
    if error.code == 404 and error.url.rstrip("/").split("?")[0].endswith("/inbox"):
        return "the service has no admin routes: start it with RECEIVER_ADMIN_KEY set"
    if error.code == 401:
        return "the admin key is wrong: RECEIVER_ADMIN_KEY must be the receiver's own"
    try:
        return str(json.loads(error.read(64 * 1024))["message"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {error.code}"
