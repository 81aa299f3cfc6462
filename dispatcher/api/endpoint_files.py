"""Endpoints out of a file: all that come from one, put in force at once."""

from typing import Final

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire_jobs
from dispatcher.api.call import Call
from dispatcher.api.json import respond
from dispatcher.api.route import Operation
from dispatcher.gateway.apply import FILE_BYTES_MAX, ApplyError, Plan
from dispatcher.jobs import rules
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.fields import RuleError
from dispatcher.settings import variable
from dispatcher.store.errors import Conflict
from receiver.base import log
from receiver.base.http import invalid

_LOG: Final = log.get("dispatcher.api")
_FILE: Final = variable("apply")


@Operation(
    "PUT",
    "/v1/endpoints",
    tag="endpoints",
    scope="admin",
    body=wire_jobs.ApplyRequest,
    body_optional=True,
    example={"endpoints": {"document-gen": {"url": "http://127.0.0.1:9000/generate"}}},
    responses={200: wire_jobs.ApplyView},
    errors=("CONFLICT", "KEYS_REQUIRED"),
    actions=("endpoint.create", "endpoint.change", "endpoint.remove"),
)
async def put(call: Call) -> Response:
    """Apply a file of endpoints.

    Those in it are made or changed, and come from a file from now on (`managed`): only another one
    changes them. Those that came from one and are no longer in it are removed; all others stay as
    they are. Without `endpoints` the server reads its own file again, which DISPATCHER_APPLY names;
    where there is one, no other is taken. For platform keys only.
    """
    call.principal.require_platform()
    request = await call.json_if_any(wire_jobs.ApplyRequest, FILE_BYTES_MAX)
    request = wire_jobs.ApplyRequest() if request is None else request
    own, gateway = call.context.settings.apply, call.context.gateway
    if request.endpoints is UNSET:
        if own is None:
            raise invalid("endpoints", None, f"is required where {_FILE} names no file")
        try:
            plan = await gateway.apply_own_file(own, call.entry, is_dry=request.dry_run)
        except ApplyError as error:
            raise invalid(error.place, None, str(error)) from None
    else:
        if own is not None:
            raise Conflict(f"endpoints come from the file that {_FILE} names: change it there")
        plan = await gateway.apply(_read(request.endpoints), call.entry, is_dry=request.dry_run)
    if plan.changes and not request.dry_run:
        _LOG.info("endpoints applied", by=call.principal.key_id, requestId=call.request.id)
    return respond(_view(plan))


def _read(documents: dict[str, dict[str, object]]) -> dict[str, EndpointRules]:
    """Return the rules of all documents. Raises RuleError, whose field begins with its place."""
    found: dict[str, EndpointRules] = {}
    for name, document in documents.items():
        at = f"endpoints.{name}"
        try:
            rules.check_name(name)
            found[name] = rules.read(document)
        except RuleError as error:
            field = at if error.field == "name" else f"{at}.{error.field}"
            raise RuleError(field, error.value, error.reason) from None
    return found


def _view(plan: Plan) -> wire_jobs.ApplyView:
    return wire_jobs.ApplyView(
        created=list(plan.create),
        changed=list(plan.change),
        removed=list(plan.remove),
        unchanged=list(plan.same),
    )


OPERATIONS: Final = (put,)
