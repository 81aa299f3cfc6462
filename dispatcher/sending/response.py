"""What is kept of a destination's answer: pure readers of hostile text."""

import codecs
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import EMPTY_BODY_STATUS_CODES
from aiohttp.http import HttpResponseParser, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

_SECONDS: Final = re.compile(r"[0-9]{1,10}")
# The three forms of RFC 9110 section 5.6.7; the parser behind them would take far more.
_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{5,8}, \d{2}-[A-Z][a-z]{2}-\d{2} \d{2}:\d{2}:\d{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2} \d{4}",
    re.ASCII,
)
# C0 and C1 controls but tab and newline, and what turns the direction of text around it.
_UNSAFE: Final = dict.fromkeys(
    (
        *(code for code in range(0x20) if code not in (0x09, 0x0A)),
        *range(0x7F, 0xA0),
        0x061C,
        *range(0x200E, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    ),
    "\ufffd",
)

# Of an upstream's answer: how to read its body, and what to quote to who runs it.
_KEPT: Final = ("Content-Encoding", "Content-Language", "Content-Disposition", "X-Request-Id")
_KEPT_CHARS_MAX: Final = 512
_TYPE_CHARS_MAX: Final = 255
_ANY_TYPE: Final = "application/octet-stream"
_MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")

HEAD_BYTES_MAX: Final = 256 * 1024  # informational ones among them
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r?\n")
_INFORMATIONAL: Final = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9]{2}[ \r\n]")
_LENGTH: Final = re.compile(rb"\r?\n(?i:content-length):[ \t]*([0-9]{1,18})[ \t]*(?=\r?\n)")
_ANY_LENGTH: Final = re.compile(rb"\r?\n(?i:content-length)[ \t]*:")
_CODING: Final = re.compile(rb"\r?\n(?i:transfer-encoding):[^\r\n]*(?=\r?\n)")


def retry_after_ms(value: str | None, now_ms: int) -> int | None:
    """Return the wait that a `Retry-After` asks for: seconds or an HTTP date; 0 for one in the
    past. None where there is none, or none that can be understood."""
    if value is None:
        return None
    text = value.strip(" \t")
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = parsedate_to_datetime(text)
        # A form without a zone is in GMT all the same.
        until_ms = round(moment.timestamp() * 1000) if moment.tzinfo else _utc_ms(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0, until_ms - now_ms)


def _utc_ms(text: str) -> int:
    return round(parsedate_to_datetime(f"{text} GMT").timestamp() * 1000)


def excerpt(body: bytes, bytes_max: int) -> str | None:
    """Return the beginning of an answer as text that is safe to store, to log and to show: what is
    not UTF-8, control characters and direction marks are replaced. None for an empty body."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    # Not final: a character cut in two by the limit is left out.
    text = decoder.decode(body[:bytes_max], len(body) <= bytes_max)
    if not text.isprintable():
        text = text.replace("\r\n", "\n").translate(_UNSAFE)
    return text or None


def kept_type(value: str | None) -> str:
    """Return a `Content-Type` that is fit to be kept and sent on, parameters and all; that of any
    bytes where there is none, or it is no such thing."""
    text = "" if value is None else value.strip(" \t")
    media_type = text.partition(";")[0].rstrip(" \t")
    is_fit = text.isascii() and text.isprintable() and len(text) <= _TYPE_CHARS_MAX
    return text if is_fit and _MEDIA_TYPE.fullmatch(media_type) else _ANY_TYPE


def kept_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what is kept of an upstream's headers beside its type, in lower case: an allow-list,
    of those that are plain text of bounded length."""
    found = [(name.lower(), headers[name]) for name in _KEPT if name in headers]
    return tuple(
        (name, value)
        for name, value in found
        if value and len(value) <= _KEPT_CHARS_MAX and value.isascii() and value.isprintable()
    )


def find_head(
    received: bytes, protocol: ResponseHandler, params: Mapping[str, Any]
) -> tuple[RawResponseMessage, StreamReader] | None:
    """Return the final head in `received`, and as its body what came behind it, as it came; None
    where no head is complete, or it is no HTTP. `params` are those of `set_response_params`.

    For aiohttp's parser takes head and rest in one go, and refuses both for a fault in the rest.
    """
    found = split_head(received, protocol, params)
    if found is None:
        return None
    message, rest = found
    return message, body_of(message, rest[: params["read_bufsize"]], protocol)


def split_head(
    received: bytes, protocol: ResponseHandler, params: Mapping[str, Any]
) -> tuple[RawResponseMessage, bytes] | None:
    """Return the final head in `received`, and the bytes behind it."""
    start = 0
    while (end := _HEAD_END.search(received, start)) is not None:
        if not _INFORMATIONAL.match(received, start):
            break
        start = end.end()
    else:
        return None
    head = received[start : end.end()]
    message = _parsed(head, protocol, params) or _parsed(_unframed(head), protocol, params)
    return None if message is None else (message, received[end.end() :])


def status_of(received: bytes) -> int | None:
    """Return the code of the final status line in `received`, which stands behind informational
    heads; None where there is none yet, or it is no HTTP."""
    start = 0
    while _INFORMATIONAL.match(received, start):
        end = _HEAD_END.search(received, start)
        if end is None:
            return None
        start = end.end()
    line = _STATUS_LINE.match(received, start)
    return None if line is None else int(line[1])


def _parsed(
    head: bytes | None, protocol: ResponseHandler, params: Mapping[str, Any]
) -> RawResponseMessage | None:
    if head is None:
        return None
    parser = HttpResponseParser(
        protocol,
        protocol._loop,
        params["read_bufsize"],
        payload_exception=aiohttp.ClientPayloadError,
        auto_decompress=False,
        max_line_size=params["max_line_size"],
        max_field_size=params["max_field_size"],
        max_headers=params["max_headers"],
    )
    try:
        messages, _upgraded, _rest = parser.feed_data(head)
    except HttpProcessingError:
        return None
    message: RawResponseMessage | None = messages[0][0] if messages else None
    return message


def _unframed(head: bytes) -> bytes | None:
    """Return a head without what says where its body ends, where that is told twice: by a length
    repeated, or by length and coding. None for lengths that differ or are none, as of no head."""
    lengths = _LENGTH.findall(head)
    if len(lengths) != len(_ANY_LENGTH.findall(head)) or len(set(lengths)) > 1:
        return None
    return _CODING.sub(b"", _LENGTH.sub(b"", head))


def body_of(
    message: RawResponseMessage, body: bytes | None, protocol: ResponseHandler
) -> StreamReader:
    """Return a body that has come to its end already; one that never will (None) is an error."""
    if message.code in EMPTY_BODY_STATUS_CODES:
        return EMPTY_PAYLOAD
    size = 0 if body is None else len(body)
    payload = StreamReader(protocol, size + 1, loop=protocol._loop)
    if body is None:
        payload.set_exception(aiohttp.ClientPayloadError("its body is garbled"))
    elif body:
        payload.feed_data(body)
    payload.feed_eof()
    return payload
