"""What a job's submit says in its headers, beside the body that is its input."""

import re
from collections.abc import Mapping
from typing import Any, Final, cast, get_args
from urllib.parse import unquote_to_bytes

from msgspec import DecodeError, ValidationError
from msgspec.json import Decoder

from dispatcher import wire
from dispatcher.api.call import Call
from dispatcher.api.inputs import Received
from dispatcher.api.misfits import misfit, text_of
from dispatcher.api.route import Parameter
from dispatcher.gateway.intake import JobSubmission
from dispatcher.jobs.fields import duration
from dispatcher.jobs.values import JobPriority
from dispatcher.policy import PRESETS, PresetName
from dispatcher.values import Headers
from receiver.base.http import invalid
from receiver.base.words import nearest, one_of

OCTETS: Final = "application/octet-stream"
SINGLE: Final = (
    b"postback-callback-url", b"postback-destination", b"postback-callback-headers",
    b"postback-policy", b"postback-priority", b"postback-tags", b"postback-not-before",
    b"postback-timeout", b"postback-ttl", b"postback-function", b"cancel-after",
)  # fmt: skip
# Of the caller's headers the upstream sees these: never whose key it was.
PASSED: Final = {
    name: name.decode() for name in (b"accept", b"accept-language", b"traceparent", b"tracestate")
}
_READ: Final = frozenset(SINGLE) | {b"content-type"}
_ANY: Final = "*/*"
_FIT: Final = re.compile(r"[\x20-\x7e]{1,1024}")
_PAIRS_CHARS_MAX: Final = 8_192
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_QUOTED: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_POLICY: Final = Decoder(wire.PolicyShape)

PARAMETERS: Final = (
    Parameter(
        name="Postback-Callback-Url",
        where="header",
        about="Where its end is told; or name a destination, or neither: then it is asked for.",
    ),
    Parameter(name="Postback-Destination", where="header", about="A registered destination."),
    Parameter(
        name="Postback-Policy",
        where="header",
        about="How the callback is tried: a preset's name, or a policy as JSON.",
    ),
    Parameter(
        name="Postback-Callback-Headers",
        where="header",
        about="Added to the callback: `name=value, name=value`, both percent-encoded.",
    ),
    Parameter(
        name="Postback-Priority",
        where="header",
        about="Its class in the tenant's own queue.",
        type=JobPriority,
    ),
    Parameter(
        name="Postback-Tags",
        where="header",
        about="To find it by: `key=value, key=value`, both percent-encoded; up to 16.",
    ),
    Parameter(
        name="Postback-Not-Before",
        where="header",
        about="When it may first run: an ISO-8601 time, or seconds from now; at most a week.",
    ),
    Parameter(
        name="Postback-Timeout",
        where="header",
        about="How long a call may take: seconds, or as `30s`, `15m`, `2h`.",
    ),
    Parameter(
        name="Postback-Ttl",
        where="header",
        about="When it ends whatever it does, waiting included: seconds from now, or as `2h`. "
        "`Cancel-After` is the same.",
    ),
    Parameter(
        name="Postback-Function",
        where="header",
        about="Which of the endpoint's functions; its first one by default.",
    ),
    Parameter(
        name="Prefer",
        where="header",
        about="`wait=N`: wait up to N seconds (300 at most) for the output; `respond-async`: do "
        "not. `Preference-Applied` says what was done (RFC 7240).",
    ),
    Parameter(
        name="Idempotency-Key",
        where="header",
        about="1 to 255 visible ASCII characters, bare or as a quoted string. The same key with "
        "the same content is answered with the first job in its present state; with other content "
        "409. It holds for 14 days.",
    ),
)


def read(call: Call, endpoint: str, given: Received) -> JobSubmission:
    """Return the submission that a request makes. Raises Refusal (422)."""
    header = call.request.given(_READ).get
    priority: Any = header(b"postback-priority") or "normal"
    if priority not in get_args(JobPriority):
        allowed = ", ".join(get_args(JobPriority))
        raise invalid("Postback-Priority", priority, f"must be one of {allowed}")
    callback_headers = header(b"postback-callback-headers")
    return JobSubmission(
        endpoint=endpoint,
        body=given.body,
        id=given.id,
        blob=given.blob,
        content_type=header(b"content-type") or OCTETS,
        priority=priority,
        tags=_tags(header(b"postback-tags")),
        function=header(b"postback-function"),
        headers=passed(call),
        callback_url=header(b"postback-callback-url"),
        destination=header(b"postback-destination"),
        policy=_policy(header(b"postback-policy")),
        callback_headers=None
        if callback_headers is None
        else pairs("Postback-Callback-Headers", callback_headers),
        idempotency_key=idempotency_key(call),
        not_before=_not_before(header(b"postback-not-before")),
        limit_s=_seconds("Postback-Timeout", header(b"postback-timeout")),
        ttl_s=_ttl_s(header(b"postback-ttl"), header(b"cancel-after")),
    )


def passed(call: Call) -> Headers:
    """Return the caller's headers that the upstream may see."""
    found = call.request.given(PASSED.keys())
    return tuple(
        (name, value)
        for key, name in PASSED.items()
        if (value := found.get(key)) and value != _ANY and _FIT.fullmatch(value)
    )


def _tags(text: str | None) -> Mapping[str, str]:
    return pairs("Postback-Tags", text) if text else {}


def pairs(name: str, text: str) -> Mapping[str, str]:
    """Return the pairs of `key=value, key=value`, both sides percent-encoded. Raises Refusal
    (422)."""
    if len(text) > _PAIRS_CHARS_MAX:
        raise invalid(name, None, f"longer than {_PAIRS_CHARS_MAX} characters")
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise invalid(name, part, "must be key=value pairs with commas between them")
        key, value = _decoded(name, key.strip()), _decoded(name, value.strip())
        if key in found:
            raise invalid(name, key, "the key is there twice")
        found[key] = value
    return found


def _decoded(name: str, text: str) -> str:
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeError:
        raise invalid(name, None, "must be percent-encoded UTF-8") from None


def _policy(text: str | None) -> wire.PolicyChoice | None:
    if text is None:
        return None
    if text in PRESETS:
        return cast(PresetName, text)
    try:
        return _POLICY.decode(text.encode("latin-1"))
    except (ValidationError, DecodeError) as error:
        reason = f"{one_of(PRESETS)}, or a policy as JSON{nearest(text, PRESETS)}"
        if text.startswith("{") and isinstance(error, ValidationError):
            reason = misfit(str(error), wire.PolicyShape, None).message
        elif text.startswith("{"):
            reason = text_of(error)
        raise invalid("Postback-Policy", text, reason) from None


def idempotency_key(call: Call) -> str | None:
    """Return a request's idempotency key: bare, or what stands in a structured field's string."""
    text = call.header(b"idempotency-key")
    quoted = None if text is None else _QUOTED.fullmatch(text)
    return text if quoted is None else _ESCAPED.sub(r"\1", quoted[1])


def _not_before(text: str | None) -> str | float | None:
    return float(text) if text is not None and _SECONDS.fullmatch(text) else text


def _ttl_s(ttl: str | None, cancel_after: str | None) -> float | None:
    if ttl is not None and cancel_after is not None:
        raise invalid("Cancel-After", cancel_after, "give either Postback-Ttl or Cancel-After")
    if ttl is not None:
        return _seconds("Postback-Ttl", ttl)
    return _seconds("Cancel-After", cancel_after)


def _seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return duration(text)
    except ValueError as error:
        raise invalid(name, text, f"must be {error}") from None
