"""The calls about keys, signing secrets, tenants and figures."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dispatcher.client.call import JSON, Answer, Call, paging, path
from dispatcher.client.read import as_json, as_nothing, as_page
from dispatcher.client.results import Key, NewKey, Page, RevealedSecret, Secret, Stats, Tenant

T = TypeVar("T")


def keys(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Key]]:
    """Every API key, without the keys themselves."""
    return _get("keys", as_page(Key), paging(cursor, limit))


def create_key(
    scopes: Sequence[str], *, tenant: str | None = None, label: str = ""
) -> Call[NewKey]:
    """Make a key with these scopes (`submit`, `read`, `operate`, `admin`): for `tenant`, or with
    None another of the kind that asks (a platform's key makes a platform key). The answer is the
    only time the key is shown."""
    fields: dict[str, Any] = {"scopes": list(scopes), "label": label}
    if tenant is not None:
        fields["tenant"] = tenant
    return _post(("keys",), fields, as_json(NewKey))


def revoke_key(id: str) -> Call[None]:
    """Make a key worthless at once. Raises NotFound."""
    return Call(method="DELETE", path=path("keys", id), read=as_nothing, repeatable=False)


def secrets(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Secret]]:
    """Return the signing secrets that sign or signed, oldest first, without their values."""
    return _get("secrets", as_page(Secret), paging(cursor, limit))


def rotate_secret(
    *, destination: str | None = None, overlap_s: float | None = None, force: bool = False
) -> Call[RevealedSecret]:
    """Make a new signing secret; the one before signs beside it for `overlap_s` (default a day).
    Raises Conflict while an earlier overlap lasts, unless `force`, which ends that one."""
    fields = {"destination": destination, "overlap": overlap_s, "force": force or None}
    return _post(("secrets", "rotate"), _given(fields), as_json(RevealedSecret))


def reveal_secret(*, id: str | None = None, destination: str | None = None) -> Call[RevealedSecret]:
    """Return a signing secret with its value: one by id, or the current one of a destination or of
    the tenant. That you looked is recorded."""
    fields = _given({"id": id, "destination": destination})
    return _post(("secrets", "reveal"), fields, as_json(RevealedSecret))


def tenants(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Tenant]]:
    """Every tenant there is."""
    return _get("tenants", as_page(Tenant), paging(cursor, limit))


def stats(*, all_tenants: bool = False) -> Call[Stats]:
    """Count by state, oldest pending, rates: of the tenant, or with a platform key of all."""
    return _get("stats", as_json(Stats), (("all", "true"),) if all_tenants else ())


def _get(
    name: str, read: Callable[[Answer], T], params: tuple[tuple[str, str], ...] = ()
) -> Call[T]:
    return Call(method="GET", path=path(name), read=read, repeatable=True, params=params)


def _post(
    parts: tuple[str, ...], fields: Mapping[str, Any], read: Callable[[Answer], T]
) -> Call[T]:
    return Call(
        method="POST",
        path=path(*parts),
        read=read,
        repeatable=False,
        body=json.dumps(fields).encode(),
        content_type=JSON,
    )


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
