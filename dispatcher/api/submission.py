"""From a submit's fields to the value that is stored. Pure but for the id that it makes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgspec

from dispatcher.api import headers, identity, policies, targets
from dispatcher.api.errors import ApiError, invalid
from dispatcher.ids import destination_id, new_id
from dispatcher.settings import Settings
from dispatcher.values import NewCallback, Priority
from dispatcher.wire import PolicyChoice, Submit

JSON_TYPE: Final = "application/json"
JOB_STATUS_CHARS_MAX: Final = 200
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class _Peek(msgspec.Struct):
    status: msgspec.Raw = msgspec.Raw(b"null")


_PEEK: Final = msgspec.json.Decoder(_Peek)
_TEXT: Final = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A submit in any of its forms: as JSON, raw, or a line of a batch."""

    job_id: str
    body: bytes = field(repr=False)
    content_type: str
    callback_url: str | None
    destination: str | None
    job_status: str | None
    priority: Priority
    tags: Mapping[str, str]
    policy: PolicyChoice | None
    headers: Mapping[str, str] | None
    idempotency_key: str | None


def from_json(shape: Submit, idempotency_key: str | None) -> Submission:
    """Return the submission that a JSON document makes: its payload's bytes, as they stood
    there."""
    body = bytes(shape.payload)
    return Submission(
        job_id=shape.job_id,
        body=body,
        content_type=JSON_TYPE,
        callback_url=shape.callback_url,
        destination=shape.destination,
        job_status=shape.job_status if shape.job_status is not None else payload_status(body),
        priority=shape.priority,
        tags=shape.tags,
        policy=shape.policy,
        headers=shape.headers,
        idempotency_key=idempotency_key,
    )


def payload_status(body: bytes) -> str | None:
    """`status` of a JSON payload, where it is an object that has one and it is a text.

    Raises ApiError (422) for one that is no job status; an empty one counts as none.
    """
    if not body.startswith(b"{"):
        return None
    raw = bytes(_PEEK.decode(body).status)
    if not raw.startswith(b'"'):
        return None
    status = _TEXT.decode(raw)
    if len(status) > JOB_STATUS_CHARS_MAX:
        reason = f"longer than {JOB_STATUS_CHARS_MAX} characters; name a jobStatus beside it"
        raise invalid("payload.status", status, reason)
    return status or None


def build(given: Submission, *, tenant: str, settings: Settings, now_ms: int) -> NewCallback:
    """Return the value to store. Raises ApiError: 413 for a payload over the limit, 422 for a field
    that does not fit."""
    _check(given, settings)
    name = given.destination
    destination = destination_id(tenant, name=name, url=given.callback_url)
    digest = sha256(given.body).digest()
    policy_text, policy = policies.chosen(given.policy)
    key = given.idempotency_key
    return NewCallback(
        id=new_id("cb", now_ms),
        tenant=tenant,
        job_id=given.job_id,
        job_status=given.job_status,
        priority=given.priority,
        destination=destination,
        destination_name=name,
        url=given.callback_url,
        body=given.body,
        body_sha256=digest,
        content_type=given.content_type,
        headers=headers.custom(given.headers, settings.signature_header),
        tags=tuple(given.tags.items()),
        policy_text=policy_text,
        policy=policy,
        key=identity.natural_key(tenant, given.job_id, given.job_status, destination, digest)
        if key is None
        else identity.explicit_key(tenant, key),
        explicit_key=key is not None,
        content=identity.content(
            given.job_id,
            given.job_status,
            destination,
            given.callback_url,
            digest,
            given.content_type,
        ),
        created_ms=now_ms,
    )


def _check(given: Submission, settings: Settings) -> None:
    if len(given.body) > settings.payload_bytes_max:
        raise ApiError(
            "PAYLOAD_TOO_LARGE",
            f"the payload is larger than {settings.payload_bytes_max} bytes",
            details={"bytesMax": settings.payload_bytes_max},
        )
    if (given.callback_url is None) == (given.destination is None):
        raise invalid("callbackUrl", None, "give either callbackUrl or destination")
    if given.callback_url is not None:
        targets.check("callbackUrl", given.callback_url, settings.allow_networks)
    _check_text("jobId", given.job_id)
    if given.job_status is not None:
        _check_text("jobStatus", given.job_status)
    for key, value in given.tags.items():
        _check_text("tags", key)
        _check_text(f"tags.{key}", value)


def _check_text(field_name: str, text: str) -> None:
    if _CONTROL.search(text):
        raise invalid(field_name, None, "must not hold control characters")
