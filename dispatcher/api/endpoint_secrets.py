"""What calls of endpoints are signed with: shown to platform keys with the scope `admin` alone."""

from typing import Any, Final

from starlette.responses import Response

from dispatcher import wire_jobs
from dispatcher.access import new_secret
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.destinations import check_secret
from dispatcher.api.endpoints import known
from dispatcher.api.json import NO_STORE, respond
from dispatcher.api.route import Operation
from dispatcher.jobs.endpoint import Endpoint
from dispatcher.store.errors import CannotUnseal, Conflict, NotFound
from dispatcher.values import SigningSecret
from dispatcher.wire_jobs import EndpointSecretView, ShownEndpointSecretView
from receiver.base import log
from receiver.base.clock import iso

_LOG: Final = log.get("dispatcher.api")
_ALL: Final = "/v1/endpoints/{name}/secrets"


@Operation(
    "GET",
    _ALL,
    tag="endpoints",
    scope="admin",
    parameters=PAGE,
    responses={200: list[EndpointSecretView[str]]},
    errors=("NOT_FOUND", "CONFLICT"),
)
async def search(call: Call) -> Response:
    """List an endpoint's signing secrets.

    Without their values. For platform keys only.
    """
    name = _stored(call).name
    secrets = await call.context.gateway.secrets.all_of(name)
    views = {one.id: EndpointSecretView(**_fields(one, call.now_ms)) for one in secrets}
    return respond(call.listing(f"endpoint-secrets\0{name}").page_of(views))


@Operation(
    "POST",
    f"{_ALL}/rotate",
    tag="endpoints",
    scope="admin",
    body=wire_jobs.RotateEndpointSecret,
    body_optional=True,
    example={"overlap": 86400},
    responses={201: ShownEndpointSecretView[str]},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("endpoint-secret.rotate",),
)
async def rotate(call: Call) -> Response:
    """Rotate an endpoint's signing secret.

    Calls are signed by the old one beside the new one for `overlap` seconds (a day by default). A
    second rotation within that time is refused, unless it is forced. For platform keys only.
    """
    name = _stored(call).name
    request = await call.json_if_any(wire_jobs.RotateEndpointSecret)
    request = wire_jobs.RotateEndpointSecret() if request is None else request
    check_secret(request.secret)
    context, now_ms = call.context, call.now_ms
    overlap_s = context.settings.secret_overlap if request.overlap is None else request.overlap
    new = new_secret("", now_ms, endpoint=name, value=request.secret)
    detail: dict[str, Any] = {"secret": new.id, "overlap": overlap_s}
    entry = call.entry(
        "endpoint-secret.rotate", name, tenant=None, force=request.force or None, **detail
    )
    await context.gateway.secrets.all_of(name)  # one of before has none yet, which is to sign on
    await context.store.jobs.rotate_endpoint_secret(
        new,
        overlap_ms=round(overlap_s * 1000),
        force=request.force,
        now_ms=now_ms,
        entries=[entry],
    )
    context.gateway.secrets.forget(name)
    _LOG.info("endpoint's secret rotated", **_log_fields(call, new))
    return respond(_shown(new, now_ms), 201, NO_STORE)


@Operation(
    "POST",
    f"{_ALL}/reveal",
    tag="endpoints",
    scope="admin",
    body=wire_jobs.RevealEndpointSecret,
    body_optional=True,
    example={},
    responses={200: ShownEndpointSecretView[str]},
    errors=("NOT_FOUND", "CONFLICT", "CANNOT_UNSEAL"),
    actions=("endpoint-secret.reveal",),
)
async def reveal(call: Call) -> Response:
    """Reveal an endpoint's signing secret.

    By id, or the current one. It is recorded. For platform keys only.
    """
    name = _stored(call).name
    request = await call.json_if_any(wire_jobs.RevealEndpointSecret)
    if call.context.settings.reveal_reason == "required":
        call.require_reason("a secret is revealed")
    secret = await _requested(call, name, None if request is None else request.id)
    if secret.unopened is not None:
        raise CannotUnseal(secret.unopened)
    entry = call.entry("endpoint-secret.reveal", name, tenant=None, secret=secret.id)
    await call.context.store.jobs.mark_endpoint_secret_revealed(
        name, secret.id, by=call.principal.key_id, now_ms=call.now_ms, entries=[entry]
    )
    _LOG.warning("endpoint's secret revealed", **_log_fields(call, secret))
    return respond(_shown(secret, call.now_ms), headers=NO_STORE)


async def _requested(call: Call, name: str, id: str | None) -> SigningSecret:
    for secret in await call.context.gateway.secrets.all_of(name):
        if secret.id == id or (id is None and secret.expires_ms is None):
            return secret
    raise NotFound("no such secret")


def _stored(call: Call) -> Endpoint:
    """Return an endpoint whose secret is ours to show and to rotate. Raises Forbidden, NotFound,
    and Conflict for one of which the server's file says where it stands."""
    call.principal.require_platform()
    endpoint = known(call)
    if endpoint.rules.signing_secret is not None:
        raise Conflict(
            f"what signs calls of {endpoint.name} stands where the server's own file of endpoints "
            "says (signing_secret): rotate it there"
        )
    return endpoint


def _shown(value: SigningSecret, now_ms: int) -> ShownEndpointSecretView[str]:
    return ShownEndpointSecretView(**_fields(value, now_ms), secret=value.value)


def _fields(value: SigningSecret, now_ms: int) -> dict[str, Any]:
    return {
        "id": value.id,
        "endpoint": value.endpoint,
        "created_at": iso(value.created_ms),
        "active": value.expires_ms is None or value.expires_ms > now_ms,
        "expires_at": iso(value.expires_ms),
        "revealed_at": iso(value.revealed_ms),
    }


def _log_fields(call: Call, secret: SigningSecret) -> dict[str, object]:
    return {
        "endpoint": secret.endpoint,
        "secretId": secret.id,
        "by": call.principal.key_id,
        "address": call.address,
        "requestId": call.request.id,
    }


OPERATIONS: Final = (search, rotate, reveal)
