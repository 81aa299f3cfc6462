"""API keys and signing secrets."""

from typing import Any, Final

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire
from dispatcher.access import Forbidden, new_secret
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.destinations import check_secret
from dispatcher.api.endpoint import Operation
from dispatcher.api.json import NO_STORE, respond
from dispatcher.intake import check_name, check_text
from dispatcher.store.errors import NotFound
from dispatcher.values import Key, SigningSecret
from receiver.base import log
from receiver.base.clock import iso
from receiver.base.http import invalid

_LOG: Final = log.get("dispatcher.api")
_KEYS: Final = "/v1/keys"
_SECRETS: Final = "/v1/secrets"

# --- keys ---


@Operation(
    "GET",
    _KEYS,
    tag="access",
    scope="admin",
    parameters=PAGE,
    responses={200: list[wire.KeyView[str]]},
)
async def search_keys(call: Call) -> Response:
    """List API keys.

    Without the keys. A platform key sees all, a tenant's key its tenant's.
    """
    owner = call.principal.tenant
    keys = call.context.access.keys(owner)
    listing = call.listing(f"keys\0{owner or ''}")
    return respond(listing.page_of({key.id: wire.KeyView(**_key(key)) for key in keys}))


@Operation(
    "POST",
    _KEYS,
    tag="access",
    scope="admin",
    body=wire.NewKey,
    example={"tenant": "acme", "scopes": ["submit", "read"], "label": "acme's backend"},
    responses={201: wire.NewKeyView[str]},
    errors=("LIMIT_REACHED", "TENANT_ERASING"),
)
async def make_key(call: Call) -> Response:
    """Make an API key.

    This answer is the only time that it is shown. Its scopes are some of the scopes of the key it
    is made with. A platform key names the `tenant`, or makes another platform key; a tenant's key
    makes keys for its own tenant.
    """
    request = await call.json(wire.NewKey)
    # Nobody makes a key that can do more than the one it is made with.
    for scope in request.scopes:
        call.principal.require(scope)
    check_text("label", request.label, 0, wire.LABEL_CHARS_MAX)
    key, text = await call.context.access.make_key(
        tenant=_tenant_of(call, request), scopes=request.scopes, label=request.label
    )
    location = {"Location": f"{_KEYS}/{key.id}", **NO_STORE}
    return respond(wire.NewKeyView(**_key(key), key=text), 201, location)


def _tenant_of(call: Call, request: wire.NewKey) -> str | None:
    """Whose the new key is: None for the platform's. Raises Forbidden and Invalid."""
    if isinstance(request.tenant, str):
        check_name("tenant", request.tenant)
    own = call.principal.tenant
    if own is None:
        return None if request.tenant is UNSET else request.tenant
    if request.tenant is not UNSET and request.tenant != own:
        raise Forbidden("this key makes keys for its own tenant only")
    return own


@Operation(
    "DELETE",
    f"{_KEYS}/{{id}}",
    tag="access",
    scope="admin",
    responses={204: None},
    errors=("NOT_FOUND",),
)
async def remove_key(call: Call) -> Response:
    """Revoke an API key.

    At once.
    """
    await call.context.access.remove_key(call.path["id"], call.principal.tenant)
    return Response(status_code=204)


def _key(value: Key) -> dict[str, Any]:
    return {
        "id": value.id,
        "tenant": value.tenant,
        "scopes": sorted(value.scopes),
        "label": value.label,
        "created_at": iso(value.created_ms),
    }


# --- signing secrets ---


@Operation(
    "GET",
    _SECRETS,
    tag="access",
    scope="admin",
    parameters=PAGE,
    responses={200: list[wire.SecretView[str]]},
)
async def search_secrets(call: Call) -> Response:
    """List signing secrets.

    Without their values.
    """
    secrets = await call.context.store.secrets(call.tenant, listed=True)
    now_ms = call.now_ms
    views = {one.id: wire.SecretView(**_secret(one, now_ms)) for one in secrets}
    return respond(call.listing(f"secrets\0{call.tenant}").page_of(views))


