"""TensorOne's routes: its paths, its words, and seconds."""

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from starlette.responses import Response

from dispatcher import ids
from dispatcher.api import events, following, job_headers, job_submits, job_views, jobs, outputs
from dispatcher.api.call import JSON_BYTES_MAX, Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.dialects import shared
from dispatcher.api.dialects.tensorone_shapes import (
    Execution,
    ExecutionView,
    JobStatusView,
    JobsView,
    ListedView,
    ResultView,
)
from dispatcher.api.errors import ApiError, to_refusal
from dispatcher.api.following import KEEP_ALIVE_S, Cursor
from dispatcher.api.json import JSON, encode, respond
from dispatcher.api.preferences import WAIT_S_MAX
from dispatcher.api.route import Operation, Parameter
from dispatcher.dialects import tensorone
from dispatcher.filters import FilterError
from dispatcher.gateway.intake import JobSubmission
from dispatcher.jobs import filters
from dispatcher.jobs.estimates import DURATION_S
from dispatcher.jobs.fields import duration
from dispatcher.jobs.states import FINAL, JobState
from dispatcher.jobs.values import Job, JobPriority, SubmittedJob
from dispatcher.quotas import StorageFull
from dispatcher.store.errors import StoreError
from receiver.base.clock import iso
from receiver.base.http import invalid, number

_DIALECT: Final = "tensorone"
_ID: Final = "/v2/jobs/{id}"
_KEEP_ALIVE_S: Final = KEEP_ALIVE_S
_SHOWN_BYTES: Final = 200
_EXAMPLE: Final = {
    "input": {"prompt": "Generate a report", "pages": 10},
    "async": True,
    "callbackUrl": "https://example.com/webhooks/job-complete",
    "priority": "normal",
    "tags": {"userId": "user_12345"},
}
_REFUSALS: Final = (
    "NOT_FOUND",
    "IDEMPOTENCY_CONFLICT",
    "DESTINATION_DISABLED",
    "PAYLOAD_TOO_LARGE",
    "QUEUE_FULL",
    "RATE_LIMITED",
    "STORAGE_LIMIT_EXCEEDED",
    "LIMIT_REACHED",
    "TENANT_ERASING",
)
_KEY: Final = tuple(one for one in job_headers.PARAMETERS if one.name == "Idempotency-Key")
_WAIT: Final = Parameter(
    name="wait",
    about=f"Wait so many seconds for its end; {WAIT_S_MAX}, which is the most, by default.",
    type=int,
)
_FILTERS: Final = (
    Parameter(name="status", about="The job's state.", type=JobState),
    Parameter(name="endpointId", about="An endpoint's name."),
    Parameter(name="tag.KEY", about="The value of the tag KEY; up to 8 of them."),
    Parameter(name="priority", about="Its class.", type=JobPriority),
    *(one for one in jobs.FILTERS if one.name in ("since", "until")),
)


@Operation(
    "POST",
    "/v2/endpoints/{name}/runasync",
    tag="tensorone",
    scope="submit",
    refused=job_submits.refused,
    body=Execution,
    example=_EXAMPLE,
    parameters=_KEY,
    responses={202: ExecutionView[str]},
    errors=_REFUSALS,
)
async def run_async(call: Call) -> Response:
    """Execute an endpoint asynchronously.

    `input` alone goes to the endpoint's upstream, unless its rules say otherwise. A 202 means that
    the job is on disk; `Location` and `statusUrl` are where to ask.
    """
    return await _accepted(call, await _accept(call, await _submission(call, is_async=True)))


@Operation(
    "POST",
    "/v2/endpoints/{name}/runsync",
    tag="tensorone",
    scope="submit",
    refused=job_submits.refused,
    body=Execution,
    example={"input": {"prompt": "Generate a report", "pages": 10}},
    parameters=(_WAIT, *_KEY),
    responses={200: ResultView, 202: ExecutionView[str]},
    errors=(
        *_REFUSALS,
        "JOB_CANCELLED",
        "JOB_FAILED",
        "JOB_TIMEOUT",
        "PAYLOAD_GONE",
        "CANNOT_UNSEAL",
    ),
)
async def run_sync(call: Call) -> Response:
    """Execute an endpoint, and wait for its end.

    A job like any other, and 200 once it has completed; 502, 504 or 409 (JOB_FAILED) where it ended
    otherwise; 202, as of `runasync`, where it goes on when the time is over, or too many requests
    are held already. It goes on, too, when the client hangs up.
    """
    wait_s = number(call.query, "wait", min=0, max=WAIT_S_MAX)
    wait_s = WAIT_S_MAX if wait_s is None else wait_s
    taken = await _accept(call, await _submission(call, is_async=False))
    id, state = taken.job.id, taken.job.state
    if state not in FINAL and not await shared.has_ended(call, id, wait_s):
        return await _accepted(call, taken)
    job = await call.context.store.jobs.get(call.tenant, id, output=True)
    job = await outputs.filled(call, job)
    headers = {"Location": _status_path(job.id)}
    if job.state == "completed":
        job_views.check_output(job, _DIALECT)
        shown = await shared.snapshot(call, job, _DIALECT)
        return _document(tensorone.result(shown), headers)
    if job.state in FINAL:
        raise job_submits.failed(job, headers)
    return await _accepted(call, taken)  # somebody has it run again


