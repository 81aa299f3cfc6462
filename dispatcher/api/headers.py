"""The request's headers."""

from collections.abc import Iterable
from typing import Final

from dispatcher.api.errors import ApiError

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
