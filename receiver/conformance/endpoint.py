"""The receiver under test: each request has one deadline, and only the status of its response is
read. Whatever is at the other end, it neither hangs the kit nor fills its memory."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, Literal, Self, TypeAlias

import httpx

from receiver.base.tls import trusted
from receiver.conformance.deliveries import Delivery
from receiver.settings import CA_FILE

# A status; or: the connection was ended, nothing came in time, nobody is there.
Response: TypeAlias = int | Literal["closed", "silent", "unreachable"]

TIMEOUT_S: Final = 10.0  # RunPod's timeout, the shortest of the senders we know
UPLOAD_BYTES_PER_S: Final = 1024 * 1024  # a huge body gets as much longer as a slow line takes
EFFECTS_BYTES_MAX: Final = 16 * 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
_PORT_MAX: Final = 65_535
_NEVER_S: Final = 86_400.0
_HANG_UP_AFTER_S: Final = 0.05


class KitError(Exception):
    """There is nothing to judge: the message says why, in one line."""


def check_url(url: str) -> httpx.URL:
    """Return the URL; ValueError for what no request can be sent to."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise ValueError(f"not a URL: {url!r}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"not an http or https URL: {url!r}")
    if not 0 < (parsed.port or 1) <= _PORT_MAX:
        raise ValueError(f"a port is from 1 to {_PORT_MAX}, not {parsed.port}")
    return parsed


def redacted(url: httpx.URL) -> str:
    """Return the URL without what may be secret in it: user, password and query."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))


class Endpoint:
    """A receiver's URL and the client for it. `async with` it."""

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, ca_file: str | None = None
    ) -> None:
        """Raise ValueError for what is no URL, and SettingError for authorities that cannot be
        used."""
        self.url = check_url(url)
        self._timeout_s = timeout_s
        # Only our own deadlines end anything, and nothing of the environment counts.
        self._tls = trusted(CA_FILE, ca_file)
        self._http = httpx.AsyncClient(verify=self._tls, timeout=_NEVER_S, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, delivery: Delivery) -> Response:
        """Return what became of one delivery."""
        body = _pieces(delivery.body) if delivery.chunked else delivery.body
        request = self._http.build_request("POST", self.url, content=body, headers=delivery.headers)
        try:
            async with asyncio.timeout(self._timeout_s + len(delivery.body) / UPLOAD_BYTES_PER_S):
                response = await self._http.send(request, stream=True)
                await response.aclose()
        except TimeoutError:
            return "silent"
        except httpx.ConnectError:
            return "unreachable"
        except httpx.TransportError:
            return "closed"
        return response.status_code

    async def hang_up(self, delivery: Delivery) -> None:
        """Send the first half of a delivery, and close the connection."""
        target = self.url.raw_path.decode("ascii")
        headers = {"Host": self.url.netloc.decode("ascii"), **delivery.headers}
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        length = f"Content-Length: {len(delivery.body)}\r\n\r\n"
        head = f"POST {target} HTTP/1.1\r\n{''.join(lines)}{length}"
        is_tls = self.url.scheme == "https"
        port = self.url.port or (443 if is_tls else 80)
        with suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(self._timeout_s):
                _, writer = await asyncio.open_connection(
                    self.url.host, port, ssl=self._tls if is_tls else None
                )
                try:
                    writer.write(head.encode() + delivery.body[: len(delivery.body) // 2])
                    await writer.drain()
                    await asyncio.sleep(_HANG_UP_AFTER_S)
                finally:
                    writer.close()
        await asyncio.sleep(_HANG_UP_AFTER_S)  # time to meet it

    async def reach(self) -> None:
        """Raise KitError, with the cause, where nobody listens."""
        try:
            async with asyncio.timeout(self._timeout_s):
                async with self._http.stream("GET", self.url):
                    return
        except TimeoutError:
            reason = f"no answer within {self._timeout_s:g} s"
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        raise KitError(f"cannot reach {redacted(self.url)}: {reason}")

    async def effects(self, url: httpx.URL) -> dict[str, tuple[str, ...]]:
        """Return the statuses that were handled, by job. Raises KitError."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._http.stream("GET", url) as response,
            ):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > EFFECTS_BYTES_MAX:
                        raise KitError(
                            f"{redacted(url)} answers more than {EFFECTS_BYTES_MAX} bytes"
                        )
            document: Any = json.loads(bytes(body))
            return {job: tuple(str(one) for one in all_) for job, all_ in document.items()}
        except (TimeoutError, httpx.HTTPError):
            reason = "does not answer"
        except (ValueError, AttributeError, TypeError, RecursionError):
            reason = "does not answer {job: [status, …]} in JSON"
        raise KitError(f"{redacted(url)} {reason}")


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body) or 1, _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]