async def _submission(call: Call, *, is_async: bool) -> JobSubmission:
    """Return the submission that a request makes. Raises Refusal."""
    name = call.path["name"]
    rules = call.context.job_intake.rules(call.tenant, name)
    request = await call.json(Execution, rules.input_max + JSON_BYTES_MAX)
    if request.is_async is not None and request.is_async is not is_async:
        other = "runsync" if is_async else "runasync"
        reason = f"must be {str(is_async).lower()} here; there is /{other} too"
        raise invalid("async", request.is_async, reason)
    given = bytes(request.input).strip()
    if not given.startswith(b"{"):
        raise invalid("input", _plain(given), "must be an object")
    return JobSubmission(
        endpoint=name,
        body=b'{"input":%b}' % given,
        input=given if rules.schema is not None else None,
        content_type=JSON,
        dialect=_DIALECT,
        priority=request.priority,
        tags=request.tags,
        headers=job_headers.passed(call),
        callback_url=request.callback_url,
        idempotency_key=job_headers.idempotency_key(call),
        limit_s=_seconds("timeout", request.timeout),
    )


def _plain(value: bytes) -> Any:
    """Return a JSON value as an error may show it: nothing of a list, of a long text, or of a
    number that nobody can hold."""
    if len(value) > _SHOWN_BYTES or value.startswith(b"["):
        return None
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return None


def _seconds(field: str, given: float | str | None) -> float | None:
    if given is None:
        return None
    try:
        return duration(given)
    except ValueError as error:
        raise invalid(field, given, f"must be {error}") from None


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was taken, and what of its request is answered: nobody's input is held while
    somebody waits."""

    job: SubmittedJob
    priority: JobPriority
    tags: dict[str, str]


async def _accept(call: Call, submission: JobSubmission) -> Taken:
    """Store the job. Raises what becomes an error response; sizes are told as the dialect does."""
    try:
        job = await shared.accept(call, submission)
        return Taken(job, submission.priority, dict(submission.tags))
    except StorageFull as full:
        details: dict[str, Any] = {
            "estimatedSize": tensorone.size(full.estimated_bytes),
            "remainingQuota": tensorone.size(full.remaining_bytes),
            "estimatedBytes": full.estimated_bytes,
            "remainingBytes": full.remaining_bytes,
        }
        if full.upgrade_url is not None:
            details["upgradeUrl"] = full.upgrade_url
        headers = {"Retry-After": str(full.retry_after_s)}
        raise ApiError(
            "STORAGE_LIMIT_EXCEEDED", str(full), details=details, headers=headers
        ) from None


async def _accepted(call: Call, taken: Taken) -> Response:
    """Return what a taken job is answered with; one that came before, as it was taken then."""
    submitted, priority, tags = taken.job, taken.priority, taken.tags
    if submitted.duplicate:
        first = await call.context.store.jobs.get(call.tenant, submitted.id, output=False)
        priority, tags = first.priority, dict(first.tags)
    view = ExecutionView(
        job_id=ids.spelled(submitted.id, _DIALECT),
        # Whether it was started at once is a matter of microseconds, not of its story.
        status=submitted.state if submitted.duplicate else "queued",
        endpoint_id=submitted.endpoint,
        priority=priority,
        estimated_duration=await _estimated_s(call, submitted.endpoint),
        created_at=iso(submitted.created_ms),
        status_url=jobs.link(call, _status_path(submitted.id)),
        tags=tags,
    )
    headers = {
        "Location": _status_path(submitted.id),
        "Retry-After": str(job_submits.RETRY_AFTER_S),
    }
    return respond(view, 202, headers)


async def _estimated_s(call: Call, name: str) -> int:
    """Return for how long a job of an endpoint is expected to run. Raises nothing: the job is
    taken, whether that can be told or not."""
    endpoint, known = call.context.gateway.book.find(name), None
    if endpoint is not None:
        known = endpoint.rules.expected_duration
        with suppress(StoreError):
            known = (await call.context.figures.estimates(endpoint)).duration_s
    return max(1, math.ceil(DURATION_S if known is None else known))


def _status_path(id: str) -> str:
    return f"/v2/jobs/{ids.spelled(id, _DIALECT)}/status"


def _document(body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type=JSON)


# --- looking ---


@Operation(
    "GET",
    "/v2/jobs",
    tag="tensorone",
    scope="read",
    parameters=(*_FILTERS, *PAGE),
    responses={200: JobsView[str]},
    errors=("UNAVAILABLE",),
)
async def search(call: Call) -> Response:
    """Find jobs.

    Newest first, in whatever dialect they came. Every filter that is given must match.
    """
    paged = {one.name for one in PAGE}
    asked = {name: value for name, value in call.query.items() if name not in paged}
    if "endpoint" in asked:
        raise invalid("endpoint", asked["endpoint"], "unknown parameter; it is endpointId here")
    if "endpointId" in asked:
        asked["endpoint"] = asked.pop("endpointId")
    try:
        chosen = filters.parse(asked)
    except FilterError as error:
        field = "endpointId" if error.field == "endpoint" else error.field
        raise invalid(field, error.value, error.reason) from None
    listing = call.listing(f"v2 jobs\0{call.tenant}\0{encode(filters.dump(chosen)).decode()}")
    page = await call.context.store.jobs.search(
        call.tenant, chosen, after=listing.after, limit=listing.limit
    )
    cut = listing.page([_listed(one) for one in page.jobs], page.next_id)
    return respond(JobsView(jobs=cut.data, next_cursor=cut.next_cursor))


def _listed(job: Job) -> ListedView[str]:
    return ListedView(
        job_id=ids.spelled(job.id, _DIALECT),
        status=job.state,
        endpoint_id=job.endpoint,
        priority=job.priority,
        tags=dict(job.tags),
        created_at=iso(job.created_ms),
        started_at=iso(job.started_ms),
        completed_at=iso(job.ended_ms) if job.state in FINAL else None,
    )


@Operation(
    "GET",
    f"{_ID}/status",
    tag="tensorone",
    scope="read",
    responses={200: JobStatusView[str]},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
)
async def status(call: Call) -> Response:
    """Show a job's status.

    Any spelling of its id finds it. With `Accept: text/event-stream` the answer goes on: an event
    with the present status, one more with each change, the last one with its end, and an event
    `output` with each chunk of an answer that comes in chunks; for five minutes at most, and with
    the first event alone where too many requests are held already.
    """
    job = await jobs.find(call)
    if call.request.method == "GET" and events.wants_events(call.headers(b"accept")):
        return events.Events(call.request, _updates(call, job))
    return _document(await _status(call, job))


async def _status(call: Call, job: Job) -> bytes:
    """Return a job's status; `job` was read with its output."""
    expected = None
    if job.state == "queued":
        expected = (await jobs.waiting(call, job)).get("estimated_completion")
    elif job.state == "running" and job.started_ms is not None:
        expected = await jobs.completion(call, job, job.started_ms)
    return tensorone.status(await shared.snapshot(call, job, _DIALECT), expected)


