"""What fails, by destination and error."""

from typing import Final

from starlette.responses import Response

from dispatcher import filters, wire
from dispatcher.api.call import Call
from dispatcher.api.callbacks import FILTERS, cause_of
from dispatcher.api.json import respond
from dispatcher.api.route import Operation
from dispatcher.ids import made_ms
from dispatcher.store.failures import STATES
from dispatcher.values import FailureGroup
from receiver.base.clock import iso
from receiver.base.http import invalid


@Operation(
    "GET",
    "/v1/failures",
    tag="callbacks",
    scope="read",
    parameters=FILTERS,
    responses={200: wire.FailuresView[wire.FailureView[str]]},
    errors=("UNAVAILABLE",),
)
async def failures(call: Call) -> Response:
    """See what fails.

    Dead callbacks, and those that wait for another try, by destination and error, the most first.
    Every filter that is given must match; of states there are these two.
    """
    chosen = filters.parse(call.query)
    if chosen.status not in (None, *STATES):
        raise invalid("status", chosen.status, f"must be one of {', '.join(STATES)}")
    found = await call.context.store.failures(call.tenant, chosen)
    for_operators = call.principal.tenant is None
    groups = [_view(group, for_operators=for_operators) for group in found.groups]
    return respond(wire.FailuresView(data=groups, complete=found.complete))


def _view(group: FailureGroup, *, for_operators: bool) -> wire.FailureView[str]:
    cause, detail = cause_of(group.detail) if for_operators else (None, None)
    return wire.FailureView(
        destination=group.destination,
        destination_name=group.destination_name,
        url=group.url,
        status=group.state,
        error=group.error,
        count=group.count,
        oldest_at=iso(made_ms(group.oldest)),
        newest_at=iso(made_ms(group.sample)),
        sample=group.sample,
        message=group.message,
        response_excerpt=group.excerpt,
        cause=cause,
        detail=detail,
    )


OPERATIONS: Final = (failures,)
