"""Tenants: what each may use and does use, and its end. For platform keys only."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.json import respond
from dispatcher.api.route import Operation
from dispatcher.store.errors import NotFound
from dispatcher.values import Tenant
from receiver.base import log
from receiver.base.clock import iso
from receiver.base.completion import UNFIT_TEXT
from receiver.base.http import invalid

_LOG: Final = log.get("dispatcher.api")
_TENANTS: Final = "/v1/tenants"
_ONE: Final = f"{_TENANTS}/{{name}}"
# The limits, as the store and as the wire names them.
_LIMITS: Final = {
    "storage_bytes_max": "storageBytesMax",
    "queue_max": "queueMax",
    "rate_per_second": "ratePerSecond",
    "jobs_running_max": "jobsRunningMax",
    "outputs_bytes_max": "outputsBytesMax",
}


@Operation(
    "GET",
    _TENANTS,
    tag="access",
    scope="admin",
    parameters=PAGE,
    responses={200: list[wire.TenantView[str]]},
)
async def search(call: Call) -> Response:
    """List tenants.

    For platform keys only.
    """
    call.principal.require_platform()
    listed = await call.context.store.tenants(listed=True)
    tenants = {one.name: wire.TenantView(**_fields(one)) for one in listed}
    return respond(call.listing("tenants").page_of(tenants))


@Operation(
    "GET",
    _ONE,
    tag="access",
    scope="admin",
    responses={200: wire.TenantDetailView[str]},
    errors=("NOT_FOUND",),
)
async def get(call: Call) -> Response:
    """Show a tenant.

    Its limits, and what it uses of them. For platform keys only.
    """
    call.principal.require_platform()
    return respond(view(call, _known(call)))


@Operation(
    "PATCH",
    _ONE,
    tag="access",
    scope="admin",
    body=wire.TenantChange,
    example={"storageBytesMax": 10_737_418_240, "ratePerSecond": 200, "queueMax": None},
    responses={200: wire.TenantDetailView[str]},
    errors=("NOT_FOUND", "TENANT_ERASING"),
    actions=("tenant.change",),
)
async def change(call: Call) -> Response:
    """Change a tenant's limits.

    Null puts one back to the service's default. What a tenant has beyond a lower limit stays, and
    jobs that run go on; it submits, or starts, no more until it is below. For platform keys only.
    """
    call.principal.require_platform()
    changes = _changes(await call.json(wire.TenantChange))
    name = _known(call).name
    entry = call.entry("tenant.change", name, tenant=None, **_as_on_the_wire(changes))
    changed = await call.context.access.change_tenant(name, changes, entry)
    _LOG.info("tenant changed", **_log_fields(call), **changes)
    return respond(view(call, changed))


@Operation(
    "DELETE",
    _ONE,
    tag="access",
    scope="admin",
    responses={202: wire.TenantDetailView[str], 204: None},
    actions=("tenant.erase",),
)
async def remove(call: Call) -> Response:
    """Erase a tenant.

    With all that it has: callbacks, payloads, attempts, destinations, secrets, keys, replays. Its
    keys are worthless at once, it takes nothing new, attempts that run are its last, and the rest
    goes in the background (202), across restarts. What the audit trail says of it stays, for the
    platform, until its retention ends. 204 where there is no tenant of this name, or none any more.
    For platform keys only.
    """
    call.principal.require_platform()
    name = call.path["name"]
    try:
        entry = call.entry("tenant.erase", name, tenant=None)
        erasing = await call.context.access.erase_tenant(name, entry)
    except NotFound:
        return Response(status_code=204)
    call.context.wake_eraser()
    call.context.secrets.forget(erasing.name)
    _LOG.warning("tenant to be erased", **_log_fields(call))
    return respond(view(call, erasing), 202)


def view(call: Call, tenant: Tenant) -> wire.TenantDetailView[str]:
    """Return a tenant as it is shown alone."""
    quotas = call.context.quotas
    limits = quotas.limits_of(tenant)
    return wire.TenantDetailView(
        **_fields(tenant),
        storage_bytes_max=limits.storage_bytes_max,
        queue_max=limits.queue_max,
        rate_per_second=limits.rate_per_second,
        jobs_running_max=limits.jobs_running_max,
        outputs_bytes_max=limits.outputs_bytes_max,
        defaults=[name for field, name in _LIMITS.items() if getattr(tenant, field) is None],
        storage_bytes=quotas.used_bytes(tenant.name),
        output_bytes=call.context.store.output_bytes(tenant.name),
        queued=call.context.store.queued(tenant.name),
    )


def _known(call: Call) -> Tenant:
    name = call.path["name"]
    tenant = call.context.access.tenant(name)
    if tenant is None:
        raise NotFound(f"there is no tenant {name}")
    return tenant


def _changes(request: wire.TenantChange) -> dict[str, Any]:
    """Return the store's fields that a PATCH sets. Raises Refusal (422)."""
    changes = {
        name: value
        for name in ("label", *_LIMITS)
        if (value := getattr(request, name)) is not UNSET
    }
    if not changes:
        raise invalid("body", None, "names nothing to change")
    if "label" in changes:
        changes["label"] = changes["label"] or ""
        if UNFIT_TEXT.search(changes["label"]):
            raise invalid("label", None, "must not hold control characters")
    return changes


def _as_on_the_wire(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changed limits by the names of their fields; `default` for what was put back to it."""
    return {
        _LIMITS.get(name, name): "default" if value is None else value
        for name, value in changes.items()
    }


def _fields(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "created_at": iso(tenant.created_ms),
        "label": tenant.label,
        "erasing_at": iso(tenant.erasing_ms),
    }


def _log_fields(call: Call) -> dict[str, object]:
    return {
        "tenant": call.path["name"],
        "by": call.principal.key_id,
        "requestId": call.request.id,
    }


OPERATIONS: Final = (search, get, change, remove)
