"""API keys and tenants."""

from typing import Final

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire
from dispatcher.access import Forbidden
from dispatcher.api import paging, show
from dispatcher.api.call import NO_STORE, Call, answer
from dispatcher.api.callbacks import PAGE
from dispatcher.api.operation import Operation
from dispatcher.wire import NewKey


async def search(call: Call) -> Response:
    """`GET /v1/keys`: to a platform key all of them, to a tenant's its own tenant's."""
    found = call.query(("cursor", "limit"))
    values = call.context.access.keys(call.principal.tenant)
    about = f"keys\0{call.principal.tenant or ''}"
    return answer(
        paging.page(
            {value.id: show.key(value) for value in values},
            about,
            cursor=found.get("cursor"),
            limit=found.get("limit"),
        )
    )


async def make(call: Call) -> Response:
    """`POST /v1/keys`."""
    call.query(())
    asked = await call.json(NewKey)
    # Nobody makes a key that can do more than the one it is made with.
    for scope in asked.scopes:
        call.principal.require(scope)
    key, text = await call.context.access.make_key(
        tenant=_owner(call, asked), scopes=asked.scopes, label=asked.label
    )
    return answer(show.new_key(key, text), 201, {"Location": f"/v1/keys/{key.id}", **NO_STORE})


def _owner(call: Call, asked: NewKey) -> str | None:
    """Whose the new key is: None for the platform's. Raises Forbidden."""
    own = call.principal.tenant
    if own is None:
        return None if asked.tenant is UNSET else asked.tenant
    if asked.tenant is not UNSET and asked.tenant != own:
        raise Forbidden("this key makes keys for its own tenant only")
    return own


async def remove(call: Call) -> Response:
    """`DELETE /v1/keys/{id}`."""
    call.query(())
    await call.context.access.remove_key(call.path["id"], call.principal.tenant)
    return Response(status_code=204)


async def tenants(call: Call) -> Response:
    """`GET /v1/tenants`, for platform keys only."""
    call.principal.require_platform()
    found = call.query(("cursor", "limit"))
    values = await call.context.store.tenants()
    return answer(
        paging.page(
            {value.name: show.tenant(value) for value in values},
            "tenants",
            cursor=found.get("cursor"),
            limit=found.get("limit"),
        )
    )


_PATH: Final = "/v1/keys"
OPERATIONS: Final = (
    Operation(
        method="GET",
        path=_PATH,
        handler=search,
        scope="admin",
        tag="access",
        summary="List API keys",
        about="Without the keys. A platform key sees all, a tenant's key its tenant's.",
        parameters=PAGE,
        answers={200: list[wire.KeyView[str]]},
    ),
    Operation(
        method="POST",
        path=_PATH,
        handler=make,
        scope="admin",
        tag="access",
        summary="Make an API key",
        about="This answer is the only time that it is shown. Its scopes are some of the scopes "
        "of the key it is made with. A platform key names the `tenant`, or makes another "
        "platform key; a tenant's key makes keys for its own tenant.",
        body=NewKey,
        example={"tenant": "acme", "scopes": ["submit", "read"], "label": "acme's backend"},
        answers={201: wire.NewKeyView[str]},
    ),
    Operation(
        method="DELETE",
        path=f"{_PATH}/{{id}}",
        handler=remove,
        scope="admin",
        tag="access",
        summary="Revoke an API key",
        about="At once.",
        answers={204: None},
        errors=("NOT_FOUND",),
    ),
    Operation(
        method="GET",
        path="/v1/tenants",
        handler=tenants,
        scope="admin",
        tag="access",
        summary="List tenants",
        about="For platform keys only.",
        parameters=PAGE,
        answers={200: list[wire.TenantView[str]]},
    ),
)
