"""JSON in and out. Untrusted input is read strictly where parsers are lenient, and cheaply where
documents are ordinary."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any, Final, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.api.errors import ApiError
from dispatcher.api.misfits import misfit, text_of
from dispatcher.intake import may_repeat_a_key

T = TypeVar("T")

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
NO_STORE: Final = {"Cache-Control": "no-store"}  # with a response that holds a key or a secret
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_KEYS_MAX: Final = 1_000  # of an object that is looked at key by key
_SHOWN_BYTES_MAX: Final = 64 * 1024  # of a body that is read again for an error to tell more
_STRING: Final = json.JSONDecoder()
_OPENING: Final = re.compile(r"[ \t\r\n]*\{[ \t\r\n]*")
_COLON: Final = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_COMMA: Final = re.compile(r"[ \t\r\n]*[,}][ \t\r\n]*")
_ENCODER: Final = msgspec.json.Encoder()
_decoders: Final[dict[type, msgspec.json.Decoder[Any]]] = {}
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: +1 and -1
_UNMARKED: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def respond(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(encode(value), status, headers, JSON)


class Lines(Response):
    """A response that is sent piece by piece. It goes on when the client hangs up: what was begun
    is not left half done."""

    def __init__(
        self, pieces: AsyncIterator[bytes], headers: Mapping[str, str] | None = None
    ) -> None:
        self._pieces = pieces
        super().__init__(headers=headers, media_type=NDJSON)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        # A head goes out with what comes behind it, and the first piece may take its time.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def encode(value: Any) -> bytes:
    """`value` as JSON."""
    return _ENCODER.encode(value)


def decoder(shape: type[T]) -> msgspec.json.Decoder[T]:
    """Return the decoder of a request's shape: made once, since making one costs more than using
    it."""
    made: msgspec.json.Decoder[T] | None = _decoders.get(shape)
    if made is None:
        made = _decoders[shape] = msgspec.json.Decoder(shape)
    return made


def decode(decoder: msgspec.json.Decoder[T], body: bytes, *, depth_max: int) -> T:
    """Return the value of `body`, which must be one JSON object in UTF-8 without duplicate
    top-level keys, nested at most `depth_max` deep. Raises Refusal: 400 for what is not JSON, 422
    for what is not the shape."""
    check_text(body)
    try:
        value = decoder.decode(body)
        check_depth(body, depth_max)
        check_keys(body)
    except msgspec.ValidationError as error:
        raise misfit(str(error), decoder.type, _parsed(body)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(_reason(error, body)) from None
    except RecursionError:
        raise malformed("nested too deep") from None
    return value


def _reason(error: msgspec.DecodeError | UnicodeDecodeError, body: bytes) -> str:
    """Return why a body is no JSON. Half of a surrogate pair looks to the parser like the end."""
    if not body:
        return "the body is empty"
    told = text_of(error)
    if "truncated" in str(error):
        if len(body) > _SHOWN_BYTES_MAX:
            return f"{told}, or a text holds half a surrogate pair"
        with suppress(ValueError, RecursionError):
            json.loads(body, parse_int=len)
            return "a text holds half a surrogate pair, which is no character"
    return told


def malformed(reason: str) -> ApiError:
    """400: this is not a JSON document that we take."""
    return ApiError("MALFORMED_JSON", reason)


def check_text(body: bytes) -> None:
    """Raise unless `body` is UTF-8: a parser that skips a value does not look inside it."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise malformed(f"the body is not UTF-8: byte {error.start}") from None


def check_depth(body: bytes, depth_max: int) -> None:
    """Raise if the brackets of this JSON document nest deeper than `depth_max`. Only one with more
    brackets than that is looked at closely; ones inside strings do not count."""
    if body.count(b"{") + body.count(b"[") <= depth_max:
        return
    # Without its escapes a string ends at the next quote, so that every other piece is outside.
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _UNMARKED)
    brackets = b"".join(marks.split(b'"')[::2]).translate(_STEPS)
    if brackets and max(accumulate(memoryview(brackets).cast("b"))) > depth_max:
        raise malformed(f"nested more than {depth_max} levels deep")


def check_keys(body: bytes) -> None:
    """Raise if a top-level key is there twice, where parsers silently keep the last."""
    if may_repeat_a_key(body):
        _check_each_key(body)


def _check_each_key(body: bytes) -> None:
    """Step from key to key, over values that are known by their text: to make values of a long body
    would keep everybody else waiting for seconds."""
    last = _MEMBERS.decode(body)
    if len(last) > _KEYS_MAX:
        raise malformed(f"more than {_KEYS_MAX} keys, of which some are escaped or there twice")
    text, seen = body.decode(), set[str]()
    at = _behind(_OPENING, text, 0)
    while text.startswith('"', at):
        key, at = _STRING.raw_decode(text, at)
        value, at = bytes(last[key]).decode(), _behind(_COLON, text, at)
        end = _behind(_COMMA, text, at + len(value))
        # Where another value stands than the one that counts, that one comes later.
        if key in seen or not text.startswith(value, at) or not end:
            raise malformed(f"the key {key[:64]!r} is there twice")
        seen.add(key)
        at = end


def _behind(mark: re.Pattern[str], text: str, at: int) -> int:
    """Return where a mark ends that stands there; 0 where it does not."""
    found = mark.match(text, at)
    return 0 if found is None else found.end()


def _parsed(body: bytes) -> Any:
    """Return the value of `body`, for an error to show. A wrong shape is found before the end of
    the document is seen: where that is broken, it is no JSON at all."""
    try:
        return msgspec.json.decode(body) if len(body) <= _SHOWN_BYTES_MAX else _RAW.decode(body)
    except msgspec.ValidationError:  # JSON, but a number that nobody can hold
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise malformed(_reason(error, body)) from None
    except RecursionError:
        raise malformed("nested too deep") from None
