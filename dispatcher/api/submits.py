"""Taking callbacks in: as JSON and raw."""

from collections.abc import Mapping
from typing import Any, Final, get_args

from starlette.responses import Response

from dispatcher import wire
from dispatcher.api import show
from dispatcher.api.call import JSON_BYTES_MAX, Call, answer
from dispatcher.api.operation import Operation, Parameter
from dispatcher.intake import Submission, check_length, from_wire
from dispatcher.policy import PresetName
from dispatcher.values import Priority
from dispatcher.wire import Submit
from receiver.base.http import invalid

_RAW_NAMES: Final = (
    "jobId", "callbackUrl", "destination", "jobStatus", "priority", "policy", "tag.KEY",
)  # fmt: skip


async def submit(call: Call) -> Response:
    """`POST /v1/callbacks`."""
    call.query(())
    bytes_max = call.context.settings.payload_bytes_max + JSON_BYTES_MAX
    shape = await call.json(Submit, bytes_max)
    return await _take(call, from_wire(shape, call.header(b"idempotency-key")))


async def submit_raw(call: Call) -> Response:
    """`POST /v1/callbacks/raw`: everything but the body stands in the query."""
    given = raw_submission(
        call.query(),
        content_type=call.header(b"content-type") or "application/octet-stream",
        body=await call.body(call.context.settings.payload_bytes_max),
        key=call.header(b"idempotency-key"),
    )
    return await _take(call, given)


async def _take(call: Call, given: Submission) -> Response:
    submitted = await call.context.intake.accept(call.tenant, given)
    status = 200 if submitted.duplicate else 202
    return answer(show.accepted(submitted), status, {"Location": f"/v1/callbacks/{submitted.id}"})


def raw_submission(
    found: Mapping[str, str], *, content_type: str, body: bytes, key: str | None
) -> Submission:
    """Return the submission that a raw request's query makes. Raises ApiError (422)."""
    tags = {name[4:]: value for name, value in found.items() if name.startswith("tag.")}
    for name, value in found.items():
        if name not in _RAW_NAMES[:-1] and not name.startswith("tag."):
            raise invalid(name, value, f"unknown parameter; there are {', '.join(_RAW_NAMES)}")
    for tag, value in tags.items():  # known here by the names of their parameters
        check_length("tag", tag, 1, wire.TAG_CHARS_MAX)
        check_length(f"tag.{tag}", value, 0, wire.TAG_VALUE_CHARS_MAX)
    return Submission(
        job_id=found.get("jobId", ""),
        body=body,
        content_type=content_type,
        callback_url=found.get("callbackUrl"),
        destination=found.get("destination"),
        job_status=found.get("jobStatus"),
        priority=_one_of("priority", found.get("priority", "normal"), Priority),
        tags=tags,
        policy=_one_of("policy", found["policy"], PresetName) if "policy" in found else None,
        idempotency_key=key,
    )


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
