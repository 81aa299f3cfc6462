"""What upstreams tell of the jobs that they run: how far they are, and their ends. No key is asked
for: what stands in the path is good for one call of one job alone, and for no longer than that."""

from dataclasses import replace
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, UnsetType
from starlette.responses import Response

from dispatcher import ids
from dispatcher.api import json, predictions
from dispatcher.api.call import Call
from dispatcher.api.errors import ApiError
from dispatcher.api.json import respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.gateway.by_url import Told
from dispatcher.gateway.reports import Said, TooManyReports, metadata_of
from dispatcher.jobs import told
from dispatcher.jobs.chunks import TooManyChunks
from dispatcher.jobs.progress import METADATA_BYTES_MAX, STEP_CHARS_MAX, Progress, logged
from dispatcher.jobs.states import JobState
from dispatcher.jobs.tokens import Grant, Purpose
from dispatcher.jobs.values import JobByUrl, Output
from dispatcher.sending.kinds import prediction_of
from dispatcher.sending.response import kept_type
from dispatcher.store.errors import NotFound, PayloadGone
from dispatcher.wire import Shape, View
from receiver.base.http import invalid, read_query

_OUTPUT_BYTES_MAX: Final = 64 * 1024 * 1024
"""The longest output that one request may bring: it is in memory until it is whole."""
PIECE_BYTES_MAX: Final = 1024 * 1024
"""The longest piece of an output that one report may carry."""
_REPORT_BYTES_MAX: Final = PIECE_BYTES_MAX + 128 * 1024
_LOG_CHARS_MAX: Final = 64 * 1024
_ID: Final = "/v1/jobs/{id}"
_FORM: Final = "application/x-www-form-urlencoded"  # what curl says of anything
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_SOON_S: Final = 1


class ProgressReport(Shape, frozen=True, kw_only=True):
    """What has changed; what is left out stays as it was reported before. With nothing in it the
    report is a mere sign of life. `output` is a piece of the job's output, and `log` more lines of
    its log, of which the last 16 KiB are kept."""

    progress: Annotated[float, Meta(ge=0, le=100)] | None = None
    current_step: Annotated[str, Meta(max_length=STEP_CHARS_MAX)] | None = None
    metadata: (
        Annotated[
            Raw,
            Meta(
                description="An object of the upstream's own, of 16 KiB at most.",
                extra_json_schema={"type": "object"},
            ),
        ]
        | UnsetType
    ) = UNSET
    output: Annotated[Raw, Meta(description="Any JSON.")] | UnsetType = UNSET
    log: Annotated[str, Meta(max_length=_LOG_CHARS_MAX)] | None = None


class CompletedView(View, frozen=True, kw_only=True):
    """A job that its upstream ended."""

    id: str
    status: JobState


@Operation(
    "POST",
    f"{_ID}/progress/{{token}}",
    tag="jobs",
    body=ProgressReport,
    body_optional=True,
    example={"progress": 40, "currentStep": "rendering page 4"},
    responses={204: None},
    errors=("NOT_FOUND", "CONFLICT", "RATE_LIMITED", "PAYLOAD_TOO_LARGE"),
)
async def progress(call: Call) -> Response:
    """Tell how far a job is.

    For its upstream, which gets this URL with each call (`X-Job-Progress-Url`). It is good for that
    call alone: 409 says that the job does not run by it any more, and that whatever is still done
    for it may stop. Reports are kept together, and written twice a second at most.
    """
    grant = await _granted(call, "progress")
    raw = await call.body(_REPORT_BYTES_MAX)
    report = ProgressReport()
    if raw:
        depth_max = call.context.settings.json_depth_max
        report = json.decode(json.decoder(ProgressReport), raw, depth_max=depth_max)
    if not await _taken(call, grant, _said(call, report)):
        raise _late(grant)
    return Response(status_code=204)


@Operation(
    "POST",
    f"{_ID}/complete/{{token}}",
    tag="jobs",
    media=("*/*",),
    parameters=(
        Parameter(
            name="status",
            about="How it ended: `completed` (by default) or `failed`; then the body is its error.",
            type=Told,
        ),
    ),
    responses={200: CompletedView},
    errors=(
        "NOT_FOUND",
        "CONFLICT",
        "RATE_LIMITED",
        "PAYLOAD_TOO_LARGE",
        "STORAGE_LIMIT_EXCEEDED",
    ),
)
async def complete(call: Call) -> Response:
    """End a job by its upstream's word.

    For its upstream, which gets this URL with each call (`X-Job-Complete-Url`): the body, of
    whatever type, is the job's output. The first word counts, be it this or the answer to the call;
    to say the same again is fine, and 409 says that the job ended otherwise, or runs anew.
    """
    grant = await _granted(call, "complete")
    query = read_query(call.request.query, ("status",))
    said = query.get("status", "completed")
    if said not in ("completed", "failed"):
        raise invalid("status", said, "must be completed or failed")
    by_url = call.context.gateway.engine.by_url
    one = await by_url.running(grant.job, grant.claim)
    prediction = await predictions.of(call, grant, one)
    if prediction is not None:
        return await _predicted(call, grant, prediction)
    output_max = by_url.rules("" if one is None else one.job.endpoint).output_max
    output = _output(call, await call.body(min(output_max, _OUTPUT_BYTES_MAX)))
    state: Told = "failed" if said == "failed" else "completed"
    if one is not None:
        if (left := call.context.gateway.reports.write_now(grant.job)) is not None:
            await left
        await by_url.complete(one, state, output)
    # Of two that come at once, as of any two, what is stored says which was the first.
    if not await _was_told(call, grant, state, output):
        raise _late(grant)
    return _completed(grant, state)


