"""Destinations: list and show, register, change, remove, and try with a test callback."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire
from dispatcher.access import new_secret, secret_fault
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE, cause_of
from dispatcher.api.errors import unavailable
from dispatcher.api.json import JSON, NO_STORE, encode, respond
from dispatcher.api.route import Operation, Parameter
from dispatcher.audit import Entry
from dispatcher.ids import destination_id, new_id, resolve_destination, server_of
from dispatcher.intake import check_name, check_url, destination_headers, read_policy
from dispatcher.outcome import SERVICE_UNAVAILABLE, TOO_MANY_REQUESTS, Outcome
from dispatcher.policy import Policy, attempt_outcome, load
from dispatcher.settings import Settings
from dispatcher.store.errors import CannotUnseal, NotFound, UnknownSecret
from dispatcher.values import (
    Delivery,
    Destination,
    DestinationHeaders,
    plain_headers,
    secret_headers,
)
from dispatcher.wire import PolicyShape
from receiver.base.clock import iso
from receiver.base.http import invalid

Health = Literal["healthy", "failing", "rejecting", "circuit-open", "disabled"]

DISABLED_BY_HAND: Final = "disabled by an operator"
# Unregistered destinations have those of each callback.
_WIRE: Final = {"rate_per_second": "ratePerSecond"}
OF_REGISTERED: Final = frozenset({"url", "policy", "headers"})
_TURNED_AWAY: Final = (f"http_{TOO_MANY_REQUESTS}", f"http_{SERVICE_UNAVAILABLE}")
TEST_STATUS: Final = "test"
_PATH: Final = "/v1/destinations"
_ID: Final = f"{_PATH}/{{id}}"


@Operation(
    "GET",
    _PATH,
    tag="destinations",
    scope="read",
    parameters=(
        Parameter(name="url", about="Only the one that callbacks to this URL go to: its server."),
        *PAGE,
    ),
    responses={200: list[wire.DestinationView[str, PolicyShape]]},
)
async def search(call: Call) -> Response:
    """List destinations."""
    if "url" in call.query:
        return await _of_url(call, call.query["url"])
    listing = call.listing(f"destinations\0{call.tenant}")
    values, next_id = await call.context.store.destinations(
        call.tenant, after=listing.after, limit=listing.limit
    )
    return respond(listing.page([view(value) for value in values], next_id))


async def _of_url(call: Call, url: str) -> Response:
    if not url.lower().startswith(("http://", "https://")):
        raise invalid("url", url, "must begin with http:// or https://")
    try:
        found = [view(await call.context.store.get_destination(call.tenant, url))]
    except NotFound:
        found = []
    return respond(wire.Page(data=found, next_cursor=None))


@Operation(
    "POST",
    _PATH,
    tag="destinations",
    scope="operate",
    body=wire.Register,
    example={"name": "billing", "url": "https://example.com/webhooks", "concurrency": 8},
    responses={201: wire.RegisteredView[str, PolicyShape]},
    errors=("CONFLICT", "LIMIT_REACHED", "TENANT_ERASING"),
    actions=("destination.register",),
)
async def register(call: Call) -> Response:
    """Register a destination.

    It gets a signing secret of its own: the one given, or one that is made and shown in this
    answer only. A header's value may name a stored secret, `secret:NAME` or `Bearer secret:NAME`,
    which needs the scope `admin`; `secret::` stands for `secret:` itself.
    """
    request = await call.json(wire.Register)
    new = new_destination(request, call.tenant, call.context.settings, call.now_ms)
    check_secret(request.secret)
    _check_may_name(call, new.headers)
    secret = new_secret(call.tenant, call.now_ms, destination=new.id, value=request.secret)
    await call.context.access.ensure_tenant(call.tenant, call.entry)
    entry = call.entry("destination.register", new.id, name=new.name)
    with _naming(new.headers):
        made = await call.context.store.register(new, secret, entries=[entry])
    call.context.secrets.forget(call.tenant)
    shown = secret.value if request.secret is None else None
    location = {"Location": f"{_PATH}/{made.id}", **NO_STORE}
    return respond(wire.RegisteredView(**_fields(made), secret=shown), 201, location)


def new_destination(
    request: wire.Register, tenant: str, settings: Settings, now_ms: int
) -> Destination:
    """Return the destination that a registration makes. Raises Refusal (422) and Invalid."""
    if request.name.startswith("ds_"):
        raise invalid("name", request.name, "must not begin like an id")
    check_name("name", request.name)
    check_url("url", request.url, settings.allow_networks)
    return Destination(
        id=destination_id(tenant, name=request.name),
        tenant=tenant,
        name=request.name,
        url=request.url,
        policy=read_policy(request.policy)[0],
        headers=destination_headers(request.headers, settings.signature_header),
        paused=False,
        disabled_reason=None,
        concurrency=request.concurrency,
        rate_per_second=request.rate_per_second,
        created_ms=now_ms,
    )


def check_secret(value: str | None) -> None:
    """Raise Refusal (422) for a text that cannot be a signing secret."""
    fault = None if value is None else secret_fault(value)
    if fault is not None:
        raise invalid("secret", None, fault)


@Operation(
    "GET",
    _ID,
    tag="destinations",
    scope="read",
    responses={200: wire.DestinationView[str, PolicyShape]},
    errors=("NOT_FOUND",),
)
async def get(call: Call) -> Response:
    """Show a destination.

    By id or by registered name; of one that is not registered the listing knows the id by a URL.
    """
    return respond(view(await call.context.store.get_destination(call.tenant, call.path["id"])))


@Operation(
    "PATCH",
    _ID,
    tag="destinations",
    scope="operate",
    body=wire.DestinationChange,
    example={"paused": True},
    responses={200: wire.DestinationView[str, PolicyShape]},
    errors=("NOT_FOUND",),
    actions=(
        "destination.change",
        "destination.pause",
        "destination.resume",
        "destination.disable",
        "destination.enable",
    ),
)
async def change(call: Call) -> Response:
    """Change a destination.

    Pausing keeps its backlog, resuming closes its circuit, disabling makes its backlog dead. Null
    puts a limit, the policy or the headers back to the default. Where headers name a stored secret,
    naming it and another URL need the scope `admin`.
    """
    changes = changes_of(await call.json(wire.DestinationChange), call.context.settings)
    store = call.context.store
    if OF_REGISTERED & changes.keys():
        _check_registered(await store.get_destination(call.tenant, call.path["id"]))
    headers = changes.get("headers", ())
    _check_may_name(call, headers)
    with _naming(headers):
        changed = await store.change_destination(
            call.tenant,
            call.path["id"],
            changes,
            redirects="admin" in call.principal.scopes,
            now_ms=call.now_ms,
            entries=_entries(call, changes),
        )
    call.context.engine.wake()
    return respond(view(changed))


def _entries(call: Call, changes: Mapping[str, object]) -> list[Entry]:
    """Return what the audit trail says of a change: which fields, without their values."""
    entries = []
    if "paused" in changes:
        action = "destination.pause" if changes["paused"] else "destination.resume"
        entries.append(_entry(call, action))
    if "disabled_reason" in changes:
        enabled = changes["disabled_reason"] is None
        action = "destination.enable" if enabled else "destination.disable"
        entries.append(_entry(call, action))
    fields = sorted(_WIRE.get(one, one) for one in changes.keys() - {"paused", "disabled_reason"})
    if fields:
        entries.append(_entry(call, "destination.change").about(fields=fields))
    return entries


def _entry(call: Call, action: str) -> Entry:
    """Return an entry of the destination that the path names: by its id, and as it was named."""
    named = call.path["id"]
    id = resolve_destination(call.tenant, named)
    return call.entry(action, id, name=None if named == id else named)


def _check_may_name(call: Call, headers: DestinationHeaders) -> None:
    """Raise Forbidden where headers name a stored secret and the key may not store any: whoever
    says where one is sent can read it."""
    if secret_headers(headers):
        call.principal.require("admin")


@contextmanager
def _naming(headers: DestinationHeaders) -> Iterator[None]:
    """Turn the error of a name that is not stored into the 422 of its header."""
    try:
        yield
    except UnknownSecret as error:
        for name, value in secret_headers(headers):
            if value.name == error.name:
                raise invalid(f"headers.{name}", None, str(error)) from None
        raise


def _check_registered(destination: Destination) -> None:
    if destination.name is None:
        reason = "only a registered one has its own url, policy or headers"
        raise invalid("id", destination.id, reason)


def changes_of(request: wire.DestinationChange, settings: Settings) -> dict[str, Any]:
    """Return the store's fields that a PATCH sets. Raises Invalid, and Refusal (422) where it
    sets none."""
    changes: dict[str, Any] = {}
    for name in ("url", "paused", "concurrency", "rate_per_second"):
        value = getattr(request, name)
        if value is not UNSET:
            changes[name] = value
    if "url" in changes:
        check_url("url", changes["url"], settings.allow_networks)
    if request.policy is not UNSET:
        changes["policy"] = read_policy(request.policy)[0]
    if request.headers is not UNSET:
        changes["headers"] = destination_headers(request.headers, settings.signature_header)
    if request.disabled is not UNSET:
        changes["disabled_reason"] = DISABLED_BY_HAND if request.disabled else None
    if not changes:
        raise invalid("body", None, "names nothing to change")
    return changes


@Operation(
    "DELETE",
    _ID,
    tag="destinations",
    scope="operate",
    responses={204: None},
    errors=("NOT_FOUND",),
    actions=("destination.remove",),
)
async def remove(call: Call) -> Response:
    """Remove a destination.

    With its secrets; its backlog is made dead.
    """
    await call.context.store.remove_destination(
        call.tenant,
        call.path["id"],
        now_ms=call.now_ms,
        entries=[_entry(call, "destination.remove")],
    )
    call.context.secrets.forget(call.tenant)
    return Response(status_code=204)


@Operation(
    "POST",
    f"{_ID}/test",
    tag="destinations",
    scope="operate",
    body=wire.DestinationTest,
    body_optional=True,
    example={},
    responses={200: wire.AttemptView[str]},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
    actions=("destination.test",),
)
async def probe(call: Call) -> Response:
    """Send a test callback.

    Signed like any other, sent once, and not stored. A server is tested at the URL used last, or at
    the one of it that is named.
    """
    request = await call.json_if_any(wire.DestinationTest) or wire.DestinationTest()
    call.context.intake.check_ready()
    destination = await call.context.store.get_destination(call.tenant, call.path["id"])
    if destination.unopened is not None:
        raise CannotUnseal(destination.unopened)
    url = test_url(destination, request.url, call.context.settings)
    delivery = delivery_to(destination, url, call.now_ms)
    if not call.context.probes.take(call.tenant):
        raise unavailable("too many tests run at once")
    try:
        entry = call.entry("destination.test", destination.id, name=destination.name)
        await call.context.store.record(entry, tenant=call.tenant)
        outcome = await call.context.engine.probe(delivery)
    finally:
        call.context.probes.give(call.tenant)
    for_operators = call.principal.tenant is None
    return respond(_attempt(outcome, delivery.policy, for_operators=for_operators))


def test_url(destination: Destination, named: str | None, settings: Settings) -> str:
    """Return where a test goes. Raises Refusal (422) and Invalid for a URL that is not the
    destination's."""
    if named is None:
        return destination.last_url or destination.url
    check_url("url", named, settings.allow_networks)
    own = named == destination.url if destination.name else server_of(named) == destination.url
    if not own:
        raise invalid("url", named, f"not a URL of {destination.name or destination.url}")
    return named


