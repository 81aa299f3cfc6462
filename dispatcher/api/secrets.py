"""Signing secrets: list, rotate, reveal."""

from typing import Final

from starlette.responses import Response

from dispatcher import wire
from dispatcher.access import new_secret
from dispatcher.api import paging, show
from dispatcher.api.call import NO_STORE, Call, answer
from dispatcher.api.callbacks import PAGE
from dispatcher.api.destinations import check_secret
from dispatcher.api.operation import Operation
from dispatcher.store.errors import NotFound
from dispatcher.values import SigningSecret
from dispatcher.wire import Reveal, Rotate
from receiver.base import log
from receiver.base.http import invalid

_LOG: Final = log.get("dispatcher.api")


async def search(call: Call) -> Response:
    """`GET /v1/secrets`, oldest first, without their values."""
    found = call.query(("cursor", "limit"))
    values = await call.context.store.secrets(call.tenant)
    now = call.now_ms
    return answer(
        paging.page(
            {value.id: show.secret(value, now) for value in values},
            f"secrets\0{call.tenant}",
            cursor=found.get("cursor"),
            limit=found.get("limit"),
        )
    )


async def rotate(call: Call) -> Response:
    """`POST /v1/secrets/rotate`."""
    call.query(())
    asked = await call.json(Rotate)
    check_secret(asked.secret)
    context, now = call.context, call.now_ms
    owner = await _owner(call, asked.destination)
    overlap_s = context.settings.secret_overlap if asked.overlap is None else asked.overlap
    new = new_secret(call.tenant, now, destination=owner, value=asked.secret)
    await context.access.ensure_tenant(call.tenant)
    await context.store.rotate_secret(
        new, overlap_ms=round(overlap_s * 1000), force=asked.force, now_ms=now
    )
    context.secrets.forget(call.tenant)
    _LOG.info("secret rotated", **_about(call, new))
    return answer(show.shown_secret(new, now), 201, NO_STORE)


async def reveal(call: Call) -> Response:
    """`POST /v1/secrets/reveal`: shows a secret, and records who asked."""
    call.query(())
    asked = await call.json(Reveal)
    if asked.id is not None and asked.destination is not None:
        raise invalid("id", asked.id, "give an id or a destination, not both")
    found = await _wanted(call, asked)
    await call.context.store.mark_revealed(
        call.tenant, found.id, by=call.principal.key_id, now_ms=call.now_ms
    )
    _LOG.warning("secret revealed", **_about(call, found))
    return answer(show.shown_secret(found, call.now_ms), headers=NO_STORE)


async def _wanted(call: Call, asked: Reveal) -> SigningSecret:
    owner = await _owner(call, asked.destination)
    for secret in await call.context.store.secrets(call.tenant):
        current = secret.expires_ms is None and secret.destination == owner
        if secret.id == asked.id or (asked.id is None and current):
            return secret
    raise NotFound("no such secret")


async def _owner(call: Call, destination: str | None) -> str | None:
    """Return the id of the registered destination that is meant, or None for the tenant."""
    if destination is None:
        return None
    found = await call.context.store.get_destination(call.tenant, destination)
    if found.name is None:
        raise invalid("destination", destination, "only registered ones have their own secret")
    return found.id


def _about(call: Call, secret: SigningSecret) -> dict[str, object]:
    return {
        "tenant": call.tenant,
        "secretId": secret.id,
        "destination": secret.destination,
        "by": call.principal.key_id,
        "requestId": call.request.id,
    }


_PATH: Final = "/v1/secrets"
OPERATIONS: Final = (
    Operation(
        method="GET",
        path=_PATH,
        handler=search,
        scope="admin",
        tag="access",
        summary="List signing secrets",
        about="Without their values.",
        parameters=PAGE,
        answers={200: list[wire.SecretView[str]]},
    ),
    Operation(
        method="POST",
        path=f"{_PATH}/rotate",
        handler=rotate,
        scope="admin",
        tag="access",
        summary="Rotate a signing secret",
        about="The old one signs beside the new one for `overlap` seconds (a day by default). A "
        "second rotation within that time is refused, unless it is forced.",
        body=Rotate,
        example={"overlap": 86400},
        answers={201: wire.ShownSecretView[str]},
        errors=("NOT_FOUND", "CONFLICT"),
    ),
    Operation(
        method="POST",
        path=f"{_PATH}/reveal",
        handler=reveal,
        scope="admin",
        tag="access",
        summary="Reveal a signing secret",
        about="By id, or the current one of a destination or of the tenant. It is recorded.",
        body=Reveal,
        example={},
        answers={200: wire.ShownSecretView[str]},
        errors=("NOT_FOUND",),
    ),
)
