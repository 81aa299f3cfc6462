"""Taking callbacks in: as JSON and raw."""

import re
from collections.abc import Mapping
from typing import Any, Final, get_args

from starlette.responses import Response

from dispatcher import wire
from dispatcher.api import admission, show, submission
from dispatcher.api.call import JSON_BYTES_MAX, Call, answer
from dispatcher.api.errors import invalid
from dispatcher.api.operation import Operation, Parameter
from dispatcher.api.submission import Submission
from dispatcher.policy import PresetName
from dispatcher.values import Priority, Submitted
from dispatcher.wire import NAME, TAGS_MAX, URL_CHARS_MAX, Submit

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_RAW_NAMES: Final = (
    "jobId", "callbackUrl", "destination", "jobStatus", "priority", "policy", "tag.KEY",
)  # fmt: skip


async def submit(call: Call) -> Response:
    """`POST /v1/callbacks`."""
    call.query(())
    bytes_max = call.context.settings.payload_bytes_max + JSON_BYTES_MAX
    shape = await call.json(Submit, bytes_max)
    return await _take(call, submission.from_json(shape, idempotency_key(call)))


async def submit_raw(call: Call) -> Response:
    """`POST /v1/callbacks/raw`: everything but the body stands in the query."""
    given = raw_submission(
        call.query(),
        content_type=call.header(b"content-type") or "application/octet-stream",
        body=await call.body(call.context.settings.payload_bytes_max),
        key=idempotency_key(call),
    )
    return await _take(call, given)


async def _take(call: Call, given: Submission) -> Response:
    submitted = await take(call, given)
    status = 200 if submitted.duplicate else 202
    return answer(show.accepted(submitted), status, {"Location": f"/v1/callbacks/{submitted.id}"})


async def take(call: Call, given: Submission) -> Submitted:
    """Validate and store one submission. Raises ApiError and what the store raises."""
    context = call.context
    new = submission.build(given, tenant=call.tenant, settings=context.settings, now_ms=call.now_ms)
    admission.check_ready(context)
    await context.access.ensure_tenant(call.tenant)
    submitted = await admission.take(context, new)
    context.metrics.submitted("duplicate" if submitted.duplicate else "accepted")
    return submitted


def idempotency_key(call: Call) -> str | None:
    """Return the `Idempotency-Key` header. Raises ApiError (422) for one out of shape."""
    key = call.header(b"idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", key, "must be 1 to 255 visible ASCII characters")
    return key


def raw_submission(
    found: Mapping[str, str], *, content_type: str, body: bytes, key: str | None
) -> Submission:
    """Return the submission that a raw request's query makes. Raises ApiError (422)."""
    tags = {name[4:]: value for name, value in found.items() if name.startswith("tag.")}
    for name, value in found.items():
        if name not in _RAW_NAMES[:-1] and not name.startswith("tag."):
            raise invalid(name, value, f"unknown parameter; there are {', '.join(_RAW_NAMES)}")
    if len(tags) > TAGS_MAX:
        raise invalid("tags", len(tags), f"at most {TAGS_MAX} tags")
    for tag, value in tags.items():
        _between("tag", tag, 1, 64)
        _between(f"tag.{tag}", value, 0, 256)
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise invalid("Content-Type", None, "must be 1 to 255 printable ASCII characters")
    if "destination" in found and not re.fullmatch(NAME.strip("^$"), found["destination"]):
        raise invalid("destination", found["destination"], "not a registered destination's name")
    priority: Priority = _one_of("priority", found.get("priority", "normal"), Priority)
    policy: PresetName | None = None
    if "policy" in found:
        policy = _one_of("policy", found["policy"], PresetName)
    return Submission(
        job_id=_between("jobId", found.get("jobId", ""), 1, 200),
        body=body,
        content_type=content_type,
        callback_url=_optional("callbackUrl", found, URL_CHARS_MAX),
        destination=found.get("destination"),
        job_status=_optional("jobStatus", found, submission.JOB_STATUS_CHARS_MAX),
        priority=priority,
        tags=tags,
        policy=policy,
        headers=None,
        idempotency_key=key,
    )


def _optional(name: str, found: Mapping[str, str], most: int) -> str | None:
    return _between(name, found[name], 1, most) if name in found else None


def _between(name: str, text: str, least: int, most: int) -> str:
    if not least <= len(text) <= most:
        raise invalid(name, text, f"must have {least} to {most} characters")
    return text


def _one_of(name: str, text: str, allowed: Any) -> Any:
    if text not in get_args(allowed):
        raise invalid(name, text, f"must be one of {', '.join(get_args(allowed))}")
    return text


IDEMPOTENCY_KEY: Final = Parameter(
    name="Idempotency-Key",
    where="header",
    about="1 to 255 visible ASCII characters. The same key with the same content answers 200 with "
    "the first callback; with other content 409. Without it, jobId, jobStatus and destination "
    "are the key.",
)
_ERRORS: Final = (
    "IDEMPOTENCY_CONFLICT",
    "DESTINATION_DISABLED",
    "PAYLOAD_TOO_LARGE",
    "QUEUE_FULL",
    "STORAGE_LIMIT_EXCEEDED",
)
OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/callbacks",
        handler=submit,
        scope="submit",
        tag="callbacks",
        summary="Submit a callback",
        about="A 2xx means that it is on disk. The bytes of `payload`, as they stand in the "
        "request, are what is delivered.",
        body=Submit,
        example={
            "jobId": "job_1234567890abcdef",
            "callbackUrl": "https://example.com/webhooks/job-complete",
            "payload": {"jobId": "job_1234567890abcdef", "status": "completed", "output": {}},
            "tags": {"userId": "user_123"},
        },
        parameters=(IDEMPOTENCY_KEY,),
        answers={202: wire.AcceptedView[str], 200: wire.AcceptedView[str]},
        errors=_ERRORS,
    ),
    Operation(
        method="POST",
        path="/v1/callbacks/raw",
        handler=submit_raw,
        scope="submit",
        tag="callbacks",
        summary="Submit any bytes",
        about="The body goes out byte for byte, with the content type it came with.",
        media=("*/*",),
        parameters=(
            Parameter(name="jobId", about="The job's id.", required=True),
            Parameter(name="callbackUrl", about="Where to; or name a destination."),
            Parameter(name="destination", about="A registered destination's name."),
            Parameter(name="jobStatus", about="The job's status."),
            Parameter(name="priority", about="Which class it waits in.", type=Priority),
            Parameter(name="policy", about="A preset.", type=PresetName),
            Parameter(name="tag.KEY", about="The tag KEY; up to 16 of them."),
            IDEMPOTENCY_KEY,
        ),
        answers={202: wire.AcceptedView[str], 200: wire.AcceptedView[str]},
        errors=_ERRORS,
    ),
)
