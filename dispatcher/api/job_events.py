"""A job as a stream of events: what it does, how far it is, what comes of it, and its end."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final

from starlette.responses import Response

from dispatcher import ids
from dispatcher.api import events, following, jobs
from dispatcher.api.call import Call
from dispatcher.api.errors import to_refusal
from dispatcher.api.following import Change, Cursor
from dispatcher.api.json import encode
from dispatcher.api.preferences import WAIT_S_MAX
from dispatcher.api.route import Operation, Parameter
from dispatcher.jobs import progress
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.states import FINAL
from receiver.base.http import invalid

_LAST: Final = "Last-Event-ID"


@Operation(
    "GET",
    "/v1/jobs/{id}/events",
    tag="jobs",
    scope="read",
    parameters=(
        Parameter(
            name=_LAST,
            where="header",
            about="The id of the last event that was read: what came after it follows.",
        ),
    ),
    responses={200: events.EVENTS, 204: None},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
)
async def follow(call: Call) -> Response:
    """Follow a job.

    As server-sent events: `status` with each state that it comes to, and while it waits what for
    and at which position; `progress`; `output` with each chunk of an answer that comes in chunks,
    `{"index", "output"}`, where an index of 0 means that the call is repeated and what came before
    is void; at last `end` with the job as `GET /v1/jobs/{id}` shows it. After five minutes the
    answer ends, and where too many requests are held already at once: come again with the last
    event's id. 204 where that was the end.
    """
    job = await jobs.find(call, output=False)
    at = _cursor(call)
    if at.is_end and at.run == job.run and job.state in FINAL:
        return Response(status_code=204)
    if at.run > job.run:
        at = Cursor()
    return events.Events(call.request, _told(call, job.id, at))


def _cursor(call: Call) -> Cursor:
    text = call.header(_LAST.lower().encode())
    if not text:
        return Cursor()
    try:
        return following.cursor(text)
    except ValueError:
        raise invalid(_LAST, text[:100], "must be the id of an event") from None


async def _told(call: Call, job: str, at: Cursor) -> AsyncGenerator[bytes, None]:
    """Yield what is new of a job as events."""
    waiting: dict[str, Any] = {}
    try:
        async for change in following.changes(call, job, at, seconds=WAIT_S_MAX):
            match change.what:
                case "quiet":
                    yield events.KEEP_ALIVE
                case "chunk":
                    body = b'{"index":%d,"output":%b}' % (change.number, change.value)
                    yield events.event(body, "output", str(at))
                case "progress":
                    if change.progress is not None and not change.progress.is_empty:
                        yield events.event(_progress(change.progress), "progress", str(at))
                case _ if change.state in FINAL:
                    what = f"end {call.tenant} {at.run} {jobs.link(call, '')}"
                    shown = await call.context.gateway.feeds.shared(job, what, partial(_end, call))
                    yield events.event(shown, "end", str(at))
                case _:
                    told = await _status(call, at, change)
                    if change.what == "state" or told != waiting:
                        yield events.event(encode(told), "status", str(at))
                    waiting = told
    except Exception as error:  # the status of the answer is said already
        refusal = to_refusal(error, call.request.id)
        yield events.event(encode(refusal.document(call.request.id)), "error")


async def _end(call: Call) -> bytes:
    """Return a job that has ended, as JSON."""
    found, wait = await jobs.look(call)
    return encode(await jobs.detail(call, found, wait))


async def _status(call: Call, at: Cursor, change: Change) -> dict[str, Any]:
    """Return what is said of a state that is not the last one."""
    told: dict[str, Any] = {
        "id": ids.spelled(ids.parse_job_id(call.path["id"]) or "", "v1"),
        "status": change.state,
        "run": at.run,
    }
    if change.state == "queued":
        found, wait = await jobs.look(call)
        if found.state == "queued":
            fields = await jobs.waiting(call, found, wait)
            told |= {_NAMES[name]: fields[name] for name in _NAMES if fields.get(name) is not None}
    return told


# What of `jobs.waiting` is told: what does not change with each look.
_NAMES: Final = {
    "position": "position",
    "position_exactly": "positionExactly",
    "waiting_for": "waitingFor",
    "waiting_until": "waitingUntil",
    "held_reason": "heldReason",
}


def _progress(known: Progress) -> bytes:
    """Return how far a job is, as JSON."""
    shown = progress.document(known)
    text = ",".join(f'"{name}":{value}' for name, value in shown.items())
    return b"{%b}" % text.encode(errors="replace")


OPERATIONS: Final = (follow,)
