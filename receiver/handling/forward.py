"""`--forward URL`: each new message goes on to a local HTTP service, for any language.

The body goes byte for byte, and with it what we know of it in headers. Any 2xx is "handled";
anything else is a failed attempt, and is tried again like any handler.
"""

from typing import Final
from urllib.parse import quote

import httpx

from receiver.base.lack import OwnLack, has_no_port, lack_of
from receiver.base.tls import trusted
from receiver.event import Event
from receiver.names import with_own_lookups
from receiver.settings import CA_FILE

TIMEOUT_MARGIN: Final = 1.0  # the handler's own time ends first: its log says which it was


class ForwardError(Exception):
    """The service did not take the message; the message says what it answered."""


class Forwarder:
    """A handler that posts each event to a URL. Close it when it is done with."""

    def __init__(self, url: str, *, timeout_s: float, ca_file: str | None = None) -> None:
        """Raise ValueError for what is no http or https URL, and SettingError for authorities that
        cannot be used."""
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise ValueError(f"not a URL: {url!r}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"not an http or https URL: {url!r}")
        self._url = url
        self._client = with_own_lookups(
            httpx.AsyncClient(
                verify=trusted(CA_FILE, ca_file),
                timeout=timeout_s + TIMEOUT_MARGIN,
                trust_env=False,
                follow_redirects=False,
            )
        )

    async def __call__(self, event: Event) -> None:
        """Raise ForwardError or httpx.HTTPError; OwnLack where the service is not to blame."""
        request = self._client.build_request(
            "POST", self._url, content=event.raw, headers=_headers(event)
        )
        try:
            response = await self._client.send(request, stream=True)
        except Exception as error:
            lack = lack_of(error) or ("ports" if has_no_port(error, request.url.host) else None)
            if lack is not None:
                raise OwnLack(lack, str(error)) from error
            raise
        await response.aclose()  # nothing but its status matters
        if not response.is_success:
            raise ForwardError(f"{self._url} answered {response.status_code}")

    async def close(self) -> None:
        await self._client.aclose()


def _content_type(event: Event) -> str:
    sent = event.content_type or ""
    return sent if sent and sent.isascii() and sent.isprintable() else "application/octet-stream"


def _headers(event: Event) -> dict[str, str]:
    """Return what we know of the event, percent-encoded: ids may hold any printable character. The
    key names the message in every attempt: by it the service drops what it has seen."""
    return {
        "Content-Type": _content_type(event),
        "Postback-Job-Id": quote(event.job_id),
        "Postback-Job-Status": quote(event.status),
        "Postback-Job-Run": str(event.run),
        "Postback-Platform": event.platform,
        "Postback-Source": quote(event.source),
        "Postback-Attempt": str(event.attempt),
        "Idempotency-Key": quote(event.key, safe=":"),
    }