def delivery_to(destination: Destination, url: str, now_ms: int) -> Delivery:
    """Return a test delivery that no claim holds."""
    test_id = new_id("test", now_ms)
    policy = load(destination.policy)
    body = {"jobId": test_id, "status": TEST_STATUS, "createdAt": iso(now_ms)}
    return Delivery(
        id=test_id,
        tenant=destination.tenant,
        job_id=test_id,
        destination=destination.id,
        registered=destination.name is not None,
        url=url,
        body=encode(body),
        content_type=JSON,
        headers=plain_headers(destination.headers),
        secret_headers=secret_headers(destination.headers),
        policy=policy,
        fence=0,
        attempt=1,
        tries=0,
        created_ms=now_ms,
        expires_ms=now_ms + round(policy.timeout * 1000),
        high=True,
        job_status=TEST_STATUS,
    )


def _attempt(outcome: Outcome, policy: Policy, *, for_operators: bool) -> wire.AttemptView[str]:
    """Return a test's outcome, as the attempt that it is."""
    return wire.AttemptView(
        n=1,
        started_at=iso(outcome.started_ms),
        duration_ms=outcome.duration_ms,
        outcome=attempt_outcome(outcome, policy),
        status_code=outcome.status_code,
        error=outcome.error,
        response_excerpt=outcome.excerpt,
        cause=outcome.cause if for_operators else None,
        detail=cause_of(outcome.reason)[1] if for_operators else None,
    )


