"""Finding callbacks, looking at them, replaying and cancelling one."""

from typing import Annotated, Any, Final

from msgspec import Meta
from starlette.responses import Response

from dispatcher import filters, wire
from dispatcher.api.call import LIMIT_MAX, Call
from dispatcher.api.json import encode, respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.policy import load
from dispatcher.states import FINAL, State
from dispatcher.values import Attempt, Callback, Priority
from dispatcher.waiting import wait_of
from receiver.base.clock import iso
from receiver.base.http import DIGITS_MAX, number

_TIME: Final = "an ISO-8601 time; without an offset it is UTC"
FILTERS: Final = (
    Parameter(name="status", about="The delivery's state.", type=State),
    Parameter(name="jobStatus", about="The job's status."),
    Parameter(name="jobId", about="The job's id."),
    Parameter(name="tag.KEY", about="The value of the tag KEY; up to 8 of them."),
    Parameter(name="destination", about="A destination's id, its name, or its server."),
    Parameter(name="callbackUrl", about="The exact URL that it was submitted with."),
    Parameter(name="priority", about="Its class.", type=Priority),
    Parameter(name="error", about="What the last attempt met: `http_503`, `timeout`, …"),
    Parameter(name="since", about=f"Created then or later: {_TIME}."),
    Parameter(name="until", about=f"Created before: {_TIME}."),
)
Limit = Annotated[int, Meta(ge=1, le=LIMIT_MAX)]
PAGE: Final = (
    Parameter(name="cursor", about="The `nextCursor` of the page before."),
    Parameter(name="limit", about="How many: 1 to 500, 50 by default.", type=Limit),
)
_ID: Final = "/v1/callbacks/{id}"


@Operation(
    "GET",
    "/v1/callbacks",
    tag="callbacks",
    scope="read",
    parameters=(*FILTERS, *PAGE),
    responses={200: list[wire.CallbackView[str]]},
    errors=("UNAVAILABLE",),
)
async def search(call: Call) -> Response:
    """Find callbacks.

    Newest first. Every filter that is given must match.
    """
    paged = {one.name for one in PAGE}
    chosen = filters.parse({name: call.query[name] for name in call.query if name not in paged})
    about = f"callbacks\0{call.tenant}\0{encode(filters.dump(chosen)).decode()}"
    listing = call.listing(about)
    page = await call.context.store.search(
        call.tenant, chosen, after=listing.after, limit=listing.limit
    )
    return respond(listing.page([view(one, call) for one in page.callbacks], page.next_id))


@Operation(
    "GET",
    _ID,
    tag="callbacks",
    scope="read",
    responses={200: wire.CallbackDetailView[str]},
    errors=("NOT_FOUND",),
)
async def get(call: Call) -> Response:
    """Show a callback."""
    return respond(detail(await call.context.store.get(call.tenant, call.path["id"]), call))


@Operation(
    "GET",
    f"{_ID}/attempts",
    tag="callbacks",
    scope="read",
    parameters=(
        Parameter(name="cursor", about="The `nextCursor` of the page before."),
        Parameter(name="limit", about="How many: 1 to 500, 500 by default.", type=Limit),
    ),
    responses={200: list[wire.AttemptView[str]]},
    errors=("NOT_FOUND",),
)
async def attempts(call: Call) -> Response:
    """List its attempts.

    Oldest first, replays included. Platform keys see why one did not reach its peer, too.
    """
    id = call.path["id"]
    listing = call.listing(f"attempts\0{call.tenant}\0{id}", limit=LIMIT_MAX)
    after = number({"cursor": listing.after or "0"}, "cursor", min=0, max=10**DIGITS_MAX) or 0
    history = await call.context.store.attempts(
        call.tenant, id, after=after, limit=listing.limit + 1
    )
    shown = history[: listing.limit]
    next_id = str(shown[-1].n) if len(history) > len(shown) else None
    for_operators = call.principal.tenant is None
    views = [attempt(one, for_operators=for_operators) for one in shown]
    return respond(listing.page(views, next_id))