async def _status_now(call: Call) -> bytes:
    return await _status(call, await jobs.find(call))


async def _updates(call: Call, job: Job) -> AsyncGenerator[bytes, None]:
    """Yield a job's status now, and after each change until its end, as events; chunks of its
    answer, as they come, as events `output`."""
    at = Cursor()
    watched = following.changes(call, job.id, at, seconds=WAIT_S_MAX, keep_alive_s=_KEEP_ALIVE_S)
    try:
        async for change in watched:
            match change.what:
                case "state" if change.state in FINAL:
                    what = f"tensorone {call.tenant} {at.run} {jobs.link(call, '')}"
                    feeds = call.context.gateway.feeds
                    yield events.event(await feeds.shared(job.id, what, partial(_status_now, call)))
                case "state" | "progress":
                    yield events.event(await _status_now(call))
                case "chunk":
                    yield events.event(
                        tensorone.chunk(job.id, change.number, change.value), "output"
                    )
                case "quiet":
                    yield events.KEEP_ALIVE
    except Exception as error:  # the status of the answer is said already
        refusal = to_refusal(error, call.request.id)
        yield events.event(encode(refusal.document(call.request.id)), "error")


# --- changing ---


@Operation(
    "POST",
    f"{_ID}/cancel",
    tag="tensorone",
    scope="operate",
    responses={200: JobStatusView[str]},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
    actions=("job.cancel",),
)
async def cancel(call: Call) -> Response:
    """Cancel a job.

    Cancelled at once, and its callback says so. One that has ended stays as it is, and is shown.
    """
    return _document(await _status(call, await jobs.cancelled(call)))


@Operation(
    "POST",
    f"{_ID}/retry",
    tag="tensorone",
    scope="operate",
    responses={200: JobStatusView[str]},
    errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_GONE", "QUEUE_FULL", "CANNOT_UNSEAL"),
    actions=("job.retry",),
)
async def retry(call: Call) -> Response:
    """Run a job again.

    One that failed, timed out or was cancelled: the same id and input, and a callback of its own.
    409 while it waits or runs and once it has completed, 410 when its input is gone.
    """
    return _document(await _status(call, await jobs.retried(call, dialect=_DIALECT)))


SUBMITS: Final = (run_async, run_sync)
OPERATIONS: Final[tuple[Operation, ...]] = (*SUBMITS, status, search, cancel, retry)
