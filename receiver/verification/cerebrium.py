"""Cerebrium's own signature. The standard library is all it needs.

`X-Cerebrium-Webhook-Signature: v1,<hex>` is HMAC-SHA256 over `id.timestamp.body`, keyed with
the secret as UTF-8 text; the id is `X-Request-Id`, the timestamp (Unix seconds)
`X-Cerebrium-Webhook-Timestamp`.
"""

import hashlib
import hmac
import re
from typing import Final

from receiver.signature import (
    MESSAGE_ID,
    MILLISECONDS,
    TIMESTAMP,
    Fields,
    Keys,
    SignatureError,
    Verified,
    any_equal,
    check_window,
    digest,
    text_key,
)

ID_HEADER: Final = "x-request-id"
TIMESTAMP_HEADER: Final = "x-cerebrium-webhook-timestamp"
SIGNATURE_HEADER: Final = "x-cerebrium-webhook-signature"
_NAMES: Final = tuple(name.encode() for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))
_VALUE: Final = re.compile(r"v1,[0-9a-f]{64}")


def sign(secret: str, request_id: str, timestamp_s: int, body: bytes) -> str:
    """Return `v1,<hex>` over `request_id.timestamp_s.body`. An empty secret raises ValueError."""
    signed = f"{request_id}.{timestamp_s}.".encode() + body
    return _value(hmac.digest(text_key(secret), signed, hashlib.sha256))


def is_signed(fields: Fields) -> bool:
    """Whether a request claims to carry this signature."""
    return fields.has(_NAMES[2])


def verify(
    body: bytes, fields: Fields, keys: Keys, *, now_s: float, tolerance_s: float
) -> Verified:
    """Return the request id and time that the signature vouches for, or SignatureError."""
    request_id, timestamp, given = map(fields.get, _NAMES)
    if request_id is None or timestamp is None or given is None:
        name = ID_HEADER if request_id is None else TIMESTAMP_HEADER
        raise SignatureError("missing", f"the header {name} is missing beside its siblings")
    if MILLISECONDS.fullmatch(timestamp):
        raise SignatureError("malformed", f"{TIMESTAMP_HEADER} is in milliseconds, not seconds")
    if not MESSAGE_ID.fullmatch(request_id) or not TIMESTAMP.fullmatch(timestamp):
        raise SignatureError("malformed", "X-Request-Id or its timestamp has not the right form")
    if not _VALUE.fullmatch(given):
        raise SignatureError("malformed", "the signature is not v1, and 64 lower-case hex digits")
    signed = f"{request_id}.{timestamp}.".encode("ascii") + body
    if not any_equal([_value(digest(key, signed)) for key in keys.sha256], [given]):
        raise SignatureError("mismatch", "the signature does not match id, timestamp and body")
    check_window(int(timestamp), now_s, tolerance_s)
    return Verified(schemes=("cerebrium",), message_id=request_id, timestamp=int(timestamp))


def _value(digest: bytes) -> str:
    return "v1," + digest.hex()
