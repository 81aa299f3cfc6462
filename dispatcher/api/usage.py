"""What a tenant used of endpoints."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Final

from starlette.responses import Response

from dispatcher.api.call import Call
from dispatcher.api.json import respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.jobs.looks import JobUsage
from dispatcher.wire import Page
from dispatcher.wire_jobs import UsageView
from receiver.base.http import invalid

DAYS_DEFAULT: Final = 30
ROWS_MAX: Final = 5_000
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
    ),
    responses={200: list[UsageView]},
)
async def usage(call: Call) -> Response:
    """Show what was used.

    For each endpoint and day: runs that ended, how many of them did not complete, for how long
    their calls took, the bytes of their outputs, and what they cost. At most 5,000 of them: else
    422, which says so.
    """
    today = datetime.fromtimestamp(call.now_ms / 1000, UTC).date()
    until = _day(call, "until", today)
    since = _day(call, "since", until - timedelta(days=DAYS_DEFAULT - 1))
    found = await call.context.store.jobs.usage(
        call.tenant,
        endpoint=call.query.get("endpoint"),
        since_day=(since - _EPOCH).days,
        until_day=(until - _EPOCH).days,
        limit=ROWS_MAX + 1,
    )
    if len(found) > ROWS_MAX:
        reason = f"more than {ROWS_MAX:,} rows: name fewer days, or one endpoint"
        raise invalid("since", since.isoformat(), reason)
    return respond(Page(data=[view(one) for one in found], next_cursor=None))


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
