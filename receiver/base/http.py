"""The thin HTTP edge: requests in, responses out, every limit on a body, strict query strings, one
shape of error."""

import asyncio
import json
import math
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    MutableMapping,
    Set,
)
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qsl

from receiver.base.budget import Budget, site_of
from receiver.base.encoding import encoder
from receiver.base.forwarded import NOBODY_TRUSTED, Proxies
from receiver.base.words import nearest

T = TypeVar("T")
Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

EXCHANGE: Final = "postback.exchange"  # its name in a scope

BUSY_RETRY_AFTER_S: Final = 1  # the least that the header can say
PARAMETERS_MAX: Final = 64  # of a query string
DIGITS_MAX: Final = 18  # an id fits 63 bits
_STRETCH_BYTES: Final = 1024 * 1024  # of a long body
_REASON_CHARS_MAX: Final = 300
_VALUE_CHARS_MAX: Final = 100
_NUMBER_MAX: Final = 2**53  # what every reader of JSON holds exactly

_encode: Final = encoder(separators=(",", ":"))
_TEXT: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str)


@dataclass(slots=True, kw_only=True)
class Response:
    """A status, a JSON document (or text in its place), and further headers. Nobody changes one; to
    have Python see to that would make it take twice as long to make."""

    status: int = 200
    text: str | None = None
    document: dict[str, Any] = field(default_factory=dict)
    content_type: bytes = b"application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """What the caller did wrong, or why the service cannot: becomes the response. `details` are fit
    to show."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = _short(message, _REASON_CHARS_MAX)
        self.details = dict(details) if details else {}
        self.headers = dict(headers) if headers else {}

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """Return the one shape of all errors (D13)."""
        shape = {"error": self.code, "message": self.message, "details": self.details}
        if request_id is not None:
            shape["requestId"] = request_id
        return shape

    def response(self, request_id: str) -> Response:
        """Return the response that it becomes."""
        document = self.document(request_id)
        return Response(status=self.status, document=document, headers=self.headers)


class Disconnected(Exception):
    """The client has gone before its request was whole. There is nobody to respond to."""


def busy(message: str) -> Refusal:
    """Return the 503 of a limit that other clients have used up; it passes quickly."""
    return Refusal(503, "BUSY", message, headers={"retry-after": str(BUSY_RETRY_AFTER_S)})


class Bodies:
    """The body bytes that all requests together may hold in memory, shared by holders as a `Budget`
    is; but one body of `body_bytes_max` fits. `refusal` makes what is raised where there are not
    enough left."""

    def __init__(
        self,
        bytes_max: int,
        *,
        share: float = 1.0,
        body_bytes_max: int = 0,
        refusal: Callable[[str], Refusal] = busy,
    ) -> None:
        bytes_max = max(bytes_max, body_bytes_max)
        budget = Budget(bytes_max, max(share, body_bytes_max / bytes_max))
        self._take, self._give_back = budget.take, budget.give_back
        self._refusal = refusal

    def take(self, size: int, holder: str) -> None:
        """Take so many until they are given back. Raises the refusal."""
        if not self._take(size, holder):
            raise self._refusal("too many bodies are being received at once")

    def give_back(self, request: "Request") -> None:
        """Take back all that a request has taken."""
        if request.taken_bytes:
            self._give_back(request.taken_bytes, request.holder)
            request.taken_bytes = 0


class Exchange(Protocol):
    """What our own server puts into a scope beside `receive` and `send`. Those take several
    steps, a timer and two writes for what mostly is there at once and leaves in one piece."""

    def whole_body(self, scope: Scope) -> bytes | None:
        """Return the whole body where all of it has arrived, else None; once."""

    def respond(self, scope: Scope, status: int, head: bytes, body: bytes, *, close: bool) -> bool:
        """Whether it sent it all, in one write; where not, `send` has to. `head` is the lines
        of the headers; `close` ends the connection."""

    async def sent(self) -> None:
        """Wait until nothing of what was sent is left here: it is with the kernel, or lost."""

    def renew(self) -> None:
        """Have the time begin anew for which the running response may wait for its reader."""


