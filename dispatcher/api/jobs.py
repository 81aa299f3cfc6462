"""Jobs: finding and watching them, what went in and what came out, cancelling and retrying one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from starlette.responses import Response

from dispatcher import ids
from dispatcher.api import job_views, outputs
from dispatcher.api.call import LIMIT_MAX, Call
from dispatcher.api.callbacks import PAGE, Limit
from dispatcher.api.json import encode, respond
from dispatcher.api.preferences import WAIT_S_MAX
from dispatcher.api.route import Operation, Parameter
from dispatcher.jobs import filters, progress, told
from dispatcher.jobs.looks import JobWait
from dispatcher.jobs.states import FINAL, JobReason, JobState
from dispatcher.jobs.values import Dialect, Job, JobPriority, Output
from dispatcher.store.errors import Conflict, InputGone, JobQueueFull, NotFound, PayloadGone
from dispatcher.wire_jobs import JobAttemptView, JobCallbackView, JobDetailView, JobView, Retry
from receiver.base.clock import iso
from receiver.base.http import DIGITS_MAX, number

_TIME: Final = "an ISO-8601 time; without an offset it is UTC"
FILTERS: Final = (
    Parameter(name="status", about="The job's state.", type=JobState),
    Parameter(name="endpoint", about="An endpoint's name."),
    Parameter(name="tag.KEY", about="The value of the tag KEY; up to 8 of them."),
    Parameter(name="priority", about="Its class.", type=JobPriority),
    Parameter(name="reason", about="What stands beside its state.", type=JobReason),
    Parameter(name="since", about=f"Created then or later: {_TIME}."),
    Parameter(name="until", about=f"Created before: {_TIME}."),
)
_WAIT: Final = Parameter(
    name="wait",
    about=f"Wait so many seconds for its end; {WAIT_S_MAX} at most.",
    type=int,
)
_ID: Final = "/v1/jobs/{id}"


@Operation(
    "GET",
    "/v1/jobs",
    tag="jobs",
    scope="read",
    parameters=(*FILTERS, *PAGE),
    responses={200: list[JobView[str]]},
    errors=("UNAVAILABLE",),
)
async def search(call: Call) -> Response:
    """Find jobs.

    Newest first. Every filter that is given must match.
    """
    paged = {one.name for one in PAGE}
    chosen = filters.parse({name: call.query[name] for name in call.query if name not in paged})
    about = f"jobs\0{call.tenant}\0{encode(filters.dump(chosen)).decode()}"
    listing = call.listing(about)
    page = await call.context.store.jobs.search(
        call.tenant, chosen, after=listing.after, limit=listing.limit
    )
    return respond(listing.page([job_views.view(one) for one in page.jobs], page.next_id))


@Operation(
    "GET",
    _ID,
    tag="jobs",
    scope="read",
    parameters=(_WAIT,),
    responses={200: JobDetailView[str]},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
)
async def get(call: Call) -> Response:
    """Show a job.

    Any spelling of its id finds it. With `wait` the answer is held until the job has ended, or the
    time is over; where too many requests are held already, it comes at once.
    """
    wait_s = number(call.query, "wait", min=0, max=WAIT_S_MAX)
    job, wait = await look(call)
    if wait_s and job.state not in FINAL:
        await call.context.gateway.waiters.wait(call.tenant, job.id, wait_s)
        job, wait = await look(call)
    return respond(await detail(call, job, wait))


@Operation(
    "GET",
    f"{_ID}/attempts",
    tag="jobs",
    scope="read",
    parameters=(
        Parameter(name="cursor", about="The `nextCursor` of the page before."),
        Parameter(name="limit", about="How many: 1 to 500, 500 by default.", type=Limit),
    ),
    responses={200: list[JobAttemptView[str]]},
    errors=("NOT_FOUND",),
)
async def attempts(call: Call) -> Response:
    """List its calls.

    Oldest first, of all its runs.
    """
    job = await find(call, output=False)
    listing = call.listing(f"job-attempts\0{call.tenant}\0{job.id}", limit=LIMIT_MAX)
    after = number({"cursor": listing.after or "0"}, "cursor", min=0, max=10**DIGITS_MAX) or 0
    history = await call.context.store.jobs.attempts(
        call.tenant, job.id, after=after, limit=listing.limit + 1
    )
    shown = history[: listing.limit]
    next_id = str(shown[-1].n) if len(history) > len(shown) else None
    return respond(listing.page([job_views.attempt(one) for one in shown], next_id))


@Operation(
    "GET",
    f"{_ID}/input",
    tag="jobs",
    scope="read",
    responses={200: "*/*", 206: "*/*", 304: None},
    errors=("NOT_FOUND", "PAYLOAD_GONE", "RANGE_NOT_SATISFIABLE", "CANNOT_UNSEAL"),
)
async def fetch_input(call: Call) -> Response:
    """Fetch its input.

    The bytes that it was submitted with, and their type.
    """
    job = await find(call, output=False)
    with _spelling(job.id):
        stored = await call.context.store.jobs.input(call.tenant, job.id)
        as_output = Output(body=stored.body, content_type=stored.content_type, blob=stored.blob)
        return await outputs.sent(call, as_output)


@Operation(
    "GET",
    f"{_ID}/output",
    tag="jobs",
    scope="read",
    responses={200: "*/*", 206: "*/*", 304: None},
    errors=("NOT_FOUND", "PAYLOAD_GONE", "RANGE_NOT_SATISFIABLE", "CANNOT_UNSEAL"),
)
async def fetch_output(call: Call) -> Response:
    """Fetch its output.

    What the upstream answered, byte for byte, and its type; of a job that failed, its error. A
    `Range` is answered with that part alone. 404 while there is none.
    """
    job = await find(call, output=False)
    with _spelling(job.id):
        stored = await call.context.store.jobs.output(call.tenant, job.id)
        return await outputs.sent(call, stored)


@Operation(
    "POST",
    f"{_ID}/cancel",
    tag="jobs",
    scope="operate",
    responses={200: JobDetailView[str]},
    errors=("NOT_FOUND",),
    actions=("job.cancel",),
)
async def cancel(call: Call) -> Response:
    """Cancel it.

    Cancelled at once, and its callback says so; the call is closed, and its place is free once it
    has ended. One that has ended stays as it is, and is shown.
    """
    return respond(await detail(call, await cancelled(call)))


async def cancelled(call: Call) -> Job:
    """Cancel the job that the path names, unless it has ended, and return it. Raises NotFound."""
    job = await find(call)
    if job.state not in FINAL:
        entry = call.entry("job.cancel", ids.spelled(job.id, "v1"))
        await call.context.gateway.engine.cancel(call.tenant, job.id, entries=[entry])
        job = await find(call)
    return job


@Operation(
    "POST",
    f"{_ID}/retry",
    tag="jobs",
    scope="operate",
    body=Retry,
    body_optional=True,
    example={},
    responses={200: JobDetailView[str]},
    errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_GONE", "QUEUE_FULL"),
    actions=("job.retry",),
)
async def retry(call: Call) -> Response:
    """Run it again.

    From failed, timeout or cancelled, and with `force` from completed too: the same id and input,
    the next run, with its tries anew. It has a callback of its own. 409 while it waits or runs, 410
    once its input is gone.
    """
    request = await call.json_if_any(Retry) or Retry()
    return respond(await detail(call, await retried(call, force=request.force)))


async def retried(call: Call, *, force: bool = False, dialect: Dialect = "v1") -> Job:
    """Queue the job that the path names again, and return it; errors spell its id as `dialect`
    does. Raises NotFound, Conflict, InputGone and QueueFull."""
    job = await find(call, output=False)
    entry = call.entry("job.retry", ids.spelled(job.id, "v1"), force=force or None)
    try:
        with _spelling(job.id, dialect):
            await call.context.gateway.engine.retry(
                call.tenant, job.id, force=force, entries=[entry]
            )
    except JobQueueFull as full:
        raise await call.context.job_intake.queue_full(full) from None
    return await find(call)


async def find(call: Call, *, output: bool = True) -> Job:
    """Return the job that the path names, by whatever spelling. Raises NotFound, which says no more
    of it (I9)."""
    with _named(call) as id:
        found = await call.context.store.jobs.get(call.tenant, id, output=output)
        return await outputs.filled(call, found)


async def look(call: Call) -> tuple[Job, JobWait | None]:
    """Return the same with its output, and what it waits for, if it does: in one read."""
    with _named(call) as id:
        job, wait = await call.context.store.jobs.look(
            call.tenant, id, running_max=_running_max(call), now_ms=call.now_ms
        )
        return await outputs.filled(call, job), wait


def _running_max(call: Call) -> int | None:
    return call.context.quotas.limits(call.tenant).jobs_running_max


@contextmanager
def _named(call: Call) -> Iterator[str]:
    """Give the id of the job that the path names. Raises NotFound."""
    id = ids.parse_job_id(call.path["id"])
    unknown = NotFound(f"there is no job {call.path['id']}")
    if id is None:
        raise unknown
    try:
        yield id
    except NotFound:
        raise unknown from None


@contextmanager
def _spelling(id: str, dialect: Dialect = "v1") -> Iterator[None]:
    """Have errors that name a job spell its id as everything else that is answered."""
    try:
        yield
    except JobQueueFull:
        raise
    except (Conflict, InputGone, NotFound, PayloadGone) as error:
        raise type(error)(str(error).replace(id, ids.spelled(id, dialect))) from None


async def detail(call: Call, job: Job, wait: JobWait | None = None) -> JobDetailView[str]:
    """Return a job shown alone, with what it waits for (read unless given) or what came of it."""
    spelled = ids.spelled(job.id, "v1")
    expires_ms = outputs.expires_ms(call, job)
    signed = None
    if expires_ms is not None:
        signed = call.context.gateway.links.of_output(job.id, job.run, expires_ms)
    url = link(call, signed or f"/v1/jobs/{spelled}/output")
    fields = job_views.listed(job) | job_views.end(job, url, expires_ms)
    if job.state == "queued":
        fields |= await waiting(call, job, wait)
    elif job.state in FINAL:
        fields["cost"] = await cost(call, job)
    if job.state == "running" and job.started_ms is not None:
        fields["estimated_completion"] = await completion(call, job, job.started_ms)
    fields |= job_views.progress(job)
    if job.callback is not None:
        fields["callback"] = await _callback(call, job.callback)
    return JobDetailView(**fields)


async def waiting(call: Call, job: Job, wait: JobWait | None = None) -> dict[str, Any]:
    """Return the fields that say what a job waits for, which is read unless it is given, and for
    how long."""
    now_ms = call.now_ms
    if wait is None:
        wait = await call.context.store.jobs.waiting(
            call.tenant, job.id, running_max=_running_max(call), now_ms=now_ms
        )
    endpoint = call.context.gateway.book.find(job.endpoint)
    if wait is None or endpoint is None:
        return {}
    fields: dict[str, Any] = {
        "position": wait.position,
        "position_exactly": wait.exact,
        "waiting_for": wait.reason,
        "waiting_until": iso(wait.until_ms),
        "held_reason": wait.held_reason,
    }
    if wait.reason != "paused":  # nobody knows until when
        expected = await call.context.figures.estimates(endpoint)
        start_ms = expected.start_ms(
            wait.ahead, now_ms=now_ms, not_before_ms=wait.until_ms or now_ms
        )
        fields["estimated_start"] = iso(start_ms)
        fields["estimated_completion"] = iso(expected.completion_ms(start_ms, now_ms=now_ms))
    return fields


async def cost(call: Call, job: Job) -> float | None:
    """Return what a job's last run cost, by its endpoint's price; None where it has none."""
    endpoint = call.context.gateway.book.find(job.endpoint)
    if endpoint is None or not endpoint.rules.price_per_second:
        return None
    history = await call.context.store.jobs.attempts(call.tenant, job.id, limit=LIMIT_MAX)
    last = history[-1] if history and history[-1].run == job.run else None
    return told.cost_of(endpoint.rules, 0.0 if last is None else last.duration_ms)


async def completion(call: Call, job: Job, started_ms: int) -> str | None:
    """Return when a job that runs is expected to have ended: by its progress, once that tells, else
    as others of its endpoint did."""
    known = job.progress
    if known is not None:
        # A call that is not its run's first one began about when its first report came.
        began_ms = started_ms if job.calls == 0 else known.since_ms
        by_progress_ms = progress.completion_ms(known, began_ms, now_ms=call.now_ms)
        if by_progress_ms is not None:
            return iso(by_progress_ms)
    endpoint = call.context.gateway.book.find(job.endpoint)
    if endpoint is None:
        return None
    expected = await call.context.figures.estimates(endpoint)
    return iso(expected.completion_ms(started_ms, now_ms=call.now_ms))


async def _callback(call: Call, id: str) -> JobCallbackView | None:
    """Return the callback that tells a job's end; None where its own retention is over."""
    try:
        told = await call.context.store.get(call.tenant, id)
    except NotFound:
        return None
    return JobCallbackView(id=told.id, status=told.state)


def link(call: Call, path: str) -> str:
    """Return a link to a path of ours, for an answer alone: by the host that was asked, if it is
    one of DISPATCHER_HOSTS, else by DISPATCHER_PUBLIC_URL. What is stored or sent to others never
    begins with a request's host: whoever submits could have chosen that."""
    settings, host = call.context.settings, (call.header(b"host") or "").lower()
    if host and any(host == known.lower() for known in settings.hosts):
        return f"{call.scheme}://{host}{path}"
    return f"{(settings.public_url or '').rstrip('/')}{path}"


OPERATIONS: Final = (search, get, attempts, fetch_input, fetch_output, cancel, retry)
