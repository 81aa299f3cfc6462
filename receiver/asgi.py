"""The thin HTTP edge: requests in, answers out, every limit on a body, one shape of error."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

# Read and thrown away before a refusal, so that a client still sending gets to read the answer.
DRAIN_BYTES_MAX: Final = 8 * 1024 * 1024
BUSY_RETRY_AFTER_S: Final = 1  # the least that the header can say


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status, a JSON document (or text in its place), and further headers."""

    status: int = 200
    text: str | None = None
    document: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """What the caller did wrong, or why the service cannot: becomes the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status: Final = status
        self.code: Final = code
        self.message: Final = message
        self.details: Final = details or {}
        self.headers: Final = headers or {}

    def answer(self, request_id: str) -> Answer:
        document = {
            "error": self.code,
            "message": self.message,
            "details": self.details,
            "requestId": request_id,
        }
        return Answer(status=self.status, document=document, headers=self.headers)


class Disconnected(Exception):
    """The client has gone before its request was whole. There is nobody to answer."""


class Budget:
    """The body bytes that all requests together may hold in memory."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_left = bytes_max

    @contextmanager
    def share(self) -> Iterator[Callable[[int], bool]]:
        """Within, a function that takes bytes (False: none are left); after, all are given back."""
        taken = 0

        def take(size: int) -> bool:
            nonlocal taken
            if size > self._bytes_left:
                return False
            self._bytes_left -= size
            taken += size
            return True

        try:
            yield take
        finally:
            self._bytes_left += taken


class Request:
    """One HTTP request. ``path`` is below where the app is mounted; header names are lower-case."""

    def __init__(self, scope: Scope, receive: Receive, request_id: str) -> None:
        self.id: Final = request_id
        self.method: Final[str] = scope["method"]
        self.path: Final = _path(scope)
        self.query: Final[bytes] = scope.get("query_string", b"")
        self.headers: Final[list[tuple[bytes, bytes]]] = list(scope["headers"])
        self.notes: Final[dict[str, Any]] = {}  # for the request's line in the log
        self._receive: Final = receive
        self._whole = False

    def header(self, name: bytes) -> str | None:
        """The first value of a header."""
        return next((v.decode("latin-1").strip() for k, v in self.headers if k == name), None)

    async def body(self, *, bytes_max: int, timeout_s: float, take: Callable[[int], bool]) -> bytes:
        """The whole body, never more than ``bytes_max`` of it in memory.

        Refusal: 413 too large, 408 too slow, 503 when ``take`` has no bytes left.
        """
        length = self.header(b"content-length")
        if length is not None and length.isdecimal() and _exceeds(length, bytes_max):
            raise _too_large(bytes_max)
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(timeout_s):
                while not self._whole:
                    chunk = await self._chunk()
                    size += len(chunk)
                    if size > bytes_max:
                        raise _too_large(bytes_max)
                    if not take(len(chunk)):
                        raise busy("too many bodies are being received at once")
                    chunks.append(chunk)
        except TimeoutError:
            message = f"the body did not arrive within {timeout_s:g} s"
            raise Refusal(408, "REQUEST_TIMEOUT", message) from None
        return b"".join(chunks)

    async def drain(self, timeout_s: float) -> bool:
        """Reads on and throws away, within limits; whether that was the whole body."""
        left = DRAIN_BYTES_MAX
        try:
            async with asyncio.timeout(timeout_s):
                while not self._whole and left > 0:
                    left -= len(await self._chunk())
        except TimeoutError:
            return False
        return self._whole

    async def _chunk(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise Disconnected
        self._whole = not event.get("more_body", False)
        return bytes(event.get("body", b""))


def busy(message: str) -> Refusal:
    """The 503 of a limit that other clients have used up; it passes quickly."""
    return Refusal(503, "BUSY", message, headers={"retry-after": str(BUSY_RETRY_AFTER_S)})


async def send_answer(send: Send, answer: Answer, request_id: str, *, close: bool) -> None:
    """Sends the whole answer; ``close`` ends the connection after it."""
    if answer.text is None:
        body = json.dumps(answer.document, separators=(",", ":")).encode("ascii")
    else:
        body = answer.text.encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": request_id,
        **({"connection": "close"} if close else {}),
        **answer.headers,
    }
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _path(scope: Scope) -> str:
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _exceeds(digits: str, most: int) -> bool:
    """Whether a number is larger, without converting thousands of digits."""
    return len(digits.lstrip("0")) > len(str(most)) or int(digits[-20:]) > most


def _too_large(bytes_max: int) -> Refusal:
    message = f"the body is larger than {bytes_max} bytes"
    return Refusal(413, "PAYLOAD_TOO_LARGE", message, details={"bytesMax": bytes_max})
