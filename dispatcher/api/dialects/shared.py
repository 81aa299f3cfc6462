"""What the routes of all dialects do alike: take a job, wait for its end, look at it."""

from dispatcher import ids
from dispatcher.api import jobs
from dispatcher.api.call import Call
from dispatcher.api.job_views import SHOWN_BYTES_MAX
from dispatcher.dialects.snapshot import Snapshot, of_job
from dispatcher.gateway.intake import JobSubmission
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import Dialect, Job, SubmittedJob


async def accept(call: Call, submission: JobSubmission) -> SubmittedJob:
    """Store a job, or find the one that came before with its key; `X-Request-Id` names it where
    that is the dialect's manner. Raises what becomes an error response."""
    call.principal.require_target(submission.destination, submission.callback_url)
    taken = await call.context.job_intake.accept(call.tenant, submission, call.entry)
    if call.manner.request_id == "job":
        call.request.id = ids.spelled(taken.id, submission.dialect, waited=submission.waited)
    return taken


async def has_ended(call: Call, job: str, seconds: float) -> bool:
    """Wait for the end of a job that had not ended a moment ago, by its id as it is kept. False
    when the time is over; at once where too many requests are held already, or the process is
    about to stop. Raises Disconnected: who waited has gone; the job goes on."""
    call.bodies.give_back(call.request)  # nobody's input is held while somebody waits
    waiting = call.context.gateway.waiters.wait(call.tenant, job, seconds)
    if call.request.method in ("GET", "HEAD"):  # it is watched already
        return await waiting
    return await call.request.while_there(waiting)


async def snapshot(call: Call, job: Job, dialect: Dialect) -> Snapshot:
    """Return a stored job, read with its output, as a dialect may show it."""
    endpoint = call.context.gateway.book.find(job.endpoint)
    return of_job(
        job,
        dialect,
        None if endpoint is None else endpoint.rules,
        cost=(await jobs.cost(call, job) or 0.0) if job.state in FINAL else 0.0,
        now_ms=call.now_ms,
        inline_max=SHOWN_BYTES_MAX,
        public_url=jobs.link(call, ""),
        link=call.context.gateway.links.of_output,
    )
