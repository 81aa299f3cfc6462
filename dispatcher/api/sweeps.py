"""Cancelling and retrying all jobs that a filter matches: preview, start, watch, stop."""

from typing import Final

from starlette.responses import Response

from dispatcher.api import errors, job_views
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.json import respond
from dispatcher.api.route import Operation
from dispatcher.filters import FilterError
from dispatcher.jobs import filters
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.looks import JobSweep
from dispatcher.jobs.states import RETRYABLE
from dispatcher.store.jobs.sweeps import Bulk
from dispatcher.wire import PreviewView
from dispatcher.wire_jobs import JobView, SweepRequest, SweepView
from receiver.base.clock import iso
from receiver.base.http import invalid

SAMPLE: Final = 10
_ONE: Final = "/v1/sweeps/{id}"
_EXAMPLE: Final = {"filter": {"endpoint": "document-gen", "tag.team": "a"}, "dryRun": True}
_RESPONSES: Final = {202: SweepView[str], 200: PreviewView[JobView[str]]}


@Operation(
    "POST",
    "/v1/jobs/cancel",
    tag="jobs",
    scope="operate",
    body=SweepRequest,
    example=_EXAMPLE,
    responses=_RESPONSES,
    errors=("CONFLICT", "TENANT_ERASING"),
    actions=("jobs.cancel",),
)
async def cancel_jobs(call: Call) -> Response:
    """Cancel what a filter matches.

    Of the jobs that there are now, those that wait or run when their turn comes, in the background.
    A dry run answers 200 with what would match, and changes nothing.
    """
    return await _start(call, "cancel")


@Operation(
    "POST",
    "/v1/jobs/retry",
    tag="jobs",
    scope="operate",
    body=SweepRequest,
    example={"filter": {"status": "failed", "reason": "attempts"}, "dryRun": True},
    responses=_RESPONSES,
    errors=("CONFLICT", "TENANT_ERASING"),
    actions=("jobs.retry",),
)
async def retry_jobs(call: Call) -> Response:
    """Run again what a filter matches.

    Of the jobs that there are now, those that failed, timed out or were cancelled, each as its next
    run; what meets a full queue waits for room. A dry run answers 200 with what would match, and
    changes nothing.
    """
    return await _start(call, "retry")


async def _start(call: Call, what: Bulk) -> Response:
    request = await call.json(SweepRequest)
    chosen = sweep_filter(request.filter, what)
    jobs = call.context.store.jobs
    if request.dry_run:
        looking = jobs.preview_sweep(call.tenant, what, chosen, sample=SAMPLE, now_ms=call.now_ms)
        counted = await call.request.while_there(looking)
        preview = PreviewView(
            matched=counted.matched,
            sample=[job_views.view(one) for one in counted.sample],
            filter=filters.dump(chosen),
            matched_exactly=counted.exact,
        )
        return respond(preview)
    await call.context.access.ensure_tenant(call.tenant, call.entry)
    entry = call.entry(f"jobs.{what}", filter=filters.dump(chosen))
    made = await jobs.make_sweep(call.tenant, what, chosen, now_ms=call.now_ms, entry=entry)
    call.context.wake_job_sweeper()
    return respond(view(made), 202, {"Location": f"/v1/sweeps/{made.id}"})


def sweep_filter(raw: dict[str, str], what: Bulk) -> JobFilter:
    """Return the filter of a sweep. Raises Refusal (422), also for a status that it cannot
    change."""
    try:
        chosen = filters.parse(raw)
    except FilterError as error:
        raise errors.from_filter(error, "filter.") from None
    allowed = ("queued", "running") if what == "cancel" else tuple(sorted(RETRYABLE))
    if chosen.status is not None and chosen.status not in allowed:
        raise invalid("filter.status", chosen.status, f"must be one of {', '.join(allowed)}")
    return chosen


@Operation(
    "GET",
    "/v1/sweeps",
    tag="jobs",
    scope="operate",
    parameters=PAGE,
    responses={200: list[SweepView[str]]},
)
async def search(call: Call) -> Response:
    """List bulk changes of jobs.

    Newest first: purges, bulk cancels and bulk retries.
    """
    listing = call.listing(f"sweeps\0{call.tenant}")
    found = await call.context.store.jobs.sweeps(
        call.tenant, after=listing.after, limit=listing.limit + 1
    )
    shown = found[: listing.limit]
    next_id = shown[-1].id if len(found) > len(shown) else None
    return respond(listing.page([view(one) for one in shown], next_id))


@Operation(
    "GET",
    _ONE,
    tag="jobs",
    scope="operate",
    responses={200: SweepView[str]},
    errors=("NOT_FOUND",),
)
async def get(call: Call) -> Response:
    """Watch a bulk change of jobs."""
    return respond(view(await call.context.store.jobs.get_sweep(call.tenant, call.path["id"])))


@Operation(
    "POST",
    f"{_ONE}/cancel",
    tag="jobs",
    scope="operate",
    responses={200: SweepView[str]},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("sweep.cancel",),
)
async def cancel(call: Call) -> Response:
    """Stop a bulk change of jobs.

    What was changed stays.
    """
    id = call.path["id"]
    ended = await call.context.store.jobs.cancel_sweep(
        call.tenant, id, now_ms=call.now_ms, entry=call.entry("sweep.cancel", id)
    )
    return respond(view(ended))


def view(value: JobSweep) -> SweepView[str]:
    """Return a bulk change as it is shown."""
    return SweepView(
        id=value.id,
        what=value.what,
        state=value.state,
        matched=value.matched,
        done=value.done,
        skipped=value.skipped,
        created_at=iso(value.created_ms),
        filter=dict(value.filter),
        endpoint=value.endpoint,
        finished_at=iso(value.ended_ms),
        matched_exactly=value.matched_exactly,
    )


OPERATIONS: Final = (cancel_jobs, retry_jobs, search, get, cancel)