@Operation(
    "GET",
    f"{_ID}/payload",
    tag="callbacks",
    scope="read",
    responses={200: "*/*"},
    errors=("NOT_FOUND", "PAYLOAD_GONE", "CANNOT_UNSEAL"),
)
async def payload(call: Call) -> Response:
    """Fetch its payload.

    The bytes that are delivered, with the content type they came with.
    """
    stored = await call.context.store.payload(call.tenant, call.path["id"])
    headers = {
        "Content-Type": stored.content_type,
        # Harmless to whoever opens them in a browser.
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
        "X-Payload-Sha256": stored.sha256.hex(),
    }
    return Response(stored.body, headers=headers)


@Operation(
    "POST",
    f"{_ID}/replay",
    tag="callbacks",
    scope="operate",
    responses={200: wire.CallbackDetailView[str]},
    errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_GONE"),
    actions=("callback.replay",),
)
async def replay(call: Call) -> Response:
    """Replay it.

    From dead, delivered or cancelled: the same id and bytes, a fresh budget of tries, the history
    kept.
    """
    id = call.path["id"]
    changed = await call.context.store.replay(
        call.tenant, id, now_ms=call.now_ms, entries=[call.entry("callback.replay", id)]
    )
    call.context.engine.wake()
    return respond(detail(changed, call))


@Operation(
    "POST",
    f"{_ID}/cancel",
    tag="callbacks",
    scope="operate",
    responses={200: wire.CallbackDetailView[str]},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("callback.cancel",),
)
async def cancel(call: Call) -> Response:
    """Cancel it.

    While it is sending, the attempt ends and nothing follows.
    """
    id = call.path["id"]
    changed = await call.context.store.cancel(
        call.tenant, id, now_ms=call.now_ms, entries=[call.entry("callback.cancel", id)]
    )
    return respond(detail(changed, call))


def view(value: Callback, call: Call) -> wire.CallbackView[str]:
    """Return a callback as it is listed."""
    return wire.CallbackView(**_fields(value, call.now_ms))


def detail(value: Callback, call: Call) -> wire.CallbackDetailView[str]:
    """Return a callback shown alone."""
    return wire.CallbackDetailView(
        **_fields(value, call.now_ms),
        policy=wire.policy_shape(load(value.policy)),
        payload_size=value.payload_size,
        payload_sha256=value.payload_sha256.hex(),
        payload_pruned=value.payload_pruned,
    )


def _fields(value: Callback, now_ms: int) -> dict[str, Any]:
    finished_at = iso(value.finished_ms) if value.state in FINAL else None
    return {
        "id": value.id,
        "job_id": value.job_id,
        "job_status": value.job_status,
        "status": value.state,
        "priority": value.priority,
        "tags": value.tags,
        "destination": value.destination,
        "destination_name": value.destination_name,
        "run": value.run,
        "callback_url": value.url,
        "created_at": iso(value.created_ms),
        "attempts": value.attempts,
        "next_attempt_at": iso(value.due_ms) if value.state == "pending" else None,
        "delivered_at": finished_at if value.state == "delivered" else None,
        "finished_at": finished_at,
        "last_error": value.last_error,
        "waits_for": _waits_for(value, now_ms) if value.state == "pending" else None,
    }


def _waits_for(value: Callback, now_ms: int) -> wire.WaitView[str] | None:
    wait = wait_of(value.schedule, value.due_ms, attempts=value.attempts, now_ms=now_ms)
    if wait is None:
        return None
    return wire.WaitView(reason=wait.reason, until=iso(wait.until_ms))


def attempt(value: Attempt, *, for_operators: bool) -> wire.AttemptView[str]:
    """Return an attempt of the history; why it did not reach its peer is for operators alone."""
    cause, detail = cause_of(value.detail) if for_operators else (None, None)
    return wire.AttemptView(
        n=value.n,
        started_at=iso(value.started_ms),
        duration_ms=value.duration_ms,
        outcome=value.outcome,
        status_code=value.status_code,
        error=value.error,
        response_excerpt=value.excerpt,
        cause=cause,
        detail=detail,
    )


def cause_of(reason: str | None) -> tuple[str | None, str | None]:
    """Return the class and the text of what is kept of an attempt for operators."""
    if reason is None:
        return None, None
    cause, _, detail = reason.partition(": ")
    return cause, detail or None


OPERATIONS: Final = (search, get, attempts, payload, replay, cancel)
