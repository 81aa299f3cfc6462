"""One request on its way through the API: who asks, about what, and how its body is read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from starlette.responses import Response

from dispatcher.access import Principal
from dispatcher.api import documents
from dispatcher.api.context import Context
from receiver.base.http import Budget, Request, read_query

T = TypeVar("T")

JSON: Final = "application/json"
# With answers that hold a key or a secret.
NO_STORE: Final = {"Cache-Control": "no-store"}
# Beside a payload: the rest of a submit, or a whole request about something else.
JSON_BYTES_MAX: Final = 64 * 1024
_ENCODER: Final = msgspec.json.Encoder()
_decoders: Final[dict[type, msgspec.json.Decoder[Any]]] = {}


@dataclass(slots=True, kw_only=True)
class Call:
    """One authenticated request. `principal` and `tenant` are unset on public routes only."""

    context: Context
    request: Request = field(repr=False)
    bodies: Budget = field(repr=False)
    path: Mapping[str, str]
    principal: Principal = field(init=False)
    tenant: str = field(init=False)

    @property
    def now_ms(self) -> int:
        """The time by the service's clock."""
        return self.context.clock()

    def query(self, allowed: Collection[str] | None = None) -> dict[str, str]:
        """Return the query parameters, all of them among `allowed` where that is given."""
        return read_query(self.request.query, allowed)

    async def body(self, bytes_max: int) -> bytes:
        """Return the request's body. Raises what `Request.body` raises."""
        request = self.request
        request.check_encoding()
        body = request.whole_body(bytes_max)
        if body is not None:
            return body
        try:
            timeout_s = self.context.settings.request_timeout
            return await request.body(bytes_max=bytes_max, timeout_s=timeout_s, budget=self.bodies)
        finally:
            self.bodies.give_back(request.taken_bytes)

    async def json(self, shape: type[T], bytes_max: int = JSON_BYTES_MAX) -> T:
        """Return the request's JSON body in this shape. Raises ApiError."""
        self.request.check_media_type((JSON,))
        raw = await self.body(bytes_max)
        depth_max = self.context.settings.json_depth_max
        return documents.decode(decoder(shape), raw, depth_max=depth_max)

    def header(self, name: bytes) -> str | None:
        """Return a request header as text."""
        return self.request.header(name)


def decoder(shape: type[T]) -> msgspec.json.Decoder[T]:
    """Return the decoder of a request's shape: made once, since making one costs more than using
    it."""
    made: msgspec.json.Decoder[T] | None = _decoders.get(shape)
    if made is None:
        made = _decoders[shape] = msgspec.json.Decoder(shape)
    return made


def encode(value: Any) -> bytes:
    """`value` as JSON."""
    return _ENCODER.encode(value)


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(encode(value), status, headers, JSON)
