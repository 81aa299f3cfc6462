"""Replaying everything that a filter matches: preview, start, watch, stop."""

from dataclasses import replace
from typing import Final

from starlette.responses import Response

from dispatcher import filters, wire
from dispatcher.api import errors, show
from dispatcher.api.call import Call, answer
from dispatcher.api.operation import Operation
from dispatcher.filters import Filter, FilterError
from dispatcher.states import FINAL
from dispatcher.wire import ReplayRequest
from receiver.base.http import invalid

SAMPLE: Final = 10


async def start(call: Call) -> Response:
    """`POST /v1/replays`: a preview, or a replay that is fed in the background."""
    call.query(())
    asked = await call.json(ReplayRequest)
    wanted = wanted_by(asked.filter)
    if asked.dry_run:
        return await _preview(call, wanted)
    store = call.context.store
    await call.context.access.ensure_tenant(call.tenant)
    made = await store.make_replay(
        call.tenant, wanted, rate_per_second=asked.rate_per_second, now_ms=call.now_ms
    )
    call.context.wake_replayer()
    return answer(show.replay(made), 202, {"Location": f"/v1/replays/{made.id}"})


async def _preview(call: Call, wanted: Filter) -> Response:
    matched, sample = await call.context.store.preview_replay(call.tenant, wanted, sample=SAMPLE)
    return answer(
        wire.PreviewView(
            matched=matched,
            sample=[show.callback(one) for one in sample],
            filter=filters.show(wanted),
        )
    )


def wanted_by(given: dict[str, str]) -> Filter:
    """Return the filter of a replay: dead callbacks, where it names no status. Raises ApiError
    (422)."""
    try:
        wanted = filters.parse(given)
    except FilterError as error:
        raise errors.from_filter(error, "filter.") from None
    if wanted.status is None:
        return replace(wanted, status="dead")
    if wanted.status not in FINAL:
        reason = f"must be one of {', '.join(sorted(FINAL))}: others are on their way already"
        raise invalid("filter.status", wanted.status, reason)
    return wanted


async def get(call: Call) -> Response:
    """`GET /v1/replays/{id}`."""
    call.query(())
    return answer(show.replay(await call.context.store.get_replay(call.tenant, call.path["id"])))


async def cancel(call: Call) -> Response:
    """`POST /v1/replays/{id}/cancel`."""
    call.query(())
    ended = await call.context.store.cancel_replay(call.tenant, call.path["id"], now_ms=call.now_ms)
    return answer(show.replay(ended))


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/replays",
        handler=start,
        scope="operate",
        tag="replays",
        summary="Replay what a filter matches",
        about="The set is fixed now and fed in the background, behind fresh callbacks. A dry run "
        "answers 200 with what would match, and changes nothing.",
        body=ReplayRequest,
        example={"filter": {"status": "dead", "tag.team": "a"}, "dryRun": True},
        answers={202: wire.ReplayView[str], 200: wire.PreviewView[wire.CallbackView[str]]},
    ),
    Operation(
        method="GET",
        path="/v1/replays/{id}",
        handler=get,
        scope="operate",
        tag="replays",
        summary="Watch a replay",
        answers={200: wire.ReplayView[str]},
        errors=("NOT_FOUND",),
    ),
    Operation(
        method="POST",
        path="/v1/replays/{id}/cancel",
        handler=cancel,
        scope="operate",
        tag="replays",
        summary="Stop a replay",
        about="What was fed stays.",
        answers={200: wire.ReplayView[str]},
        errors=("NOT_FOUND", "CONFLICT"),
    ),
)
