"""API keys and signing secrets, and with them those that are stored for headers."""

import re
from ipaddress import ip_network
from typing import Any, Final

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire
from dispatcher.access import Forbidden, new_secret
from dispatcher.api import stored
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.destinations import check_secret
from dispatcher.api.json import NO_STORE, respond
from dispatcher.api.route import Operation
from dispatcher.ids import server_of
from dispatcher.intake import check_name, check_text
from dispatcher.keys import UNLIMITED, Limits, inherited
from dispatcher.store.errors import CannotUnseal, NotFound
from dispatcher.store.reencrypt import Reencryption
from dispatcher.values import Key, KeyUse, SigningSecret
from receiver.base import log
from receiver.base.clock import iso, parse_iso
from receiver.base.db.readers import Reader
from receiver.base.forwarded import Network, plain_network
from receiver.base.http import invalid

_LOG: Final = log.get("dispatcher.api")
_KEYS: Final = "/v1/keys"
_SECRETS: Final = "/v1/secrets"
_PORT_MAX: Final = 65_535
_SERVER: Final = re.compile(
    r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?/?", re.IGNORECASE
)

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
    owner, context = call.principal.tenant, call.context
    keys = {key.id: key for key in context.access.keys(owner)}
    page = call.listing(f"keys\0{owner or ''}").page_of(keys)
    ids = [key.id for key in page.data]
    uses = {one.key: one for one in await context.store.uses(ids, reader=Reader(owner or ""))}
    views = [wire.KeyView(**_key(key, uses.get(key.id))) for key in page.data]
    return respond(wire.Page(data=views, next_cursor=page.next_cursor))


@Operation(
    "POST",
    _KEYS,
    tag="access",
    scope="admin",
    body=wire.NewKey,
    example={
        "tenant": "acme",
        "scopes": ["submit", "read"],
        "label": "acme's backend",
        "expiresAt": "2027-01-31T12:00:00Z",
        "networks": ["203.0.113.0/24"],
    },
    responses={201: wire.NewKeyView[str]},
    errors=("LIMIT_REACHED", "TENANT_ERASING"),
    actions=("key.create",),
)
async def make_key(call: Call) -> Response:
    """Make an API key.

    This answer is the only time that it is shown. It may do nothing that the key that it is made
    with may not: its scopes are some of that one's, and it is bound to no less. A platform key
    names the `tenant`, or makes another platform key; a tenant's key makes keys for its own tenant.
    """
    request = await call.json(wire.NewKey)
    limits = inherited(call.principal.limits, _limits(request, call.now_ms))
    # Nobody makes a key that can do more than the one it is made with.
    call.principal.require_no_more(request.scopes, limits)
    check_text("label", request.label, 0, wire.LABEL_CHARS_MAX)
    key, text = await call.context.access.make_key(
        tenant=_tenant_of(call, request),
        scopes=request.scopes,
        label=request.label,
        limits=limits,
        entry=call.entry,
    )
    location = {"Location": f"{_KEYS}/{key.id}", **NO_STORE}
    return respond(wire.NewKeyView(**_key(key), key=text), 201, location)


@Operation(
    "POST",
    f"{_KEYS}/{{id}}/rotate",
    tag="access",
    scope="admin",
    body=wire.RotateKey,
    example={"overlap": 86400},
    responses={201: wire.NewKeyView[str]},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("key.rotate",),
)
async def rotate_key(call: Call) -> Response:
    """Rotate an API key.

    It keeps its id and all that it may do, and gets a new text, which this answer alone shows. The
    text before is good for `overlap` seconds more (a day by default), but never beyond its own
    end. A second rotation within that time is refused, unless it is forced. A key that may do more
    than the one that asks cannot be rotated with it.
    """
    request = await call.json(wire.RotateKey)
    key, text = await call.context.access.rotate_key(
        call.path["id"],
        call.principal,
        overlap_ms=None if request.overlap is None else round(request.overlap * 1000),
        force=request.force,
        expires_ms=_expires_ms(request.expires_at, call.now_ms),
        entry=call.entry,
    )
    _LOG.info(
        "API key rotated",
        keyId=key.id,
        tenant=key.tenant,
        by=call.principal.key_id,
        address=call.address,
        requestId=call.request.id,
    )
    return respond(wire.NewKeyView(**_key(key), key=text), 201, NO_STORE)


def _limits(request: wire.NewKey, now_ms: int) -> Limits:
    """Return what a new key is to be bound to. Raises Refusal (422)."""
    limits = Limits(
        expires_ms=_expires_ms(request.expires_at, now_ms),
        networks=tuple(_network(n, text) for n, text in enumerate(request.networks)),
        destinations=frozenset(_target(n, text) for n, text in enumerate(request.destinations)),
        rate_per_second=request.rate_per_second,
    )
    return UNLIMITED if limits == UNLIMITED else limits


