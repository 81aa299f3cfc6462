"""Raw request in, typed event out. No IO.

Order of checks: token in the URL, where the path has one → signature over the raw bytes →
timestamp → strict parse → identity.
"""

import hmac
import time
from collections.abc import Iterable

from receiver.event import Event, read_event
from receiver.signature import (
    SHA256_HEADER,
    TOLERANCE_S,
    Fields,
    Headers,
    Require,
    SignatureError,
    Verified,
    active_secrets,
    check,
    check_arguments,
    raw_body,
)
from receiver.source import Source
from receiver.verification import cerebrium
from receiver.verification.identity import Dialect, Identity, identify


def verify(
    body: bytes,
    headers: Headers,
    secrets: str | Iterable[str],
    *,
    now_s: float | None = None,
    tolerance_s: float = TOLERANCE_S,
    require: Require = "any",
    dialect: Dialect = "auto",
) -> Event:
    """Return the event in a request whose raw `body` and `headers` hold under one of `secrets`.

    `headers` is a mapping or pairs; `now_s` is Unix time, the clock's where not given.
    Raises `SignatureError` when it is not verified and `ParseError` when what was verified
    is no message; nothing else. It keeps no memory: dropping duplicates is the caller's
    (`event.key` names a message), or the `Receiver`'s.
    """
    at = time.time() if now_s is None else now_s
    check_arguments(at, tolerance_s, require, SHA256_HEADER)
    body, active = raw_body(body), tuple(active_secrets(secrets))
    try:
        source = _Caller(secrets=active, dialect=dialect, require=require, tolerance_s=tolerance_s)
    except ValueError as error:
        raise SignatureError("malformed", str(error)) from None
    verified = authenticate(source, body, headers, now_s=at)
    identity = identity_of(source, body, verified)
    return read_event(identity, body, message_id=verified.message_id)


class _Caller(Source):
    """A source for one call, whose secrets may be as weak as its caller's are."""

    def _secret_fault(self, secret: object) -> str | None:
        return None


def authenticate(
    source: Source, body: bytes, headers: Headers, *, tokens: Iterable[str] = (), now_s: float
) -> Verified:
    """Return what vouches for a message, or SignatureError. `tokens` are the `token` values of the
    URL."""
    if source.url_token is not None:
        _check_token(source.url_token, list(tokens))
    if source.keys is None:
        return Verified(schemes=("token",))
    fields = Fields(headers)
    if source.takes_cerebrium and cerebrium.is_signed(fields):
        return cerebrium.verify(
            body, fields, source.keys, now_s=now_s, tolerance_s=source.tolerance_s
        )
    return check(
        body,
        fields,
        source.keys,
        now_s=now_s,
        tolerance_s=source.tolerance_s,
        require=source.require,
        sha256_header=source.signature_header,
    )


def identity_of(source: Source, body: bytes, verified: Verified) -> Identity:
    """Return the job that an authenticated message identifies, or ParseError."""
    is_cerebrium = "cerebrium" in verified.schemes
    return identify(
        body,
        verified.message_id,
        request_id=verified.message_id if is_cerebrium else None,
        dialect=source.dialect,
        depth_max=source.depth_max,
    )


def _check_token(expected: str, given: list[str]) -> None:
    if not given:
        raise SignatureError("missing", "the URL carries no token")
    if len(given) > 1:
        raise SignatureError("ambiguous", "the URL carries more than one token")
    if not hmac.compare_digest(given[0].encode("utf-8", "replace"), expected.encode()):
        raise SignatureError("mismatch", "the URL's token is not this path's")
