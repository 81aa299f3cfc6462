"""RunPod's routes: what was written for it works with another base URL.

A body is an envelope: its `input` is the job's, of its other keys a few have a meaning, and the
rest is thrown away. `s3Config` is the upstream's alone: it is cut out here, kept sealed, and stands
in no answer, no log and no error.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw
from starlette.responses import Response

from dispatcher import ids
from dispatcher.api import job_headers, job_submits, jobs, outputs
from dispatcher.api.call import JSON_BYTES_MAX, Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.dialects import shared
from dispatcher.api.dialects.runpod_shapes import (
    S3_NAMES,
    ExecutionPolicy,
    HealthView,
    JobCounts,
    PurgeView,
    RequestDetailView,
    RequestsView,
    RequestView,
    RunRequest,
    S3Config,
    StreamView,
    TakenView,
    WorkerCounts,
)
from dispatcher.api.job_views import SHOWN_BYTES_MAX
from dispatcher.api.json import JSON, respond
from dispatcher.api.manner import Manner
from dispatcher.api.route import Handler, Method, Operation, Parameter
from dispatcher.dialects import runpod
from dispatcher.dialects.snapshot import Snapshot, of_job, output_value
from dispatcher.gateway.intake import JobSubmission
from dispatcher.intake import Invalid
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import Job, SubmittedJob
from dispatcher.store.errors import Conflict, NotFound
from receiver.base.http import invalid, number

MANNER: Final = Manner(statuses={"VALIDATION_ERROR": 400}, bare_key=True)

STREAM_S: Final = 5.0
"""So long a stream is held while nothing is new: its clients read for ten seconds, or ask again
without a pause."""
STREAM_BYTES: Final = 1024 * 1024
"""Of about so many bytes of chunks is one answer of a stream, or of one that is longer."""
S3_CONFIG_BYTES_MAX: Final = 8 * 1024
WAIT_MS: Final = 90_000
WAIT_MS_MIN: Final = 1_000
WAIT_MS_MAX: Final = 300_000
_EP: Final = "/v2/{name}"
_WAIT: Final = Parameter(
    name="wait",
    about=f"For how many milliseconds its end is waited for: {WAIT_MS_MIN:,} to "
    f"{WAIT_MS_MAX:,}, {WAIT_MS:,} by default.",
    type=int,
)
_KEY: Final = tuple(one for one in job_headers.PARAMETERS if one.name == "Idempotency-Key")
_TTL: Final = Parameter(
    name="ttl", about="Has no effect: the endpoint's `keep` says how long results are kept."
)
_EXAMPLE: Final = {"input": {"prompt": "hello"}, "webhook": "https://example.com/hook"}
_TAKING_ERRORS: Final = (
    "NOT_FOUND",
    "IDEMPOTENCY_CONFLICT",
    "DESTINATION_DISABLED",
    "KEYS_REQUIRED",
    "PAYLOAD_TOO_LARGE",
    "QUEUE_FULL",
    "RATE_LIMITED",
    "STORAGE_LIMIT_EXCEEDED",
    "LIMIT_REACHED",
    "TENANT_ERASING",
)
# What others call differently.
_FIELDS: Final = {
    "callbackUrl": "webhook",
    "timeout": "policy.executionTimeout",
    "ttl": "policy.ttl",
}
_S3: Final = msgspec.json.Decoder(S3Config)


@Operation(
    "POST",
    f"{_EP}/run",
    tag="runpod",
    scope="submit",
    refused=job_submits.refused,
    body=RunRequest,
    example=_EXAMPLE,
    parameters=_KEY,
    responses={200: TakenView},
    errors=_TAKING_ERRORS,
    manner=MANNER,
)
async def run(call: Call) -> Response:
    """Submit a job.

    It is on disk when this answers. Keys of the body that are not known are thrown away.
    """
    taken = await _taken(call, waited=False)
    # Whether it was started at once is a matter of microseconds, not of its story.
    status = runpod.STATUS[taken.state if taken.duplicate else "queued"]
    return respond(TakenView(id=ids.spelled(taken.id, "runpod"), status=status))


@Operation(
    "POST",
    f"{_EP}/runsync",
    tag="runpod",
    scope="submit",
    refused=job_submits.refused,
    body=RunRequest,
    example=_EXAMPLE,
    parameters=(_WAIT, *_KEY),
    responses={200: RequestDetailView},
    errors=(*_TAKING_ERRORS, "CANNOT_UNSEAL"),
    manner=MANNER,
)
async def runsync(call: Call) -> Response:
    """Submit a job and wait for its end.

    One that has not ended in time is shown as it is then, and goes on, as it does when its caller
    hangs up: ask for it by its id.
    """
    wait_s = _wait_s(call)
    taken = await _taken(call, waited=True)
    if taken.state not in FINAL:
        await shared.has_ended(call, taken.id, wait_s)
    job = await call.context.store.jobs.get(call.tenant, taken.id, output=True)
    job = await outputs.filled(call, job)
    return _shown(runpod.document(_snapshot(call, job)))


async def _status(call: Call) -> Response:
    """Show a job.

    With its output once it has completed, or its error. Any spelling of its id finds it.
    """
    return _shown(runpod.document(_snapshot(call, await _find(call))))


async def _status_sync(call: Call) -> Response:
    """Show a job once it has ended.

    Or as it is when the time is over; where too many requests are held already, at once.
    """
    wait_s = _wait_s(call)
    job = await _find(call)
    if job.state not in FINAL:
        await shared.has_ended(call, job.id, wait_s)
        job = await _find(call)
    return _shown(runpod.document(_snapshot(call, job)))


async def _stream(call: Call) -> Response:
    """Read a job's output as it comes.

    Each piece is in one answer only, and a state that is the last one in none before the last
    piece. While nothing is new the answer is held for some seconds.
    """
    id, store = (await _find(call, output=False)).id, call.context.store.jobs
    if not await store.has_chunks(call.tenant, id):
        call.bodies.give_back(call.request)
        waiting = _until_new(call, id)
        if call.request.method == "GET":  # it is watched already
            await waiting
        else:
            await call.request.while_there(waiting)
    if call.request.method == "HEAD":  # whose answer has no room for it
        return _shown(runpod.streamed((await _find(call, output=False)).state, ()))
    handed = await store.hand_out(call.tenant, id, bytes_max=STREAM_BYTES)
    values = handed.values
    if handed.whole:
        job = await _find(call)
        values = () if job.output is None else (output_value(_snapshot(call, job)),)
    # What comes last comes with the last chunk, or after it.
    state = handed.state if handed.is_last or handed.state not in FINAL else "running"
    return _shown(runpod.streamed(state, values))


async def _until_new(call: Call, job: str) -> None:
    """Wait until a job has something to hand out, or has ended; at once where too many requests
    are held already, or the process is about to stop."""
    gateway, store = call.context.gateway, call.context.store.jobs
    ends_s = time.monotonic() + STREAM_S
    with gateway.waiters.place(call.tenant) as has_place, gateway.feeds.follow(job) as feed:
        while has_place and not gateway.waiters.is_stopped:
            version = feed.version
            if await store.has_chunks(call.tenant, job):
                return
            if not await feed.wait(version, ends_s - time.monotonic()):
                return


def _looks(path: str, handler: Handler, **rest: Any) -> tuple[Operation, ...]:
    """Return an operation that only looks, by GET and by POST: clients use either, and a body says
    nothing."""
    methods: tuple[Method, ...] = ("GET", "POST")
    return tuple(
        Operation(
            method,
            f"{_EP}/{path}/{{id}}",
            tag="runpod",
            scope="read",
            errors=("NOT_FOUND", "CANNOT_UNSEAL"),
            manner=MANNER,
            **rest,
        )(handler)
        for method in methods
    )


LOOKS: Final = (
    *_looks("status", _status, parameters=(_TTL,), responses={200: RequestDetailView}),
    *_looks(
        "status-sync", _status_sync, parameters=(_WAIT, _TTL), responses={200: RequestDetailView}
    ),
    *_looks("stream", _stream, responses={200: StreamView}),
)


@Operation(
    "POST",
    f"{_EP}/cancel/{{id}}",
    tag="runpod",
    scope="operate",
    responses={200: RequestView},
    errors=("NOT_FOUND",),
    actions=("job.cancel",),
    manner=MANNER,
)
async def cancel(call: Call) -> Response:
    """Cancel a job.

    At once, whatever it does. One that has ended stays as it is, and the answer says how it ended.
    """
    await _find(call, output=False)
    return _shown(runpod.summary(_snapshot(call, await jobs.cancelled(call))))


@Operation(
    "POST",
    f"{_EP}/retry/{{id}}",
    tag="runpod",
    scope="operate",
    responses={200: TakenView},
    errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_GONE", "QUEUE_FULL"),
    actions=("job.retry",),
    manner=MANNER,
)
async def retry(call: Call) -> Response:
    """Run a job again.

    One that FAILED or TIMED_OUT, under the same id; its next end is told by a callback of its own.
    """
    job = await _find(call, output=False)
    spelled = ids.spelled(job.id, "runpod", waited=job.options.waited)
    if job.state not in runpod.RETRYABLE:
        status = runpod.STATUS[job.state]
        raise Conflict(f"{spelled} is {status}: only one that FAILED or TIMED_OUT is run again")
    await jobs.retried(call, dialect="runpod")
    return respond(TakenView(id=spelled, status="IN_QUEUE"))


@Operation(
    "POST",
    f"{_EP}/purge-queue",
    tag="runpod",
    scope="operate",
    responses={200: PurgeView},
    errors=("NOT_FOUND",),
    actions=("endpoint.purge",),
    manner=MANNER,
)
async def purge_queue(call: Call) -> Response:
    """Empty a queue.

    Of the caller's own jobs none that waits will start: they are cancelled in the background, each
    with its callback. What runs goes on.
    """
    name = call.path["name"]
    call.context.job_intake.rules(call.tenant, name)
    entry = call.entry("endpoint.purge", name, callbacks=True)
    removed = await call.context.store.jobs.purge(
        name, tenant=call.tenant, callbacks=True, now_ms=call.now_ms, entries=[entry]
    )
    return respond(PurgeView(removed=removed, status="completed"))


@Operation(
    "GET",
    f"{_EP}/health",
    tag="runpod",
    scope="read",
    responses={200: HealthView},
    errors=("NOT_FOUND",),
    manner=MANNER,
)
async def health(call: Call) -> Response:
    """Show what an endpoint has to do.

    Of the caller's own jobs; `workers` are the calls that it may have open, whoever's they are.
    """
    name, store = call.path["name"], call.context.store.jobs
    call.context.job_intake.rules(call.tenant, name)
    endpoint = call.context.gateway.book.find(name)
    load, own = await store.load(name), await store.tenant_load(call.tenant, name)
    capacity = load.window if endpoint is None else endpoint.rules.concurrency
    busy = load.running + load.releasing
    is_open = load.held_until_ms <= call.now_ms and not (endpoint and endpoint.paused)
    idle = max(0, load.window - busy) if is_open else 0
    return respond(
        HealthView(
            jobs=JobCounts(
                completed=own.completed,
                failed=own.failed,
                in_progress=own.running,
                in_queue=own.queued,
                retried=own.retried,
            ),
            workers=WorkerCounts(
                idle=idle,
                initializing=0,
                ready=idle,
                running=busy,
                throttled=max(0, capacity - busy - idle),
            ),
        )
    )


@Operation(
    "GET",
    f"{_EP}/requests",
    tag="runpod",
    scope="read",
    parameters=PAGE,
    responses={200: RequestsView[RequestView]},
    errors=("NOT_FOUND", "UNAVAILABLE"),
    manner=MANNER,
)
async def requests(call: Call) -> Response:
    """List jobs.

    The caller's own at this endpoint, newest first, without what came of them.
    """
    name = call.path["name"]
    call.context.job_intake.rules(call.tenant, name)
    listing = call.listing(f"runpod\0{call.tenant}\0{name}")
    page = await call.context.store.jobs.search(
        call.tenant, JobFilter(endpoint=name), after=listing.after, limit=listing.limit
    )
    shown = [Raw(runpod.summary(_snapshot(call, one))) for one in page.jobs]
    cursor = listing.page(shown, page.next_id).next_cursor
    return respond(RequestsView(requests=shown, next_cursor=cursor))


# --- taking jobs in ---


async def _taken(call: Call, *, waited: bool) -> SubmittedJob:
    """Store the job that a request is."""
    submission = await _submission(call, waited=waited)
    with _named():
        return await shared.accept(call, submission)


async def _submission(call: Call, *, waited: bool) -> JobSubmission:
    """Return the job that a request is. Raises Refusal, which shows nothing of `s3Config`."""
    name = call.path["name"]
    rules = call.context.job_intake.rules(call.tenant, name)
    given = await call.json(RunRequest, rules.input_max + JSON_BYTES_MAX)
    if not bytes(given.input).startswith(b"{"):
        raise invalid("input", None, "must be an object")
    policy = given.policy or ExecutionPolicy()
    limit_s = None if policy.execution_timeout is None else policy.execution_timeout / 1000
    if limit_s is not None and rules.timeout_max is not None:
        limit_s = min(limit_s, rules.timeout_max)
    return JobSubmission(
        endpoint=name,
        body=b'{"input":%b}' % bytes(given.input),
        input=bytes(given.input) if rules.schema is not None else None,
        content_type=JSON,
        dialect="runpod",
        priority="low" if policy.low_priority else "normal",
        headers=job_headers.passed(call),
        callback_url=given.webhook or given.webhook_v2,
        idempotency_key=job_headers.idempotency_key(call),
        limit_s=limit_s,
        ttl_s=None if policy.ttl is None else policy.ttl / 1000,
        waited=waited,
        secret=None if given.s3_config is UNSET else _s3_config(bytes(given.s3_config)),
    )


def _s3_config(given: bytes) -> str | None:
    """Return what goes to the upstream as it came. Raises Refusal, which shows nothing of it."""
    if given == b"null":
        return None
    if len(given) > S3_CONFIG_BYTES_MAX:
        raise invalid("s3Config", None, f"longer than {S3_CONFIG_BYTES_MAX:,} bytes")
    try:
        _S3.decode(given)
    except msgspec.ValidationError:
        reason = f"must be an object, and texts its {', '.join(S3_NAMES)}"
        raise invalid("s3Config", None, reason) from None
    return given.decode()


@contextmanager
def _named() -> Iterator[None]:
    """Have errors name fields as they are called here."""
    try:
        yield
    except Invalid as error:
        field = _FIELDS.get(error.field, error.field)
        raise Invalid(field, error.value, error.reason) from None


# --- showing them ---


async def _find(call: Call, *, output: bool = True) -> Job:
    """Return the job that the path names, at the endpoint that it names. Raises NotFound."""
    job = await jobs.find(call, output=output)
    if job.endpoint != call.path["name"]:
        raise NotFound(f"there is no job {call.path['id']}")
    return job


def _snapshot(call: Call, job: Job) -> Snapshot:
    """Return a job as it is shown: as its callback shows it, links too. An output that is too long
    for a callback stands here all the same."""
    endpoint = call.context.gateway.book.find(job.endpoint)
    return of_job(
        job,
        "runpod",
        None if endpoint is None else endpoint.rules,
        cost=0.0,
        now_ms=call.now_ms,
        inline_max=SHOWN_BYTES_MAX,
        public_url=call.context.settings.public_url or "",
        link=call.context.gateway.links.of_output,
    )


def _shown(body: bytes) -> Response:
    return Response(body, media_type=JSON)


def _wait_s(call: Call) -> float:
    wait_ms = number(call.query, "wait", min=WAIT_MS_MIN, max=WAIT_MS_MAX)
    return (wait_ms or WAIT_MS) / 1000


SUBMITS: Final = (run, runsync)
OPERATIONS: Final = (run, runsync, *LOOKS, cancel, retry, purge_queue, health, requests)
