"""Finding callbacks, looking at them, replaying and cancelling one."""

from typing import Final

from starlette.responses import Response

from dispatcher import filters, wire
from dispatcher.api import paging, show
from dispatcher.api.call import Call, answer, encode
from dispatcher.api.operation import Operation, Parameter
from dispatcher.states import State
from dispatcher.values import Priority


async def search(call: Call) -> Response:
    """`GET /v1/callbacks`, newest first."""
    found = call.query()
    limit = paging.limit_of(found.pop("limit", None))
    cursor = found.pop("cursor", None)
    wanted = filters.parse(found)
    about = f"callbacks\0{call.tenant}\0{encode(filters.show(wanted)).decode()}"
    after = paging.after(cursor, about)
    page = await call.context.store.search(call.tenant, wanted, after=after, limit=limit)
    return answer(
        wire.Page(
            data=[show.callback(callback) for callback in page.callbacks],
            next_cursor=paging.cursor_after(page.next_id, about),
        )
    )


async def get(call: Call) -> Response:
    """`GET /v1/callbacks/{id}`."""
    call.query(())
    found = await call.context.store.get(call.tenant, call.path["id"])
    return answer(show.callback_detail(found))


async def attempts(call: Call) -> Response:
    """`GET /v1/callbacks/{id}/attempts`, oldest first."""
    call.query(())
    found = await call.context.store.attempts(call.tenant, call.path["id"])
    return answer(wire.Page(data=[show.attempt(one) for one in found], next_cursor=None))


async def payload(call: Call) -> Response:
    """`GET /v1/callbacks/{id}/payload`: the bytes, made harmless to whoever opens them in a
    browser."""
    call.query(())
    found = await call.context.store.payload(call.tenant, call.path["id"])
    headers = {
        "Content-Type": found.content_type,
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
        "X-Payload-Sha256": found.sha256.hex(),
    }
    return Response(found.body, headers=headers)


async def replay(call: Call) -> Response:
    """`POST /v1/callbacks/{id}/replay`."""
    call.query(())
    changed = await call.context.store.replay(call.tenant, call.path["id"], now_ms=call.now_ms)
    call.context.engine.wake()
    return answer(show.callback_detail(changed))


async def cancel(call: Call) -> Response:
    """`POST /v1/callbacks/{id}/cancel`."""
    call.query(())
    changed = await call.context.store.cancel(call.tenant, call.path["id"], now_ms=call.now_ms)
    return answer(show.callback_detail(changed))


_TIME: Final = "an ISO-8601 time; without an offset it is UTC"
FILTERS: Final = (
    Parameter(name="status", about="The delivery's state.", type=State),
    Parameter(name="jobStatus", about="The job's status."),
    Parameter(name="jobId", about="The job's id."),
    Parameter(name="tag.KEY", about="The value of the tag KEY; up to 8 of them."),
    Parameter(name="destination", about="A destination's id, its name, or a URL."),
    Parameter(name="priority", about="Its class.", type=Priority),
    Parameter(name="error", about="What the last attempt met: `http_503`, `timeout`, …"),
    Parameter(name="since", about=f"Created then or later: {_TIME}."),
    Parameter(name="until", about=f"Created before: {_TIME}."),
)
PAGE: Final = (
    Parameter(name="cursor", about="The `nextCursor` of the page before."),
    Parameter(name="limit", about="How many: 1 to 500, 50 by default.", type=int),
)
_ID: Final = "/v1/callbacks/{id}"
OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/callbacks",
        handler=search,
        scope="read",
        tag="callbacks",
        summary="Find callbacks",
        about="Newest first. Every filter that is given must match.",
        parameters=(*FILTERS, *PAGE),
        answers={200: list[wire.CallbackView[str]]},
        errors=("UNAVAILABLE",),
    ),
    Operation(
        method="GET",
        path=_ID,
        handler=get,
        scope="read",
        tag="callbacks",
        summary="Show a callback",
        answers={200: wire.CallbackDetailView[str]},
        errors=("NOT_FOUND",),
    ),
    Operation(
        method="GET",
        path=f"{_ID}/attempts",
        handler=attempts,
        scope="read",
        tag="callbacks",
        summary="List its attempts",
        about="All of them, oldest first, replays included.",
        answers={200: list[wire.AttemptView[str]]},
        errors=("NOT_FOUND",),
    ),
    Operation(
        method="GET",
        path=f"{_ID}/payload",
        handler=payload,
        scope="read",
        tag="callbacks",
        summary="Fetch its payload",
        about="The bytes that are delivered, with the content type they came with.",
        answers={200: "*/*"},
        errors=("NOT_FOUND", "PAYLOAD_GONE"),
    ),
    Operation(
        method="POST",
        path=f"{_ID}/replay",
        handler=replay,
        scope="operate",
        tag="callbacks",
        summary="Replay it",
        about="From dead, delivered or cancelled: the same id and bytes, a fresh budget of tries, "
        "the history kept.",
        answers={200: wire.CallbackDetailView[str]},
        errors=("NOT_FOUND", "CONFLICT", "PAYLOAD_GONE"),
    ),
    Operation(
        method="POST",
        path=f"{_ID}/cancel",
        handler=cancel,
        scope="operate",
        tag="callbacks",
        summary="Cancel it",
        about="While it is sending, the attempt ends and nothing follows.",
        answers={200: wire.CallbackDetailView[str]},
        errors=("NOT_FOUND", "CONFLICT"),
    ),
)