async def _predicted(call: Call, grant: Grant, one: JobByUrl) -> Response:
    """Take what a cog server says of a job: how far it is, or how it ended."""
    claim = one.job.claim
    said = await predictions.read(call, one)
    if said.state == "running":
        at_ms = call.now_ms
        step = None if said.step is None else said.step[:STEP_CHARS_MAX].replace("\0", "\ufffd")
        progress = Progress(percent=said.percent, step=step, since_ms=at_ms, at_ms=at_ms)
        if not await _taken(call, replace(grant, claim=claim), Said(progress=progress)):
            raise _late(grant)
        return _completed(grant, "running")
    if said.state == "cancelled" and claim != grant.claim:
        raise _late(grant)  # it was, so that the job could be called again
    await predictions.end(call, one, said)
    state: Told = "completed" if said.state == "completed" else "failed"
    if not await _was_told(call, replace(grant, claim=claim), state, said.output):
        raise _late(grant)
    return _completed(grant, state)


def _completed(grant: Grant, state: JobState) -> Response:
    return respond(CompletedView(id=ids.spelled(grant.job, "v1"), status=state))


async def _granted(call: Call, purpose: Purpose) -> Grant:
    """Return what the token in the path stands for; nothing is looked up for that while its time is
    not over. It is not either while its job runs by it, or has ended by it and is told so again:
    then a clock was wrong, and the job's own limit holds. Raises ApiError: 404 for one that is none
    of ours, 409 for one whose time is over, 429 for too many."""
    id = ids.parse_job_id(call.path["id"])
    call.request.holder = f"@{call.request.peer}"
    links, reports = call.context.gateway.links, call.context.gateway.reports
    grant = None if id is None else links.read(purpose, id, call.path["token"])
    if grant is None:
        raise ApiError("NOT_FOUND", "there is no such URL of a job")
    try:
        reports.admit(grant.job, call.request.peer)
    except TooManyReports:
        raise _too_many() from None
    if grant.expires_ms <= call.now_ms and not await _is_current(call, grant, purpose):
        raise _late(grant)
    return grant


async def _is_current(call: Call, grant: Grant, purpose: Purpose) -> bool:
    by_url, jobs = call.context.gateway.engine.by_url, call.context.store.jobs
    if await by_url.running(grant.job, grant.claim) is not None:
        return True
    return purpose == "complete" and await jobs.ended_under(grant.job, grant.claim) is not None


async def _taken(call: Call, grant: Grant, said: Said) -> bool:
    try:
        return await call.context.gateway.reports.take(grant, said)
    except TooManyReports:
        raise _too_many() from None
    except TooManyChunks as error:
        raise ApiError("PAYLOAD_TOO_LARGE", str(error)) from None


def _said(call: Call, report: ProgressReport) -> Said:
    at_ms = call.now_ms
    metadata = None
    if report.metadata is not UNSET and bytes(report.metadata) != b"null":
        metadata = metadata_of(bytes(report.metadata))
        if metadata is None:
            reason = f"must be an object of at most {METADATA_BYTES_MAX} bytes, no key of it twice"
            raise invalid("metadata", None, reason)
    output = None if report.output is UNSET else bytes(report.output)
    if output is not None and len(output) > PIECE_BYTES_MAX:
        raise invalid("output", None, f"must be at most {PIECE_BYTES_MAX} bytes")
    known = Progress(
        percent=report.progress,
        step=_shown(report.current_step),
        metadata=metadata,
        log=logged(None, _shown(report.log)),
        since_ms=at_ms,
        at_ms=at_ms,
    )
    return Said(progress=known, output=output)


def _shown(text: str | None) -> str | None:
    return None if text is None else text.replace("\0", "\ufffd")


def _output(call: Call, body: bytes) -> Output:
    """Return what was sent as an output: of a type that says nothing, JSON where it is that."""
    given = call.header(b"content-type")
    if given is None or given.partition(";")[0].strip().lower() == _FORM:
        as_json = Output(body=body, content_type=_JSON)
        is_json = told.spliced(as_json, len(body)) == body.strip()
        given = _JSON if is_json else _TEXT
    return Output(body=body, content_type=kept_type(given))


async def _was_told(call: Call, grant: Grant, state: JobState, output: Output) -> bool:
    """Whether a job ended under this claim, and just so: what was said again was said before."""
    store = call.context.store.jobs
    ended = await store.ended_under(grant.job, grant.claim)
    if ended is None or ended[1] != state:
        return False
    try:
        stored = await store.output(ended[0], grant.job)
    except (NotFound, PayloadGone):
        return not output.size
    if stored.sha256 == output.sha256:
        return True
    said = prediction_of(output.body)  # of a cog server that did not hear our answer
    return said is not None and said.state == state and stored.sha256 == said.output.sha256


def _late(grant: Grant) -> ApiError:
    id = ids.spelled(grant.job, "v1")
    message = f"{id} does not run by this call any more: whatever is done for it may stop"
    return ApiError("CONFLICT", message, details={"id": id})


def _too_many() -> ApiError:
    return ApiError(
        "RATE_LIMITED",
        "more than is taken in a second; the last one counts, so send fewer",
        headers={"Retry-After": str(_SOON_S)},
    )


OPERATIONS: Final = (progress, complete)