def view(value: Destination) -> wire.DestinationView[str, PolicyShape]:
    """Return a destination as it is shown."""
    return wire.DestinationView(**_fields(value))


def _fields(value: Destination) -> dict[str, Any]:
    return {
        "id": value.id,
        "name": value.name,
        "url": value.url,
        "last_url": value.last_url,
        "health": health(value),
        "backlog": value.backlog,
        "backlog_exactly": value.backlog_exactly,
        "sending": value.sending,
        "paused": value.paused,
        "disabled": value.disabled_reason is not None,
        "disabled_reason": value.disabled_reason,
        "held_until": iso(value.held_until_ms),
        "held_reason": "paused" if value.paused else value.held_reason,
        "failures": value.failures,
        "last_error": None if health(value) == "healthy" else value.last_error,
        "concurrency": value.concurrency,
        "rate_per_second": value.rate_per_second,
        "policy": None if value.policy is None else wire.policy_shape(load(value.policy)),
        "header_names": [name for name, _ in value.headers],
        "headers_unopened": None if value.unopened is None else value.unopened.message,
        "created_at": iso(value.created_ms),
    }


def health(value: Destination) -> Health:
    """One word on a destination, the gravest that holds."""
    if value.disabled_reason is not None:
        return "disabled"
    if value.circuit_open:
        return "circuit-open"
    if value.failures:
        return "failing"
    return "rejecting" if _rejects(value) else "healthy"


def _rejects(value: Destination) -> bool:
    """Whether its last answer refused what came; one that asks for a pause does not."""
    error = value.last_error or ""
    return error.startswith("http_") and error not in _TURNED_AWAY


OPERATIONS: Final = (search, register, get, change, remove, probe)
