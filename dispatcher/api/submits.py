"""Taking callbacks in: as JSON, as any bytes, and many at once."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, get_args

from starlette.responses import Response
from starlette.types import Scope as Asgi

from dispatcher import intake, wire
from dispatcher.api.call import JSON_BYTES_MAX, Call, Context
from dispatcher.api.errors import ApiError, to_refusal
from dispatcher.api.json import JSON, NDJSON, Lines, decode, decoder, encode, respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.intake import Submission
from dispatcher.policy import PresetName
from dispatcher.values import Priority, Submitted
from receiver.base.clock import iso
from receiver.base.completion import ends, status_in, without_bom
from receiver.base.http import invalid
from receiver.signature import RUN_MAX

# Lines submitted at once: enough to share a commit, few enough to let other requests between.
LINES_AT_ONCE: Final = 64
_RAW_NAMES: Final = (
    "jobId", "callbackUrl", "destination", "jobStatus", "run", "notBefore", "priority", "policy",
    "tag.KEY",
)  # fmt: skip
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_IDEMPOTENCY_KEY: Final = Parameter(
    name="Idempotency-Key",
    where="header",
    about="1 to 255 visible ASCII characters. The same key with the same content answers 200 with "
    "the first callback; with other content 409. Without it, jobId, jobStatus, destination and run "
    "are the key.",
)
_TAKEN: Final = {202: wire.AcceptedView[str], 200: wire.AcceptedView[str]}
_ERRORS: Final = (
    "IDEMPOTENCY_CONFLICT",
    "DESTINATION_DISABLED",
    "PAYLOAD_TOO_LARGE",
    "QUEUE_FULL",
    "RATE_LIMITED",
    "STORAGE_LIMIT_EXCEEDED",
    "LIMIT_REACHED",
    "TENANT_ERASING",
)


def _refused(context: Context, _: Asgi, code: str) -> None:
    context.metrics.refused(code)


@Operation(
    "POST",
    "/v1/callbacks",
    tag="callbacks",
    scope="submit",
    refused=_refused,
    body=wire.Submit,
    example={
        "jobId": "job_1234567890abcdef",
        "callbackUrl": "https://example.com/webhooks/job-complete",
        "payload": {"jobId": "job_1234567890abcdef", "status": "completed", "output": {}},
        "tags": {"userId": "user_123"},
    },
    parameters=(_IDEMPOTENCY_KEY,),
    responses=_TAKEN,
    errors=_ERRORS,
)
async def submit(call: Call) -> Response:
    """Submit a callback.

    A 2xx means that it is on disk. The bytes of `payload`, as they stand in the request, are what
    is delivered.
    """
    bytes_max = call.context.settings.payload_bytes_max + JSON_BYTES_MAX
    shape = await call.json(wire.Submit, bytes_max)
    return await _take(call, intake.from_wire(shape, call.header(b"idempotency-key")))


@Operation(
    "POST",
    "/v1/callbacks/raw",
    tag="callbacks",
    scope="submit",
    refused=_refused,
    media=("*/*",),
    parameters=(
        Parameter(name="jobId", about="The job's id.", required=True),
        Parameter(name="callbackUrl", about="Where to; or name a destination."),
        Parameter(name="destination", about="A registered destination's name."),
        Parameter(name="jobStatus", about="The job's status."),
        Parameter(name="run", about="Which run of the job this is.", type=wire.Run),
        Parameter(name="notBefore", about="A time, or seconds from now: when it may first go."),
        Parameter(name="priority", about="Which class it waits in.", type=Priority),
        Parameter(name="policy", about="A preset.", type=PresetName),
        Parameter(name="tag.KEY", about="The tag KEY; up to 16 of them."),
        _IDEMPOTENCY_KEY,
    ),
    responses=_TAKEN,
    errors=_ERRORS,
)
async def submit_raw(call: Call) -> Response:
    """Submit any bytes.

    The body goes out byte for byte, with the content type it came with.
    """
    submission = raw_submission(
        call.query,
        content_type=call.header(b"content-type") or "application/octet-stream",
        body=await call.body(call.context.settings.payload_bytes_max),
        key=call.header(b"idempotency-key"),
    )
    return await _take(call, submission)


async def _take(call: Call, submission: Submission) -> Response:
    call.principal.require_target(submission.destination, submission.callback_url)
    submitted = await call.context.intake.accept(call.tenant, submission, call.entry)
    status = 200 if submitted.duplicate else 202
    location = {"Location": f"/v1/callbacks/{submitted.id}"}
    return respond(wire.AcceptedView(**_accepted(submitted)), status, location)


def _accepted(submitted: Submitted) -> dict[str, Any]:
    # Whether a fresh one was dispatched at once is a matter of microseconds, not of its story.
    return {
        "id": submitted.id,
        "job_id": submitted.job_id,
        "status": submitted.state if submitted.duplicate else "pending",
        "created_at": iso(submitted.created_ms),
        "duplicate": submitted.duplicate,
    }


def raw_submission(
    query: Mapping[str, str], *, content_type: str, body: bytes, key: str | None
) -> Submission:
    """Return the submission that a raw request's query makes. Raises Refusal (422) and Invalid."""
    tags = {name[4:]: value for name, value in query.items() if name.startswith("tag.")}
    for name, value in query.items():
        if name not in _RAW_NAMES[:-1] and not name.startswith("tag."):
            raise invalid(name, value, f"unknown parameter; there are {', '.join(_RAW_NAMES)}")
    for tag, value in tags.items():  # known here by the names of their parameters
        intake.check_length("tag", tag, 1, wire.TAG_CHARS_MAX)
        intake.check_length(f"tag.{tag}", value, 0, wire.TAG_VALUE_CHARS_MAX)
    job_status = query.get("jobStatus")
    return Submission(
        job_id=query.get("jobId", ""),
        body=body,
        content_type=content_type,
        callback_url=query.get("callbackUrl"),
        destination=query.get("destination"),
        job_status=job_status,
        is_end=job_status is not None or ends(status_in(body)),
        priority=_one_of("priority", query.get("priority", "normal"), Priority),
        tags=tags,
        policy=_one_of("policy", query["policy"], PresetName) if "policy" in query else None,
        idempotency_key=key,
        run=_run(query.get("run")),
        not_before=_not_before(query.get("notBefore")),
    )


