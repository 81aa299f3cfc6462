"""Headers: the ones a caller may add to its deliveries, and the request's own."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from dispatcher.api.errors import ApiError, invalid
from dispatcher.values import Headers

HEADERS_MAX: Final = 16
VALUE_CHARS_MAX: Final = 2_048
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")

# What frames the message, belongs to the connection, or is made by the sender.
_REFUSED: Final = frozenset(
    (
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "accept-encoding",
        "user-agent",
        "cookie",
    )
)
_REFUSED_PREFIXES: Final = ("webhook-", "x-postback-", "proxy-")

# A second one of these would make the request say two things.
_SINGLE: Final = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"idempotency-key",
        b"postback-tenant",
        b"x-request-id",
    }
)


def custom(given: Mapping[str, str] | None, signature_header: str) -> Headers:
    """Return the headers a callback or destination adds to its deliveries.

    Raises ApiError (422) for names that are no tokens, belong to the connection or are ours, and
    for values with anything but visible ASCII, spaces and tabs (others have no agreed encoding).
    """
    if not given:
        return ()
    if len(given) > HEADERS_MAX:
        raise invalid("headers", None, f"at most {HEADERS_MAX} headers")
    seen: set[str] = set()
    for name, value in given.items():
        _check(name, value, signature_header.lower())
        if name.lower() in seen:
            raise invalid(f"headers.{name}", None, "there twice, in different case")
        seen.add(name.lower())
    return tuple(given.items())


def _check(name: str, value: str, signature_header: str) -> None:
    field, low = f"headers.{name}", name.lower()
    if not _TOKEN.fullmatch(name):
        raise invalid(field, None, "a header's name is 1 to 64 letters, digits or any of -_.~…")
    if low in _REFUSED or low.startswith((*_REFUSED_PREFIXES, signature_header)):
        raise invalid(field, None, "this header is set by the dispatcher or the connection")
    if len(value) > VALUE_CHARS_MAX or not _VALUE.fullmatch(value) or value != value.strip():
        raise invalid(
            field,
            None,
            f"a header's value is at most {VALUE_CHARS_MAX} ASCII characters without control "
            "characters or outer spaces",
        )


def single(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the request's headers by lower-case name. Raises ApiError (400) where one that decides
    something is there twice."""
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) != len(pairs):
        for name in _SINGLE & found.keys():
            if sum(1 for other, _ in pairs if other == name) > 1:
                raise ApiError("BAD_REQUEST", f"the header {name.decode()} is there twice")
    return found
