"""The thin HTTP edge: requests in, answers out, every limit on a body, one shape of error."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

EXCHANGE: Final = "postback.exchange"  # its name in a scope

# Read and thrown away before a refusal, so that a client still sending gets to read the answer.
DRAIN_BYTES_MAX: Final = 8 * 1024 * 1024
BUSY_RETRY_AFTER_S: Final = 1  # the least that the header can say

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # dumps() makes one each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status, a JSON document (or text in its place), and further headers."""

    status: int = 200
    text: str | None = None
    document: dict[str, Any] = field(default_factory=dict)
    content_type: bytes = b"application/json"
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
        self.status = status
        self.code = code
        self.message = message
        self.details = details or {}
        self.headers = headers or {}

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

    def take(self, size: int) -> bool:
        """Whether there are so many left; then they are taken until they are given back."""
        if size > self._bytes_left:
            return False
        self._bytes_left -= size
        return True

    def give_back(self, size: int) -> None:
        self._bytes_left += size


class Exchange(Protocol):
    """What our own server puts into a scope beside `receive` and `send`. Those take several
    steps, a timer and two writes for what mostly is there at once and leaves in one piece."""

    def whole_body(self, scope: Scope) -> bytes | None:
        """Return the whole body where all of it has arrived, else None; once."""

    def answer(self, scope: Scope, status: int, head: bytes, body: bytes, *, close: bool) -> bool:
        """Whether it sent it all, in one write; where not, `send` has to. `head` is the lines
        of the headers; `close` ends the connection."""


class Request:
    """One HTTP request. `path` is below where the app is mounted; header names are lower-case."""

    def __init__(self, scope: Scope, receive: Receive, request_id: str) -> None:
        self.id = request_id
        self.method: str = scope["method"]
        self.path = _path(scope)
        self.query: bytes = scope.get("query_string", b"")
        self.headers: Headers = list(scope["headers"])
        self.notes: dict[str, Any] = {}  # for the request's line in the log
        self.taken_bytes = 0  # of the budget of its body
        self._first = dict(reversed(self.headers))  # of several of one name
        self._scope = scope
        self._receive = receive
        self._whole = False

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header."""
        value = self._first.get(name)
        return None if value is None else value.decode("latin-1").strip()

    def whole_body(self, bytes_max: int, budget: Budget) -> bytes | None:
        """Return the body where it needs no waiting for, else None: then `body` has it. Mostly our
        server has all of it by now, and waiting costs a timer."""
        exchange: Exchange | None = self._scope.get(EXCHANGE)
        body = None if exchange is None else exchange.whole_body(self._scope)
        if body is not None:
            self._whole = True
            self._take(len(body), bytes_max, budget)
        return body

    async def body(self, *, bytes_max: int, timeout_s: float, budget: Budget) -> bytes:
        """Return the whole body, never more than `bytes_max` of it in memory. What it takes from
        `budget` is counted in `taken_bytes`; the caller gives it back.

        Refusal: 413 too large, 408 too slow, 503 when the budget has no bytes left.
        """
        length = self.header(b"content-length")
        if length is not None and length.isdecimal() and _exceeds(length, bytes_max):
            raise _too_large(bytes_max)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not self._whole:
                    chunk = await self._chunk()
                    self._take(len(chunk), bytes_max, budget)
                    chunks.append(chunk)
        except TimeoutError:
            message = f"the body did not arrive within {timeout_s:g} s"
            raise Refusal(408, "REQUEST_TIMEOUT", message) from None
        return b"".join(chunks)

    def _take(self, size: int, bytes_max: int, budget: Budget) -> None:
        if self.taken_bytes + size > bytes_max:
            raise _too_large(bytes_max)
        if not budget.take(size):
            raise busy("too many bodies are being received at once")
        self.taken_bytes += size

    @property
    def has_arrived(self) -> bool:
        """Whether nothing of it is left to be read."""
        exchange: Exchange | None = self._scope.get(EXCHANGE)
        if exchange is not None and not self._whole:
            self._whole = exchange.whole_body(self._scope) is not None
        return self._whole

    async def drain(self, timeout_s: float) -> bool:
        """Read on and throws away, within limits; whether that was the whole body."""
        left = DRAIN_BYTES_MAX
        try:
            async with asyncio.timeout(timeout_s):
                while left > 0 and not self._whole:
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
    """Return the 503 of a limit that other clients have used up; it passes quickly."""
    return Refusal(503, "BUSY", message, headers={"retry-after": str(BUSY_RETRY_AFTER_S)})


async def send_answer(
    scope: Scope, send: Send, answer: Answer, request_id: str, *, close: bool
) -> None:
    """Send the whole answer; `close` ends the connection after it."""
    text = _encode(answer.document) if answer.text is None else answer.text
    body = text.encode()
    head = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n" % (
        answer.content_type,
        len(body),
        request_id.encode("ascii"),
    )
    for name, value in answer.headers.items():
        head += f"{name}: {value}\r\n".encode("latin-1")
    exchange: Exchange | None = scope.get(EXCHANGE)
    if exchange is not None and exchange.answer(scope, answer.status, head, body, close=close):
        return
    lines = head.split(b"\r\n")[:-1] + [b"connection: close"] * close
    pairs = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
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