def _expires_ms(given: str | float | None, now_ms: int) -> int | None:
    if given is None:
        return None
    ahead_ms = wire.EXPIRES_S_MAX * 1000
    try:
        at_ms = parse_iso(given) if isinstance(given, str) else now_ms + round(given * 1000)
    except (ValueError, OverflowError):
        at_ms = 0
    if not now_ms < at_ms <= now_ms + ahead_ms:
        reason = "a time to come, or seconds from now, at most ten years ahead"
        raise invalid("expiresAt", given, reason)
    return at_ms


def _network(n: int, text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError:
        network = None
    if network is None or "%" in text:  # a zone is this machine's own affair
        reason = "a CIDR such as 203.0.113.0/24, without bits beyond its length"
        raise invalid(f"networks[{n}]", text, reason)
    return plain_network(network)


def _target(n: int, text: str) -> str:
    """Return a registered name, or the server that a URL names."""
    field = f"destinations[{n}]"
    if "://" not in text:
        check_name(field, text)
        return text
    parts = _SERVER.fullmatch(text)
    if parts is None or int(parts["port"] or 0) > _PORT_MAX:
        raise invalid(field, text, "a server is http:// or https://, a host and perhaps a port")
    return server_of(text)


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
    actions=("key.revoke",),
)
async def remove_key(call: Call) -> Response:
    """Revoke an API key.

    At once.
    """
    await call.context.access.remove_key(call.path["id"], call.principal.tenant, call.entry)
    return Response(status_code=204)


def _key(value: Key, use: KeyUse | None = None) -> dict[str, Any]:
    limits = value.limits
    return {
        "id": value.id,
        "tenant": value.tenant,
        "scopes": sorted(value.scopes),
        "label": value.label,
        "created_at": iso(value.created_ms),
        "expires_at": iso(limits.expires_ms),
        "last_used_at": None if use is None else iso(use.used_ms),
        "networks": [str(network) for network in limits.networks],
        "destinations": sorted(limits.destinations),
        "rate_per_second": limits.rate_per_second,
        "previous_expires_at": iso(value.previous_until_ms),
        "previous_used_at": None if use is None else iso(use.previous_used_ms),
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
    actions=("signing-secret.rotate",),
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
    await context.access.ensure_tenant(call.tenant, call.entry)
    detail: dict[str, Any] = {
        "destination": owner,
        "overlap": overlap_s,
        "force": request.force or None,
    }
    await context.store.rotate_secret(
        new,
        overlap_ms=round(overlap_s * 1000),
        force=request.force,
        now_ms=now_ms,
        entries=[call.entry("signing-secret.rotate", new.id, **detail)],
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
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
    actions=("signing-secret.reveal",),
)
async def reveal(call: Call) -> Response:
    """Reveal a signing secret.

    By id, or the current one of a destination or of the tenant. It is recorded.
    """
    request = await call.json(wire.Reveal)
    if request.id is not None and request.destination is not None:
        raise invalid("id", request.id, "give an id or a destination, not both")
    if call.context.settings.reveal_reason == "required":
        call.require_reason("a secret is revealed")
    secret = await _requested(call, request)
    if secret.unopened is not None:
        raise CannotUnseal(secret.unopened)
    await call.context.store.mark_revealed(
        call.tenant,
        secret.id,
        by=call.principal.key_id,
        now_ms=call.now_ms,
        entries=[call.entry("signing-secret.reveal", secret.id, destination=secret.destination)],
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


# --- sealing again ---


@Operation(
    "GET",
    f"{_SECRETS}/reencrypt",
    tag="access",
    scope="admin",
    responses={200: wire.ReencryptionView[str]},
)
async def reencryption(call: Call) -> Response:
    """Show how far everything is sealed again.

    For platform keys.
    """
    call.principal.require_platform()
    return respond(_reencryption(await call.context.store.reencryption()))


@Operation(
    "POST",
    f"{_SECRETS}/reencrypt",
    tag="access",
    scope="admin",
    responses={202: wire.ReencryptionView[str]},
    errors=("KEYS_REQUIRED",),
    actions=("secret.reencrypt",),
)
async def reencrypt(call: Call) -> Response:
    """Seal everything with the newest key.

    For platform keys. What is plain, and what older keys sealed, in slices while the service works:
    signing secrets, headers, and payloads where those are sealed. A stop loses nothing: it goes on
    at the next start.
    """
    call.principal.require_platform()
    begun = await call.context.store.begin_reencryption(
        now_ms=call.now_ms, entries=[call.entry("secret.reencrypt", tenant=None)]
    )
    call.context.wake_resealer()
    return respond(_reencryption(begun), 202)


def _reencryption(value: Reencryption | None) -> wire.ReencryptionView[str]:
    if value is None:
        return wire.ReencryptionView(state="none", looked=0, sealed=0, unopened=0, clean=False)
    return wire.ReencryptionView(
        state=value.state,
        key=value.kid,
        looked=value.looked,
        sealed=value.sealed,
        unopened=value.unopened,
        clean=value.clean,
        started_at=iso(value.started_ms),
        finished_at=iso(value.finished_ms),
    )


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
    search_keys, make_key, rotate_key, remove_key, search_secrets, rotate, reveal, reencryption,
    reencrypt, *stored.OPERATIONS,
)  # fmt: skip