@Operation(
    "POST",
    f"{_SECRETS}/rotate",
    tag="access",
    scope="admin",
    body=wire.Rotate,
    example={"overlap": 86400},
    responses={201: wire.ShownSecretView[str]},
    errors=("NOT_FOUND", "CONFLICT", "TENANT_ERASING"),
)
async def rotate(call: Call) -> Response:
    """Rotate a signing secret.

    The old one signs beside the new one for `overlap` seconds (a day by default). A second
    rotation within that time is refused, unless it is forced.
    """
    request = await call.json(wire.Rotate)
    check_secret(request.secret)
    context, now_ms = call.context, call.now_ms
    owner = await _owner(call, request.destination)
    overlap_s = context.settings.secret_overlap if request.overlap is None else request.overlap
    new = new_secret(call.tenant, now_ms, destination=owner, value=request.secret)
    await context.access.ensure_tenant(call.tenant)
    await context.store.rotate_secret(
        new, overlap_ms=round(overlap_s * 1000), force=request.force, now_ms=now_ms
    )
    context.secrets.forget(call.tenant)
    _LOG.info("secret rotated", **_log_fields(call, new))
    return respond(_revealed(new, now_ms), 201, NO_STORE)


@Operation(
    "POST",
    f"{_SECRETS}/reveal",
    tag="access",
    scope="admin",
    body=wire.Reveal,
    example={},
    responses={200: wire.ShownSecretView[str]},
    errors=("NOT_FOUND",),
)
async def reveal(call: Call) -> Response:
    """Reveal a signing secret.

    By id, or the current one of a destination or of the tenant. It is recorded.
    """
    request = await call.json(wire.Reveal)
    if request.id is not None and request.destination is not None:
        raise invalid("id", request.id, "give an id or a destination, not both")
    secret = await _requested(call, request)
    await call.context.store.mark_revealed(
        call.tenant, secret.id, by=call.principal.key_id, now_ms=call.now_ms
    )
    _LOG.warning("secret revealed", **_log_fields(call, secret))
    return respond(_revealed(secret, call.now_ms), headers=NO_STORE)


async def _requested(call: Call, request: wire.Reveal) -> SigningSecret:
    owner = await _owner(call, request.destination)
    for secret in await call.context.store.secrets(call.tenant, listed=True):
        current = secret.expires_ms is None and secret.destination == owner
        if secret.id == request.id or (request.id is None and current):
            return secret
    raise NotFound("no such secret")


async def _owner(call: Call, destination: str | None) -> str | None:
    """Return the id of the registered destination that is meant, or None for the tenant."""
    if destination is None:
        return None
    registered = await call.context.store.get_destination(call.tenant, destination)
    if registered.name is None:
        raise invalid("destination", destination, "only registered ones have their own secret")
    return registered.id


def _log_fields(call: Call, secret: SigningSecret) -> dict[str, object]:
    return {
        "tenant": call.tenant,
        "secretId": secret.id,
        "destination": secret.destination,
        "by": call.principal.key_id,
        "address": call.address,
        "requestId": call.request.id,
    }


def _revealed(value: SigningSecret, now_ms: int) -> wire.ShownSecretView[str]:
    return wire.ShownSecretView(**_secret(value, now_ms), secret=value.value)


def _secret(value: SigningSecret, now_ms: int) -> dict[str, Any]:
    return {
        "id": value.id,
        "created_at": iso(value.created_ms),
        "active": value.expires_ms is None or value.expires_ms > now_ms,
        "destination": value.destination,
        "expires_at": iso(value.expires_ms),
        "revealed_at": iso(value.revealed_ms),
    }


OPERATIONS: Final = (
    search_keys, make_key, remove_key, search_secrets, rotate, reveal,
)  # fmt: skip
