"""Cerebrium's own signature. The standard library is all it needs.

``X-Cerebrium-Webhook-Signature: v1,<hex>`` is HMAC-SHA256 over ``id.timestamp.body``, keyed with
the secret as UTF-8 text; the id is ``X-Request-Id``, the timestamp (Unix seconds)
``X-Cerebrium-Webhook-Timestamp``.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

from receiver.signature import (
    MESSAGE_ID,
    TIMESTAMP,
    Headers,
    SignatureError,
    Verified,
    active_secrets,
    any_equal,
    check_window,
    pick_headers,
    text_key,
)

ID_HEADER: Final = "x-request-id"
TIMESTAMP_HEADER: Final = "x-cerebrium-webhook-timestamp"
SIGNATURE_HEADER: Final = "x-cerebrium-webhook-signature"
_TEXT: Final = (str, bytes)
_VALUE: Final = re.compile(r"v1,[0-9a-f]{64}")


def sign(secret: str, request_id: str, timestamp_s: int, body: bytes) -> str:
    """``v1,<hex>`` over ``request_id.timestamp_s.body``. An empty secret raises ValueError."""
    signed = f"{request_id}.{timestamp_s}.".encode() + body
    return "v1," + hmac.digest(text_key(secret), signed, hashlib.sha256).hex()


def is_signed(pairs: Iterable[tuple[object, object]]) -> bool:
    """Whether a request claims to carry this signature."""
    names = (SIGNATURE_HEADER, SIGNATURE_HEADER.encode())
    return any(isinstance(name, _TEXT) and name.lower() in names for name, _ in pairs)


def verify(
    body: bytes, headers: Headers, secrets: tuple[str, ...], *, now_s: float, tolerance_s: float
) -> Verified:
    """The request id and time that the signature vouches for, or SignatureError."""
    active = active_secrets(secrets)
    found = pick_headers(headers, {ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER})
    for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER):
        if name not in found:
            raise SignatureError("missing", f"the header {name} is missing beside its siblings")
    request_id, timestamp = found[ID_HEADER], found[TIMESTAMP_HEADER]
    if not MESSAGE_ID.fullmatch(request_id) or not TIMESTAMP.fullmatch(timestamp):
        raise SignatureError("malformed", "X-Request-Id or its timestamp has not the right form")
    if not _VALUE.fullmatch(found[SIGNATURE_HEADER]):
        raise SignatureError("malformed", "the signature is not v1, and 64 lower-case hex digits")
    expected = [sign(secret, request_id, int(timestamp), body) for secret in active]
    if str(int(timestamp)) != timestamp or not any_equal(expected, [found[SIGNATURE_HEADER]]):
        raise SignatureError("mismatch", "the signature does not match id, timestamp and body")
    check_window(int(timestamp), now_s, tolerance_s)
    return Verified(schemes=("cerebrium",), message_id=request_id, timestamp=int(timestamp))
