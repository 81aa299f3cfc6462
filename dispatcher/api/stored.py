"""Secrets that are stored by name, write-only, for the headers of destinations; and the
platform's."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from dispatcher import wire
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.endpoint_views import secrets_of
from dispatcher.api.json import respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.intake import check_header_value, check_name
from dispatcher.store.errors import Conflict
from dispatcher.store.stored import PLATFORM, USED_BY_MAX
from dispatcher.values import StoredSecretEntry
from receiver.base import log
from receiver.base.clock import iso
from receiver.base.http import Refusal, choice

_LOG: Final = log.get("dispatcher.api")
_ALL: Final = "/v1/stored-secrets"
_ONE: Final = f"{_ALL}/{{name}}"
_OWNER: Final = Parameter(
    name="platform",
    about="`true`: the platform's own, for platform keys; no tenant can name them.",
    type=bool,
)
_FORCE: Final = Parameter(
    name="force",
    about="`true`: although headers name it. What goes to their destinations waits then, unsent "
    "and without spending tries, until it is stored again or they name another one; maximum ages "
    "end it all the same.",
    type=bool,
)


@Operation(
    "GET",
    _ALL,
    tag="access",
    scope="admin",
    parameters=(*PAGE, _OWNER),
    responses={200: list[wire.StoredSecretView[str]]},
)
async def search(call: Call) -> Response:
    """List stored secrets.

    Names, times and which destinations' headers name them; never the secrets, which nobody can
    read again.
    """
    owner = _owner(call)
    entries = await call.context.store.stored_secrets(owner)
    listing = call.listing(f"stored-secrets\0{owner}")
    return respond(listing.page_of({one.name: _view(call, owner, one) for one in entries}))


@Operation(
    "PUT",
    _ONE,
    tag="access",
    scope="admin",
    parameters=(_OWNER,),
    body=wire.StoreSecret,
    example={"secret": "a token of the customer's gateway"},
    responses={200: wire.StoredSecretView[str], 201: wire.StoredSecretView[str]},
    errors=("KEYS_REQUIRED", "LIMIT_REACHED", "TENANT_ERASING"),
    actions=("secret.store",),
)
async def store(call: Call) -> Response:
    """Store a secret by name.

    Or replace the one of this name: deliveries that are sent from then on carry the new one. A
    destination's header names it: `secret:NAME` or `Bearer secret:NAME`. It is kept encrypted, and
    never shown.
    """
    name, owner, context = call.path["name"], _owner(call), call.context
    check_name("name", name)
    secret = await _secret(call)
    if owner:
        await context.access.ensure_tenant(owner, call.entry)
    entry = call.entry("secret.store", name, tenant=owner or None)
    try:
        is_new = await context.store.store_secret(
            owner, name, secret, now_ms=call.now_ms, entries=[entry]
        )
    finally:  # a commit that nobody could answer for may have happened
        context.secrets.forget(owner)
    _LOG.info("secret stored" if is_new else "secret replaced", **_log_fields(call, owner))
    stored = await context.store.stored_secret(owner, name)
    return respond(_view(call, owner, stored), 201 if is_new else 200)


async def _secret(call: Call) -> str:
    try:
        request = await call.json(wire.StoreSecret)
    except Refusal as refusal:  # whatever was sent in place of a body may be the secret
        if "value" in refusal.details:
            refusal.details["value"] = None
        raise
    check_header_value("secret", request.secret, call.context.settings.secret_bytes_max)
    return request.secret


@Operation(
    "DELETE",
    _ONE,
    tag="access",
    scope="admin",
    parameters=(_OWNER, _FORCE),
    responses={204: None},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("secret.remove",),
)
async def forget(call: Call) -> Response:
    """Delete a stored secret.

    Refused while a destination's, or an endpoint's, header names it, unless that is forced.
    """
    name, owner, context = call.path["name"], _owner(call), call.context
    force = choice(call.query, "force", ("true", "false")) == "true"
    endpoints = _endpoints(call, owner, name)
    if endpoints and not force:
        raise Conflict(f"headers of {len(endpoints)} endpoints name {name}: {endpoints[0]}, …")
    entry = call.entry("secret.remove", name, tenant=owner or None, force=force or None)
    try:
        was = await context.store.forget_secret(owner, name, force=force, entries=[entry])
    finally:
        context.secrets.forget(owner)
    _LOG.info("stored secret deleted", uses=was.uses, **_log_fields(call, owner))
    return Response(status_code=204)


def _owner(call: Call) -> str:
    """Return whose secrets these are. Raises Forbidden, and Refusal (422)."""
    if choice(call.query, "platform", ("true", "false")) != "true":
        return call.tenant
    call.principal.require_platform()
    return PLATFORM


def _log_fields(call: Call, owner: str) -> dict[str, Any]:
    return {
        "tenant": owner or None,
        "name": call.path["name"],
        "by": call.principal.key_id,
        "requestId": call.request.id,
    }


def _endpoints(call: Call, owner: str, name: str) -> Sequence[str]:
    """Return the endpoints whose headers name a secret: the platform's alone."""
    if owner != PLATFORM:
        return ()
    endpoints = call.context.gateway.book.all()
    return [one.name for one in endpoints if name in secrets_of(one.rules)]


def _view(call: Call, owner: str, entry: StoredSecretEntry) -> wire.StoredSecretView[str]:
    users = [*entry.used_by, *_endpoints(call, owner, entry.name)]
    return wire.StoredSecretView(
        name=entry.name,
        created_at=iso(entry.created_ms),
        updated_at=iso(entry.updated_ms),
        uses=entry.uses + len(users) - len(entry.used_by),
        used_by=users[:USED_BY_MAX],
    )


OPERATIONS: Final = (search, store, forget)
