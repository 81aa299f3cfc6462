"""Jobs: finding and watching them, what went in and what came out, cancelling and retrying one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from starlette.responses import Response

from dispatcher import ids
from dispatcher.api import job_views
from dispatcher.api.call import Call
from dispatcher.api.json import respond
from dispatcher.api.preferences import WAIT_S_MAX
from dispatcher.api.route import Operation, Parameter
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import Job
from dispatcher.store.errors import Conflict, InputGone, JobQueueFull, NotFound, PayloadGone
from dispatcher.wire_jobs import JobCallbackView, JobDetailView, Retry
from receiver.base.http import number

_WAIT: Final = Parameter(
    name="wait",
    about=f"Wait so many seconds for its end; {WAIT_S_MAX} at most.",
    type=int,
)
_ID: Final = "/v1/jobs/{id}"


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
    job = await find(call)
    if wait_s and job.state not in FINAL:
        await call.context.gateway.waiters.wait(call.tenant, job.id, wait_s)
        job = await find(call)
    return respond(await detail(call, job))


@Operation(
    "GET",
    f"{_ID}/output",
    tag="jobs",
    scope="read",
    responses={200: "*/*"},
    errors=("NOT_FOUND", "PAYLOAD_GONE", "CANNOT_UNSEAL"),
)
async def fetch_output(call: Call) -> Response:
    """Fetch its output.

    What the upstream answered, byte for byte, and its type; of a job that failed, its error. 404
    while there is none.
    """
    job = await find(call)
    if job.output is None:
        if job.state in FINAL and job.output_bytes is not None:
            raise PayloadGone("the output is past its retention")
        raise NotFound("the job has no output")
    return Response(job.output.body, headers=job_views.media_headers(job.output))


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
    job = await find(call)
    if job.state not in FINAL:
        entry = call.entry("job.cancel", ids.spelled(job.id, "v1"))
        jobs = call.context.store.jobs
        await jobs.cancel(call.tenant, job.id, now_ms=call.now_ms, entries=[entry])
        job = await find(call)
    return respond(await detail(call, job))


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
    job = await find(call, output=False)
    entry = call.entry("job.retry", ids.spelled(job.id, "v1"), force=request.force or None)
    try:
        with _spelling(job.id):
            await call.context.store.jobs.retry(
                call.tenant, job.id, force=request.force, now_ms=call.now_ms, entries=[entry]
            )
    except JobQueueFull as full:
        raise call.context.job_intake.queue_full(full) from None
    return respond(await detail(call, await find(call)))


async def find(call: Call, *, output: bool = True) -> Job:
    """Return the job that the path names, by whatever spelling. Raises NotFound, which says no more
    of it (I9)."""
    named = call.path["id"]
    id = ids.parse_job_id(named)
    if id is not None:
        with suppress(NotFound):
            return await call.context.store.jobs.get(call.tenant, id, output=output)
    raise NotFound(f"there is no job {named}")


@contextmanager
def _spelling(id: str) -> Iterator[None]:
    """Have errors that name a job spell its id as everything here does."""
    try:
        yield
    except JobQueueFull:
        raise
    except (Conflict, InputGone) as error:
        raise type(error)(str(error).replace(id, ids.spelled(id, "v1"))) from None


async def detail(call: Call, job: Job) -> JobDetailView[str]:
    """Return a job shown alone, with what it waits for or what came of it."""
    spelled = ids.spelled(job.id, "v1")
    fields = job_views.listed(job) | job_views.end(job, link(call, f"/v1/jobs/{spelled}/output"))
    if job.callback is not None:
        fields["callback"] = await _callback(call, job.callback)
    return JobDetailView(**fields)


async def _callback(call: Call, id: str) -> JobCallbackView | None:
    """Return the callback that tells a job's end; None where its own retention is over."""
    try:
        told = await call.context.store.get(call.tenant, id)
    except NotFound:
        return None
    return JobCallbackView(id=told.id, status=told.state)


def link(call: Call, path: str) -> str:
    """Return a link to a path of ours: by the host that was asked, if it is one of
    DISPATCHER_HOSTS, else by DISPATCHER_PUBLIC_URL."""
    host = call.header(b"host")
    if host is not None and host in call.context.settings.hosts:
        return f"{call.scheme}://{host}{path}"
    return f"{call.context.settings.base_url}{path}"


OPERATIONS: Final = (get, fetch_output, cancel, retry)
