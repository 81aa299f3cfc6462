"""Reading a request's body: bounded in bytes, in time, and in memory over all requests."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

from starlette.types import Message, Receive

from dispatcher.api.errors import ApiError, unavailable

# All bodies that are still arriving, together: eight of the largest batches.
BUFFERED_BYTES_MAX: Final = 128 * 1024 * 1024
# Read and forgotten before an early answer: a peer that is still sending would not see it.
DISCARDED_BYTES_MAX: Final = 64 * 1024 * 1024


class ClientGone(Exception):
    """The client hung up before its body was complete: there is nobody to answer."""


class Incoming:
    """A request's ASGI `receive` that knows whether all of the body has come through it."""

    __slots__ = ("_receive", "complete")

    def __init__(self, receive: Receive, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._receive = receive
        self.complete = not any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in headers
        )

    async def __call__(self) -> Message:
        message = await self._receive()
        self.complete = not message.get("more_body", False)
        return message


class BodyReader:
    """Reads bodies under one deadline each, and one limit on what all of them hold."""

    def __init__(self, *, timeout_s: float, buffered_bytes_max: int = BUFFERED_BYTES_MAX) -> None:
        self._timeout_s = timeout_s
        self._buffered_bytes_max = buffered_bytes_max
        self._buffered_bytes = 0

    async def read(
        self, receive: Receive, headers: Mapping[bytes, bytes], *, bytes_max: int
    ) -> bytes:
        """Return the whole body. Raises ApiError: 413 beyond `bytes_max`, 408 past the deadline,
        415 when it is compressed, 503 when too much is arriving at once; and ClientGone."""
        check_encoding(headers)
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit():
            raise ApiError("BAD_REQUEST", "Content-Length must be a number")
        if len(declared) > 15 or int(declared) > bytes_max:
            raise _too_large(bytes_max)
        try:
            async with asyncio.timeout(self._timeout_s):
                first, more = await _next(receive)
                if not more and len(first) <= bytes_max:
                    return first
                return await self._read_on(receive, first, more, bytes_max)
        except TimeoutError:
            raise ApiError(
                "REQUEST_TIMEOUT", f"the body did not arrive within {self._timeout_s:g} s"
            ) from None

    async def discard(self, incoming: Incoming) -> None:
        """Take in the rest of a body that nobody wants, as far as time and bytes allow. Closing on
        unread bytes resets the connection, and the answer on it would be lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                discarded_bytes = 0
                while not incoming.complete and discarded_bytes < DISCARDED_BYTES_MAX:
                    message = await incoming()
                    discarded_bytes += len(message.get("body", b""))

    async def _read_on(self, receive: Receive, first: bytes, more: bool, bytes_max: int) -> bytes:
        body = bytearray()
        chunk = first
        try:
            while True:
                self._buffered_bytes += len(chunk)
                body += chunk
                if len(body) > bytes_max:
                    raise _too_large(bytes_max)
                if self._buffered_bytes > self._buffered_bytes_max:
                    raise unavailable("too many large requests are arriving at once")
                if not more:
                    return bytes(body)
                chunk, more = await _next(receive)
        finally:
            self._buffered_bytes -= len(body)


def check_encoding(headers: Mapping[bytes, bytes]) -> None:
    """Raise ApiError (415) for a compressed body: it could unpack to anything."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", "send the body uncompressed")


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """Return the declared type without its parameters, in lower case."""
    return headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")


def check_media_type(headers: Mapping[bytes, bytes], allowed: tuple[str, ...]) -> None:
    """Raise ApiError (415) unless the body is declared as one of `allowed`, in UTF-8."""
    if media_type(headers) not in allowed:
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", f"Content-Type must be {' or '.join(allowed)}")
    _, _, charset = headers[b"content-type"].lower().partition(b"charset=")
    if charset and charset.split(b";")[0].strip(b' "') not in (b"utf-8", b"utf8", b"us-ascii"):
        raise ApiError("UNSUPPORTED_MEDIA_TYPE", "the charset must be utf-8")


async def _next(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message.get("body", b""), message.get("more_body", False)


def _too_large(bytes_max: int) -> ApiError:
    return ApiError(
        "PAYLOAD_TOO_LARGE",
        f"the body is larger than {bytes_max} bytes",
        details={"bytesMax": bytes_max},
    )
