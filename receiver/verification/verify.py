"""Raw request in, typed event out. No IO.

Order of checks: token in the URL, where the path has one → signature over the raw bytes →
timestamp → strict parse → identity.
"""

import hmac
import time
from collections.abc import Iterable
from dataclasses import replace

from receiver.base.completion import is_job_id
from receiver.event import Event, read_event
from receiver.signature import (
    PREVIOUS_SUFFIX,
    SHA256_HEADER,
    STANDARD_HEADERS,
    SVIX_HEADERS,
    TOLERANCE_S,
    Fields,
    Headers,
    Job,
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
    fields, theirs = Fields(headers), None
    if source.takes_cerebrium and cerebrium.is_signed(fields):
        theirs = cerebrium.verify(
            body, fields, source.keys, now_s=now_s, tolerance_s=source.tolerance_s
        )
        if not _carries_ours(fields, source):
            return theirs
    ours = check(
        body,
        fields,
        source.keys,
        now_s=now_s,
        tolerance_s=source.tolerance_s,
        require=source.require,
        sha256_header=source.signature_header,
    )
    if theirs is None:
        return ours
    schemes = (*ours.schemes, *theirs.schemes)  # every signature that is there must hold
    return replace(ours, schemes=schemes, job=ours.job or Job(id=theirs.message_id))


def identity_of(
    source: Source, body: bytes, verified: Verified, *, request_id: str | None = None
) -> Identity:
    """Return the job that an authenticated message identifies, or ParseError. `request_id` is the
    X-Request-Id as sent: where the URL's token vouches for all of a request, it counts."""
    is_vouched = verified.schemes == ("token",)
    if verified.schemes == ("cerebrium",):
        request_id = verified.message_id
    elif not is_vouched or source.dialect != "cerebrium" or not is_job_id(request_id):
        request_id = None
    return identify(
        body,
        verified.message_id,
        job=verified.job,
        request_id=request_id,
        is_vouched=is_vouched,
        dialect=source.dialect,
        depth_max=source.depth_max,
    )


def _carries_ours(fields: Fields, source: Source) -> bool:
    header = source.signature_header.lower()
    names = (header, header + PREVIOUS_SUFFIX.lower(), *STANDARD_HEADERS, *SVIX_HEADERS)
    return any(fields.has(name.encode()) for name in names)


def _check_token(expected: str, given: list[str]) -> None:
    if not given:
        raise SignatureError("missing", "the URL carries no token")
    if len(given) > 1:
        raise SignatureError("ambiguous", "the URL carries more than one token")
    if not hmac.compare_digest(given[0].encode("utf-8", "replace"), expected.encode()):
        raise SignatureError("mismatch", "the URL's token is not this path's")