def _run(text: str | None) -> int | None:
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise invalid("run", text, f"must be a number from 1 to {RUN_MAX}")
    return int(text)


def _not_before(text: str | None) -> str | float | None:
    return float(text) if text is not None and _SECONDS.fullmatch(text) else text


def _one_of(name: str, text: str, allowed: Any) -> Any:
    if text not in get_args(allowed):
        raise invalid(name, text, f"must be one of {', '.join(get_args(allowed))}")
    return text


@Operation(
    "POST",
    "/v1/callbacks/batch",
    tag="callbacks",
    scope="submit",
    refused=_refused,
    body=wire.BatchLine,
    media=(NDJSON, JSON),
    example={
        "jobId": "job_1",
        "callbackUrl": "https://example.com/webhooks",
        "payload": {"status": "completed"},
    },
    responses={200: (wire.LineView[str], wire.LineErrorView)},
    errors=("PAYLOAD_TOO_LARGE",),
)
async def submit_batch(call: Call) -> Response:
    """Submit many callbacks.

    A submit in each line, and in the same order a result in each line of the answer: a submit's
    answer or an error, with its `line` number. A bad line fails alone. A line may hold its own
    `idempotencyKey`. Blank lines are skipped, and so is a byte order mark before the first one.
    """
    # All of it is read before the response begins, so that a client may do it the other way round.
    if call.header(b"idempotency-key") is not None:
        raise invalid("Idempotency-Key", None, "in a batch, each line has its own idempotencyKey")
    call.request.check_media_type((NDJSON, JSON))
    settings = call.context.settings
    raw = without_bom(await call.body(settings.batch_bytes_max))
    if raw.count(b"\n") > settings.batch_lines_max:
        many = f"more than {settings.batch_lines_max:,} lines"
        raise ApiError("PAYLOAD_TOO_LARGE", f"{many}, which DISPATCHER_BATCH_LINES_MAX allows")
    call.context.intake.check_ready()
    lines = [(n, line) for n, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    return Lines(_results(call, lines))


async def _results(call: Call, lines: Sequence[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    waiting = iter(lines)
    turn = call.context.batches.of(call.tenant)
    while some := tuple(islice(waiting, LINES_AT_ONCE)):
        async with turn:
            results = await asyncio.gather(*(_result(call, n, line) for n, line in some))
        yield b"".join(results)


async def _result(call: Call, n: int, line: bytes) -> bytes:
    """One line's result. Whatever is wrong with it stays with it."""
    try:
        depth_max = call.context.settings.json_depth_max
        shape = decode(decoder(wire.BatchLine), line, depth_max=depth_max)
        submission = intake.from_wire(shape, shape.idempotency_key)
        call.principal.require_target(submission.destination, submission.callback_url)
        submitted = await call.context.intake.accept(call.tenant, submission, call.entry)
    except Exception as error:  # told in its line, and logged where it is ours
        refusal = to_refusal(error, call.request.id)
        call.context.metrics.refused(refusal.code)
        told = wire.LineErrorView(
            line=n,
            status=refusal.status,
            error=refusal.code,
            message=refusal.message,
            details=refusal.details,
        )
        return encode(told) + b"\n"
    return encode(wire.LineView(**_accepted(submitted), line=n)) + b"\n"


OPERATIONS: Final = (submit, submit_raw, submit_batch)