class Request:
    """One HTTP request. `path` is below where the app is mounted; header names are lower-case.
    `proxies` are those whose word on who asks counts."""

    response_headers: tuple[tuple[bytes, bytes], ...] = ()  # whatever the response is
    holder = ""  # whose share of the bodies it takes
    taken_bytes = 0
    is_read = False  # all of it, by our own server: nothing is left to `finish`
    _address: str | None = None
    _whole = False
    _read_bytes = 0

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        request_id: str,
        proxies: Proxies = NOBODY_TRUSTED,
    ) -> None:
        self.id = request_id
        self.method: str = scope["method"]
        self.path = _path(scope)
        self.query: bytes = scope.get("query_string", b"")
        self.headers: Headers = list(scope["headers"])
        self.notes: dict[str, Any] = {}  # for the request's line in the log
        self._first = dict(reversed(self.headers))  # of several of one name
        self._scope = scope
        self._receive = receive
        self._proxies = proxies

    @property
    def address(self) -> str:
        """Who asks: the address of the connection's peer, or by the word of a trusted proxy that of
        whom it asks for; empty where there is none."""
        if self._address is None:
            client = self._scope.get("client")
            self._address = self._proxies.address(client[0], self.headers) if client else ""
        return self._address

    @property
    def scheme(self) -> str:
        """What it was asked by, `http` or `https`: as a trusted proxy says, or as it came."""
        client, scheme = self._scope.get("client"), str(self._scope.get("scheme", "http"))
        return self._proxies.scheme(client[0], scheme, self.headers) if client else scheme

    @property
    def peer(self) -> str:
        """Whose share it takes: of the address that asks, or of the network of an IPv6 one."""
        return site_of(self.address)

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header."""
        value = self._first.get(name)
        return None if value is None else value.decode("latin-1").strip(" \t")

    def given(self, names: Set[bytes]) -> dict[bytes, str]:
        """Return the first values of those of these headers that are there."""
        return {
            name: value.decode("latin-1").strip(" \t")
            for name, value in self._first.items()
            if name in names
        }

    def check_single(self, names: Iterable[bytes]) -> None:
        """Raise Refusal (400) where one of these headers is there twice: the request would say two
        things."""
        if len(self._first) == len(self.headers):
            return
        for name in names:
            if sum(other == name for other, _ in self.headers) > 1:
                raise Refusal(400, "BAD_REQUEST", f"the header {name.decode()} is there twice")

    def check_encoding(self) -> None:
        """Raise Refusal (415) for a compressed body: signatures cover the bytes as sent, and bombs
        stay packed."""
        if b"content-encoding" not in self._first:
            return
        for name, value in self.headers:
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise Refusal(
                    415,
                    "UNSUPPORTED_MEDIA_TYPE",
                    "send the body uncompressed",
                    headers={"accept-encoding": "identity"},
                )

    def check_media_type(self, allowed: Collection[str]) -> None:
        """Raise Refusal (415) unless the body is declared as one of these types, in UTF-8."""
        media_type, _, parameters = (self.header(b"content-type") or "").lower().partition(";")
        if media_type.strip() not in allowed:
            message = f"Content-Type must be {' or '.join(allowed)}"
            raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", message)
        charset = parameters.partition("charset=")[2].split(";")[0].strip(' "')
        if charset not in ("", "utf-8", "utf8", "us-ascii"):
            raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE", "the charset must be utf-8")

    def whole_body(self, bytes_max: int, bodies: Bodies | None = None) -> bytes | None:
        """Return the body where it needs no waiting for, else None: then `body` has it. Mostly our
        server has all of it by now, and waiting costs a timer. Raises Refusal: 413 too large, and
        that of `bodies`."""
        exchange: Exchange | None = self._scope.get(EXCHANGE)
        body = None if exchange is None else exchange.whole_body(self._scope)
        if body is None:
            return None
        self.is_read = self._whole = True  # and as long as it was declared: we have framed it
        size = len(body)
        if size > bytes_max:
            raise _too_large(bytes_max)
        if bodies is not None:
            bodies.take(size, self.holder)
            self.taken_bytes = size
        return body

    async def body(self, *, bytes_max: int, timeout_s: float, bodies: Bodies) -> bytes:
        """Return the whole body, never more than `bytes_max` of it in memory. What it takes from
        `bodies` is counted in `taken_bytes`; the caller gives it back.

        Raises Disconnected, and Refusal: 413 too large, 408 too slow, 400 for a length that is no
        number or another one than declared, and that of `bodies`.
        """
        length = self.header(b"content-length")
        if length is not None and not (length.isascii() and length.isdecimal()):
            raise Refusal(400, "BAD_REQUEST", "Content-Length must be a number")
        if length is not None and _exceeds(length, bytes_max):
            raise _too_large(bytes_max)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(timeout_s):
                while not self._whole:
                    chunks.append(await self._chunk())
                    self._take(len(chunks[-1]), bytes_max, bodies)
            if self._is_cut():
                raise Refusal(400, "BAD_REQUEST", "the body is not as long as it was declared")
            return b"".join(chunks)
        except TimeoutError:
            message = f"the body did not arrive within {timeout_s:g} s"
            raise Refusal(408, "REQUEST_TIMEOUT", message) from None
        finally:
            chunks.clear()  # or the traceback of an error would keep them

    def is_long(self, bytes_max: int) -> bool:
        """Whether the body may have more bytes than that: it says so, or does not say how many."""
        length = self.header(b"content-length")
        if length is None:
            return b"transfer-encoding" in self._first
        return length.isascii() and length.isdecimal() and _exceeds(length, bytes_max)

    def hold(self, size: int, bodies: Bodies) -> None:
        """Count bytes of the body that are in memory, as `body` does. Raises the refusal."""
        bodies.take(size, self.holder)
        self.taken_bytes += size

    async def pieces(self, bytes_max: int, *, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes; for each mebibyte of it is waited for so long in all. Raises
        as `body` does."""
        length = self.header(b"content-length")
        if length is not None and not (length.isascii() and length.isdecimal()):
            raise Refusal(400, "BAD_REQUEST", "Content-Length must be a number")
        if length is not None and _exceeds(length, bytes_max):
            raise _too_large(bytes_max)
        left, left_s, clock = _STRETCH_BYTES, timeout_s, asyncio.get_running_loop().time
        while not self._whole:
            begun_s = clock()
            try:
                async with asyncio.timeout(left_s):
                    piece = await self._chunk()
            except TimeoutError:
                message = (
                    f"less than {_STRETCH_BYTES} bytes of the body came within {timeout_s:g} s"
                )
                raise Refusal(408, "REQUEST_TIMEOUT", message) from None
            if self._read_bytes > bytes_max:
                raise _too_large(bytes_max)
            left, left_s = left - len(piece), left_s - (clock() - begun_s)
            if left <= 0:
                left, left_s = _STRETCH_BYTES, timeout_s
            if piece:
                yield piece
        if self._is_cut():
            raise Refusal(400, "BAD_REQUEST", "the body is not as long as it was declared")

    def _is_cut(self) -> bool:
        """Return whether the body that was read is not the one that was declared: some servers
        lose the body, or take it for the next request, where `Upgrade` is offered."""
        declared = self._first.get(b"content-length")
        if declared is not None:
            read = b"%d" % self._read_bytes
            return declared != read and declared.strip(b" \t").lstrip(b"0") != read.lstrip(b"0")
        is_offer = b"upgrade" in self._first and EXCHANGE not in self._scope
        return is_offer and self._read_bytes == 0 and b"transfer-encoding" in self._first

    def _take(self, size: int, bytes_max: int, bodies: Bodies | None) -> None:
        if self.taken_bytes + size > bytes_max:
            raise _too_large(bytes_max)
        if bodies is not None:
            bodies.take(size, self.holder)
            self.taken_bytes += size

    @property
    def has_arrived(self) -> bool:
        """Whether nothing of it is left to be read."""
        if not self._whole:
            exchange: Exchange | None = self._scope.get(EXCHANGE)
            if exchange is not None:
                self._whole = exchange.whole_body(self._scope) is not None
        return self._whole

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` does, which is cancelled when the client goes: for what only reads,
        once the request has arrived. Raises Disconnected."""
        if not self.has_arrived:
            return await work
        working, leaving = asyncio.create_task(work), asyncio.create_task(self._left())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Disconnected
            return working.result()
        finally:
            leaving.cancel()
            if working.cancel():
                working.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def finish(self, status: int, *, timeout_s: float, bytes_max: int) -> bool:
        """Return whether the connection must be closed after a response of this status. What has
        not arrived is read and thrown away first, within limits: closing on unread bytes resets a
        connection, and the response on it would be lost. Raises Disconnected."""
        if self.has_arrived:
            return EXCHANGE not in self._scope and self._is_cut()
        if status == 408 or b"expect" in self._first:
            return True  # waiting for more would be waiting twice, or would ask for what is refused
        left = bytes_max
        try:
            async with asyncio.timeout(timeout_s):
                while left > 0 and not self._whole:
                    left -= len(await self._chunk())
        except TimeoutError:
            return True
        return not self._whole or self._is_cut()

    async def _chunk(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise Disconnected
        self._whole = not event.get("more_body", False)
        chunk = bytes(event.get("body", b""))
        self._read_bytes += len(chunk)
        return chunk


async def send_response(
    scope: Scope, send: Send, response: Response, request_id: str, *, close: bool
) -> None:
    """Send the whole response; `close` ends the connection after it."""
    text = _encode(response.document) if response.text is None else response.text
    body = text.encode()
    head = b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n" % (
        response.content_type,
        len(body),
        request_id.encode("ascii"),
    )
    for name, value in response.headers.items():
        head += f"{name}: {value}\r\n".encode("latin-1")
    exchange: Exchange | None = scope.get(EXCHANGE)
    if exchange is None or not exchange.respond(scope, response.status, head, body, close=close):
        await _send_events(send, response.status, head, body, close=close)


async def send_bytes(
    scope: Scope, send: Send, status: int, head: bytes, body: bytes, *, close: bool
) -> None:
    """Send a whole response, in one write where our own server serves. `head` is the lines of its
    headers."""
    exchange: Exchange | None = scope.get(EXCHANGE)
    if exchange is None or not exchange.respond(scope, status, head, body, close=close):
        await _send_events(send, status, head, body, close=close)


async def _send_events(send: Send, status: int, head: bytes, body: bytes, *, close: bool) -> None:
    lines = head.split(b"\r\n")[:-1] + [b"connection: close"] * close
    pairs = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def sent(scope: Scope) -> None:
    """Wait until a whole response has left, where our own server serves."""
    exchange: Exchange | None = scope.get(EXCHANGE)
    if exchange is not None:
        await exchange.sent()


def renew(scope: Scope) -> None:
    """Have a long response wait for its reader as long again: a part of it was read."""
    exchange: Exchange | None = scope.get(EXCHANGE)
    if exchange is not None:
        exchange.renew()


def read_query(raw: bytes, allowed: Collection[str] | None = None) -> dict[str, str]:
    """Return the parameters of a query string. Raises Refusal (422) for one that is there twice or
    that is not among `allowed`, for text that is not UTF-8, and for more than 64."""
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=PARAMETERS_MAX,
        )
    except UnicodeError:
        raise invalid("query", None, "must be percent-encoded UTF-8") from None
    except ValueError:
        raise invalid("query", None, f"at most {PARAMETERS_MAX} parameters") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name in query:
            raise invalid(name, value, "the parameter is there twice")
        if allowed is not None and name not in allowed:
            there_are = f"there are {', '.join(allowed)}" if allowed else "there are none"
            hint = nearest(name, allowed)
            raise invalid(name, value, f"unknown parameter; {there_are}{hint}")
        query[name] = value
    return query


def query_values(raw: bytes, name: str) -> list[str]:
    """Return all values of one parameter, of a query string that may hold anything else."""
    try:
        pairs = parse_qsl(
            raw.decode("latin-1"), keep_blank_values=True, max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        raise invalid("query", None, f"at most {PARAMETERS_MAX} parameters") from None
    return [value for key, value in pairs if key == name]


def number(
    query: Mapping[str, str], name: str, *, min: int = 1, max: int, reason: str | None = None
) -> int | None:
    """Return a parameter that is a whole number within its bounds, or None where it is not there.
    Raises Refusal (422), with `reason` in place of the bounds."""
    text = query.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX
    if not is_number or not min <= int(text) <= max:
        raise invalid(name, text, reason or f"must be a whole number from {min} to {max}")
    return int(text)


def choice(query: Mapping[str, str], name: str, allowed: Collection[str]) -> str | None:
    """Return a parameter that is one of some words, or None where it is not there. Raises Refusal
    (422)."""
    value = query.get(name)
    if value is not None and value not in allowed:
        raise invalid(name, value, f"must be one of: {', '.join(allowed)}{nearest(value, allowed)}")
    return value


def invalid(field: str, value: object, reason: str) -> Refusal:
    """Return the 422 of a field (a dotted path), with its value as far as it may be shown."""
    field, reason = _short(field, _VALUE_CHARS_MAX), _short(reason, _REASON_CHARS_MAX)
    details = {"field": field, "value": _redacted(field, value), "reason": reason}
    return Refusal(422, "VALIDATION_ERROR", f"{field}: {reason}", details=details)


def _redacted(field: str, value: object) -> object:
    """Return `value` as an error may show it: bounded, and nothing of a secret or a header."""
    if "secret" in field.lower() or field.startswith("headers"):
        return None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _NUMBER_MAX else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = _without_tokens(value) if isinstance(value, str) else _TEXT.encode(value)
    return _short(text, _VALUE_CHARS_MAX)


def _short(text: str, chars_max: int) -> str:
    """Return `text` in UTF-8, and no more than so much of it."""
    if len(text) <= chars_max and text.isascii():
        return text  # as nearly all are
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= chars_max else clean[: chars_max - 1] + "…"


def _without_tokens(text: str) -> str:
    """Return a URL without what may hold a password or a token; any other text as it is."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    return f"{scheme}://…" if "@" in rest else text.partition("?")[0]


def has_encoded_slash(scope: Scope) -> bool:
    """Return whether the path has a `%2F`, which separates nothing but is a slash once decoded."""
    raw: bytes | None = scope.get("raw_path")
    return raw is not None and b"%" in raw and b"%2f" in raw.lower()


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    raw: bytes = scope.get("raw_path") or b""
    if b"%" in raw and has_encoded_slash(scope):
        return raw.decode("latin-1")  # as nothing of ours is named
    if not root:
        return path
    root = root.rstrip("/")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _exceeds(digits: str, number: int) -> bool:
    """Return whether a number is larger, without converting thousands of digits."""
    return len(digits.lstrip("0")) > len(str(number)) or int(digits[-20:]) > number


def _too_large(bytes_max: int) -> Refusal:
    message = f"the body is larger than {bytes_max} bytes"
    return Refusal(413, "PAYLOAD_TOO_LARGE", message, details={"bytesMax": bytes_max})
