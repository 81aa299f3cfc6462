"""Destinations: list and show, register, change, remove."""

from typing import Any, Final

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire
from dispatcher.access import new_secret, secret_fault
from dispatcher.api import paging, show
from dispatcher.api.call import NO_STORE, Call, answer
from dispatcher.api.callbacks import PAGE
from dispatcher.api.operation import Operation
from dispatcher.api.probes import probe
from dispatcher.ids import destination_id
from dispatcher.intake import check_url, custom_headers, read_policy
from dispatcher.settings import Settings
from dispatcher.values import Destination
from dispatcher.wire import DestinationChange, Register
from receiver.base.http import invalid

DISABLED_BY_HAND: Final = "disabled by an operator"
# Unregistered destinations have those of each callback.
OF_REGISTERED: Final = frozenset({"url", "policy", "headers"})


async def search(call: Call) -> Response:
    """`GET /v1/destinations`, in the order of their ids."""
    found = call.query(("cursor", "limit"))
    about = f"destinations\0{call.tenant}"
    values, next_id = await call.context.store.destinations(
        call.tenant,
        after=paging.after(found.get("cursor"), about),
        limit=paging.limit_of(found.get("limit")),
    )
    return answer(
        wire.Page(
            data=[show.destination(value) for value in values],
            next_cursor=paging.cursor_after(next_id, about),
        )
    )


async def get(call: Call) -> Response:
    """`GET /v1/destinations/{id}`, by id or by name."""
    call.query(())
    found = await call.context.store.get_destination(call.tenant, call.path["id"])
    return answer(show.destination(found))


async def register(call: Call) -> Response:
    """`POST /v1/destinations`."""
    call.query(())
    asked = await call.json(Register)
    new = registered(asked, call.tenant, call.context.settings, call.now_ms)
    check_secret(asked.secret)
    secret = new_secret(call.tenant, call.now_ms, destination=new.id, value=asked.secret)
    await call.context.access.ensure_tenant(call.tenant)
    made = await call.context.store.register(new, secret)
    call.context.secrets.forget(call.tenant)
    shown = secret.value if asked.secret is None else None
    location = {"Location": f"/v1/destinations/{made.id}", **NO_STORE}
    return answer(show.registered(made, shown), 201, location)


def registered(asked: Register, tenant: str, settings: Settings, now_ms: int) -> Destination:
    """Return the destination that a registration makes. Raises ApiError (422) and Invalid."""
    if asked.name.startswith("ds_"):
        raise invalid("name", asked.name, "must not begin like an id")
    check_url("url", asked.url, settings.allow_networks)
    return Destination(
        id=destination_id(tenant, name=asked.name),
        tenant=tenant,
        name=asked.name,
        url=asked.url,
        policy=read_policy(asked.policy)[0],
        headers=custom_headers(asked.headers, settings.signature_header),
        paused=False,
        disabled_reason=None,
        concurrency=asked.concurrency,
        rate_per_second=asked.rate_per_second,
        created_ms=now_ms,
    )


def check_secret(value: str | None) -> None:
    """Raise ApiError (422) for a text that cannot be a signing secret."""
    fault = None if value is None else secret_fault(value)
    if fault is not None:
        raise invalid("secret", None, fault)


async def change(call: Call) -> Response:
    """`PATCH /v1/destinations/{id}`."""
    call.query(())
    changes = changes_of(await call.json(DestinationChange), call.context.settings)
    store = call.context.store
    if OF_REGISTERED & changes.keys():
        _check_registered(await store.get_destination(call.tenant, call.path["id"]))
    changed = await store.change_destination(
        call.tenant, call.path["id"], changes, now_ms=call.now_ms
    )
    call.context.engine.wake()
    return answer(show.destination(changed))


def _check_registered(found: Destination) -> None:
    if found.name is None:
        raise invalid("id", found.id, "only a registered one has its own url, policy or headers")


def changes_of(asked: DestinationChange, settings: Settings) -> dict[str, object]:
    """Return the store's fields that a PATCH sets. Raises Invalid, and ApiError (422) where it
    sets none."""
    changes: dict[str, Any] = {}
    for name in ("url", "paused", "concurrency", "rate_per_second"):
        value = getattr(asked, name)
        if value is not UNSET:
            changes[name] = value
    if "url" in changes:
        check_url("url", changes["url"], settings.allow_networks)
    if asked.policy is not UNSET:
        changes["policy"] = read_policy(asked.policy)[0]
    if asked.headers is not UNSET:
        changes["headers"] = custom_headers(asked.headers, settings.signature_header)
    if asked.disabled is not UNSET:
        changes["disabled_reason"] = DISABLED_BY_HAND if asked.disabled else None
    if not changes:
        raise invalid("body", None, "names nothing to change")
    return changes


async def remove(call: Call) -> Response:
    """`DELETE /v1/destinations/{id}`."""
    call.query(())
    await call.context.store.remove_destination(call.tenant, call.path["id"], now_ms=call.now_ms)
    call.context.secrets.forget(call.tenant)
    return Response(status_code=204)


_PATH: Final = "/v1/destinations"
_ID: Final = f"{_PATH}/{{id}}"
OPERATIONS: Final = (
    Operation(
        method="GET",
        path=_PATH,
        handler=search,
        scope="read",
        tag="destinations",
        summary="List destinations",
        parameters=PAGE,
        answers={200: list[wire.DestinationView[str, wire.PolicyShape]]},
    ),
    Operation(
        method="POST",
        path=_PATH,
        handler=register,
        scope="operate",
        tag="destinations",
        summary="Register a destination",
        about="It gets a signing secret of its own: the one given, or one that is made and shown "
        "in this answer only.",
        body=Register,
        example={"name": "billing", "url": "https://example.com/webhooks", "concurrency": 8},
        answers={201: wire.RegisteredView[str, wire.PolicyShape]},
        errors=("CONFLICT",),
    ),
    Operation(
        method="GET",
        path=_ID,
        handler=get,
        scope="read",
        tag="destinations",
        summary="Show a destination",
        about="By id or by registered name.",
        answers={200: wire.DestinationView[str, wire.PolicyShape]},
        errors=("NOT_FOUND",),
    ),
    Operation(
        method="PATCH",
        path=_ID,
        handler=change,
        scope="operate",
        tag="destinations",
        summary="Change a destination",
        about="Pausing keeps its backlog, resuming closes its circuit, disabling makes its "
        "backlog dead. Null puts a limit, the policy or the headers back to the default.",
        body=DestinationChange,
        example={"paused": True},
        answers={200: wire.DestinationView[str, wire.PolicyShape]},
        errors=("NOT_FOUND",),
    ),
    Operation(
        method="DELETE",
        path=_ID,
        handler=remove,
        scope="operate",
        tag="destinations",
        summary="Remove a destination",
        about="With its secrets; its backlog is made dead.",
        answers={204: None},
        errors=("NOT_FOUND",),
    ),
    Operation(
        method="POST",
        path=f"{_ID}/test",
        handler=probe,
        scope="operate",
        tag="destinations",
        summary="Send a test callback",
        about="Signed like any other, sent once, and not stored.",
        answers={200: wire.AttemptView[str]},
        errors=("NOT_FOUND",),
    ),
)
