"""What a tenant used of endpoints."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Final

from starlette.responses import Response

from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.json import respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.jobs.looks import JobUsage
from dispatcher.wire_jobs import UsageView
from receiver.base.http import invalid

DAYS_DEFAULT: Final = 30
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EPOCH: Final = date(1970, 1, 1)


@Operation(
    "GET",
    "/v1/usage",
    tag="jobs",
    scope="read",
    parameters=(
        Parameter(name="endpoint", about="Of this endpoint alone."),
        Parameter(name="since", about="From this day on (UTC, `2026-01-31`); 30 days by default."),
        Parameter(name="until", about="Up to this day, included; today by default."),
        *PAGE,
    ),
    responses={200: list[UsageView]},
)
async def usage(call: Call) -> Response:
    """Show what was used.

    For each endpoint and day, in this order: runs that ended, how many of them did not complete,
    for how long their calls took, the bytes of their outputs, and what they cost. It is kept for
    400 days.
    """
    today = datetime.fromtimestamp(call.now_ms / 1000, UTC).date()
    until = _day(call, "until", today)
    since = _day(call, "since", until - timedelta(days=DAYS_DEFAULT - 1))
    asked = "\0".join(call.query.get(name) or "" for name in ("endpoint", "since", "until"))
    listing = call.listing(f"usage\0{call.tenant}\0{asked}")
    found = await call.context.store.jobs.usage(
        call.tenant,
        endpoint=call.query.get("endpoint"),
        since_day=(since - _EPOCH).days,
        until_day=(until - _EPOCH).days,
        after=None if listing.after is None else _place(listing.after),
        limit=listing.limit + 1,
    )
    shown = found[: listing.limit]
    next_id = f"{shown[-1].endpoint}.{shown[-1].day}" if len(found) > len(shown) else None
    return respond(listing.page([view(one) for one in shown], next_id))


def _place(id: str) -> tuple[str, int]:
    """Return the endpoint and the day that a cursor goes on after."""
    endpoint, _, day = id.rpartition(".")
    return endpoint, int(day)


def _day(call: Call, name: str, default: date) -> date:
    text = call.query.get(name)
    if text is None:
        return default
    if _DAY.fullmatch(text):
        with suppress(ValueError):
            return date.fromisoformat(text)
    raise invalid(name, text, "must be a day such as 2026-01-31")


def view(value: JobUsage) -> UsageView:
    """Return what was used of an endpoint on a day."""
    return UsageView(
        day=(_EPOCH + timedelta(days=value.day)).isoformat(),
        endpoint=value.endpoint,
        runs=value.runs,
        failed=value.failed,
        seconds=value.run_ms / 1000,
        bytes=value.bytes,
        cost=round(value.cost, 6),
    )


OPERATIONS: Final = (usage,)
