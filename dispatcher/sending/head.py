"""A complete head in what a peer sent, where aiohttp's parser takes head and rest in one go and
refuses both for a fault in the rest."""

import re
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import EMPTY_BODY_STATUS_CODES
from aiohttp.http import HttpResponseParser, RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

BYTES_MAX: Final = 256 * 1024  # of heads, informational ones among them
_END: Final = re.compile(rb"\r?\n\r?\n")
_INFORMATIONAL: Final = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9]{2}[ \r\n]")
_LENGTH: Final = re.compile(rb"\r?\n(?i:content-length):[ \t]*([0-9]{1,18})[ \t]*(?=\r?\n)")
_ANY_LENGTH: Final = re.compile(rb"\r?\n(?i:content-length)[ \t]*:")
_CODING: Final = re.compile(rb"\r?\n(?i:transfer-encoding):[^\r\n]*(?=\r?\n)")


def find(
    received: bytes, protocol: ResponseHandler, params: Mapping[str, Any]
) -> tuple[RawResponseMessage, StreamReader] | None:
    """Return the final head in `received`, and as its body what came behind it, as it came; None
    where no head is complete, or it is no HTTP. `params` are those of `set_response_params`."""
    start = 0
    while (end := _END.search(received, start)) is not None:
        if not _INFORMATIONAL.match(received, start):
            break
        start = end.end()
    else:
        return None
    head = received[start : end.end()]
    message = _parsed(head, protocol, params) or _parsed(_unframed(head), protocol, params)
    if message is None:
        return None
    return message, _body(message, received[end.end() :], protocol, params["read_bufsize"])


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


def _body(
    message: RawResponseMessage, rest: bytes, protocol: ResponseHandler, bytes_max: int
) -> StreamReader:
    if message.code in EMPTY_BODY_STATUS_CODES:
        return EMPTY_PAYLOAD
    payload = StreamReader(protocol, bytes_max, loop=protocol._loop)
    if rest:
        payload.feed_data(rest[:bytes_max])
    payload.feed_eof()
    return payload
