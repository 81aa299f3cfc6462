"""`receiver.verify`: raw request in, typed event out; for any framework. No IO."""

import time
from collections.abc import Iterable

from receiver.event import Event, read_event
from receiver.signature import TOLERANCE_S, Headers, Require, active_secrets
from receiver.source import Source, authenticate, identity_of
from receiver.verification.identity import Dialect


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
    source = Source(
        secrets=tuple(active_secrets(secrets)),
        dialect=dialect,
        require=require,
        tolerance_s=tolerance_s,
    )
    at = time.time() if now_s is None else now_s
    verified = authenticate(source, body, headers, now_s=at)
    identity = identity_of(source, bytes(body), verified)
    return read_event(identity, bytes(body), message_id=verified.message_id)
