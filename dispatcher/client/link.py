"""What both clients know about the way to the service: where it is, who we are, how to ask."""

import re
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from dispatcher import VERSION
from dispatcher.client.call import Answer, Call, Lost

DEFAULT_URL: Final = "http://127.0.0.1:8600"
TIMEOUT_S: Final = 35.0  # a little above the service's own limit on a request
CONNECT_TIMEOUT_S: Final = 5.0
_VISIBLE: Final = re.compile(r"[!-~]{1,512}")
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Link:
    """Turns calls into requests. Its repr, like every error, is free of the API key."""

    def __init__(self, url: str, api_key: str | None, tenant: str | None) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self.url = _checked_url(url)
        self.tenant = tenant
        self._headers = _headers(api_key, tenant)

    def __repr__(self) -> str:
        return f"{self.url!r}, tenant={self.tenant!r}"

    def options(self, timeout_s: float) -> dict[str, Any]:
        """How to build the httpx client. A proxy of the environment is not asked for the way to
        this machine itself."""
        parts = urlsplit(self.url)
        here = parts.hostname in ("127.0.0.1", "::1", "localhost")
        return {
            "base_url": f"{self.url}/v1",
            "headers": self._headers,
            "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            "follow_redirects": False,
            "trust_env": not here,
            # Where there is neither TLS nor a proxy, there is no authority to know: 20 ms of CPU.
            "verify": parts.scheme == "https" or not here,
        }

    def lost(self, error: httpx.RequestError, elapsed_s: float) -> Lost:
        """Return what a failure of the connection means."""
        never = isinstance(error, _NEVER_SENT)
        what = "cannot connect" if never else "the connection broke before the answer"
        why = str(error) or type(error).__name__
        return Lost(sent=not never, reason=f"{self.url}: {what} ({why})", elapsed_s=elapsed_s)


def request(call: Call[Any]) -> dict[str, Any]:
    """Return the arguments of httpx's `request` for `call`."""
    headers = dict(call.headers)
    if call.content_type is not None:
        headers["Content-Type"] = call.content_type
    return {
        "method": call.method,
        "url": call.path,
        "params": list(call.params),
        "headers": headers,
        "content": call.body or None,
    }


def answer(response: httpx.Response, elapsed_s: float) -> Answer:
    """`response` as a value."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(
        status=response.status_code,
        headers=headers,
        body=response.content,
        elapsed_s=elapsed_s,
    )


def _headers(api_key: str | None, tenant: str | None) -> dict[str, str]:
    headers = {"User-Agent": f"postback-python/{VERSION}", "Accept": "*/*"}
    if api_key is not None:
        if not _VISIBLE.fullmatch(api_key):
            raise ValueError("the API key must be visible ASCII characters, without spaces")
        headers["Authorization"] = f"Bearer {api_key}"
    if tenant is not None:
        if not _VISIBLE.fullmatch(tenant):
            raise ValueError("the tenant must be visible ASCII characters, without spaces")
        headers["Postback-Tenant"] = tenant
    return headers


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        plain = not (parts.query or parts.fragment or parts.username or parts.password)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        plain = usable = False
    if not (plain and usable):
        raise ValueError("the service's URL must look like http://127.0.0.1:8600")
    return url.rstrip("/")
