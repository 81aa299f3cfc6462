"""Replaying everything that a filter matches: preview, start, watch, stop."""

from dataclasses import replace
from typing import Final

import msgspec
from starlette.responses import Response

from dispatcher import filters, wire
from dispatcher.api import callbacks, errors
from dispatcher.api.call import Call
from dispatcher.api.json import respond
from dispatcher.api.route import Operation
from dispatcher.filters import Filter, FilterError
from dispatcher.ids import lane_url
from dispatcher.states import FINAL
from dispatcher.store.errors import TooManyMatch
from dispatcher.values import Replay, ReplayOutcomes
from receiver.base.clock import iso
from receiver.base.http import invalid

SAMPLE: Final = 10
_STATES: Final = (*sorted(FINAL), "pending")


@Operation(
    "POST",
    "/v1/replays",
    tag="replays",
    scope="operate",
    body=wire.ReplayRequest,
    example={"filter": {"status": "dead", "tag.team": "a"}, "dryRun": True},
    responses={202: wire.ReplayView[str], 200: wire.PreviewView[wire.CallbackView[str]]},
    errors=("LIMIT_REACHED", "TENANT_ERASING"),
    actions=("replay.start",),
)
async def start(call: Call) -> Response:
    """Replay what a filter matches.

    The set is fixed now and fed in the background, behind fresh callbacks. With the status
    `pending` what waits for its next try is tried now instead, with what is left of its tries, and
    not before a time that was asked for. A dry run answers 200 with what would match, and changes
    nothing.
    """
    request = await call.json(wire.ReplayRequest)
    chosen = replay_filter(request.filter)
    if request.dry_run:
        return await _preview(call, chosen)
    await call.context.access.ensure_tenant(call.tenant, call.entry)
    unexplained_max = call.context.settings.replay_reason_above or None
    rate, entry = request.rate_per_second, call.entry("replay.start", filter=_filter_shown(chosen))
    try:
        made = await call.context.store.make_replay(
            call.tenant,
            chosen,
            rate_per_second=rate,
            now_ms=call.now_ms,
            matched_max=unexplained_max if call.reason is None else None,
            entry=entry.about(ratePerSecond=rate),
        )
    except TooManyMatch as error:
        raise invalid("Postback-Reason", None, f"is required, since {error}") from None
    call.context.wake_replayer()
    return respond(view(made), 202, {"Location": f"/v1/replays/{made.id}"})


def _filter_shown(chosen: Filter) -> dict[str, str]:
    """Return the filter as the audit trail shows it: a URL's query may hold a token."""
    shown = filters.dump(chosen)
    if "callbackUrl" in shown:
        shown["callbackUrl"] = lane_url(shown["callbackUrl"])
    return shown


async def _preview(call: Call, chosen: Filter) -> Response:
    looking = call.context.store.preview_replay(call.tenant, chosen, sample=SAMPLE)
    counted = await call.request.while_there(looking)
    view = wire.PreviewView(
        matched=counted.matched,
        sample=[callbacks.view(one, call) for one in counted.sample],
        filter=filters.dump(chosen),
        matched_exactly=counted.exact,
    )
    return respond(view)


def replay_filter(raw: dict[str, str]) -> Filter:
    """Return the filter of a replay: dead callbacks, where it names no status. Raises ApiError
    (422)."""
    try:
        chosen = filters.parse(raw)
    except FilterError as error:
        raise errors.from_filter(error, "filter.") from None
    if chosen.status is None:
        return replace(chosen, status="dead")
    if chosen.status not in _STATES:
        reason = f"must be one of {', '.join(_STATES)}: others are on their way already"
        raise invalid("filter.status", chosen.status, reason)
    return chosen


@Operation(
    "GET",
    "/v1/replays/{id}",
    tag="replays",
    scope="operate",
    responses={200: wire.ReplayView[str]},
    errors=("NOT_FOUND",),
)
async def get(call: Call) -> Response:
    """Watch a replay.

    And what became of what it took up.
    """
    return respond(view(await call.context.store.get_replay(call.tenant, call.path["id"])))


@Operation(
    "POST",
    "/v1/replays/{id}/cancel",
    tag="replays",
    scope="operate",
    responses={200: wire.ReplayView[str]},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("replay.cancel",),
)
async def cancel(call: Call) -> Response:
    """Stop a replay.

    What was fed stays.
    """
    id = call.path["id"]
    ended = await call.context.store.cancel_replay(
        call.tenant, id, now_ms=call.now_ms, entry=call.entry("replay.cancel", id)
    )
    return respond(view(ended))


def view(value: Replay) -> wire.ReplayView[str]:
    """Return a replay as it is shown."""
    return wire.ReplayView(
        id=value.id,
        matched=value.matched,
        replayed=value.replayed,
        skipped=value.skipped,
        state=value.state,
        filter=msgspec.json.decode(value.filter, type=dict[str, str]),
        created_at=iso(value.created_ms),
        rate_per_second=value.rate_per_second,
        finished_at=iso(value.finished_ms),
        matched_exactly=value.matched_exactly,
        outcomes=None if value.outcomes is None else _outcomes(value.outcomes),
    )


def _outcomes(value: ReplayOutcomes) -> wire.ReplayOutcomesView:
    return wire.ReplayOutcomesView(
        delivered=value.delivered,
        failed=value.failed,
        retrying=value.retrying,
        waiting=value.waiting,
        cancelled=value.cancelled,
        exactly=value.exact,
    )


OPERATIONS: Final = (start, get, cancel)
