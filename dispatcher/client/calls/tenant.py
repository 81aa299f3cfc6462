"""Tenants with their figures, and the audit trail."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypedDict

from dispatcher.client.calls import build, read
from dispatcher.client.results import AuditEntry, ServiceInfo, Stats, Tenant, TenantDetail
from dispatcher.client.transport import Call, Response
from dispatcher.wire import Page

_AUDIT_FILTERS: Final = {
    name: name for name in ("action", "actor", "target", "since", "until", "all_tenants")
}


class AuditFilters(TypedDict, total=False):
    """What of the audit trail; everything given must match. `all_tenants`: with a platform key, of
    all of them and of the platform itself. Otherwise as `Filters`."""

    action: str
    actor: str
    target: str
    since: datetime | str
    until: datetime | str
    all_tenants: bool


def tenants(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Tenant]]:
    """Every tenant there is."""
    return build.get(read.page(Tenant), "tenants", params=build.paging(cursor, limit))


def get_tenant(name: str) -> Call[TenantDetail]:
    """One tenant with its limits and what it uses of them, for platform keys. Raises NotFound."""
    return build.get(read.json(TenantDetail), "tenants", name)


def change_tenant(
    name: str, changes: Mapping[str, Any], *, reason: str | None = None
) -> Call[TenantDetail]:
    """Change the named fields, as `PATCH` takes them: `label storageBytesMax queueMax
    ratePerSecond jobsRunningMax outputsBytesMax`; None puts one back to the service's default.
    Raises NotFound and ValidationFailed."""
    return build.patch(read.json(TenantDetail), "tenants", name, fields=changes, reason=reason)


def erase_tenant(name: str, *, reason: str | None = None) -> Call[TenantDetail | None]:
    """Erase a tenant with all that it has, in the background; None where there is none of this
    name any more."""
    return Call(
        method="DELETE",
        path=build.path("tenants", name),
        read=_read_erasing,
        repeatable=True,
        headers=build.reasoned(reason),
    )


def audit_page(
    filters: AuditFilters | None = None, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[AuditEntry]]:
    """Up to `limit` (1 to 500) entries of the audit trail that match, newest first, from `cursor`
    on."""
    chosen = dict(filters or {})
    everywhere = chosen.pop("all_tenants", False)
    if not isinstance(everywhere, bool):
        raise ValueError(f"the filter all_tenants cannot be {everywhere!r}")  # noqa: TRY004 - as of the others
    params = build.filters(chosen, _AUDIT_FILTERS, "entries of the audit trail")
    return build.get(
        read.page(AuditEntry),
        "audit",
        params=(*params.items(), *build.flags(all=everywhere), *build.paging(cursor, limit)),
    )


def stats(*, all_tenants: bool = False) -> Call[Stats]:
    """Count by state, oldest pending, rates: of the tenant, or with a platform key of all."""
    return build.get(read.json(Stats), "stats", params=build.flags(all=all_tenants))


def service_info() -> Call[ServiceInfo]:
    """How the service was started: for platform keys with the scope `admin`."""
    return build.get(read.json(ServiceInfo), "service")


def _read_erasing(response: Response) -> TenantDetail | None:
    if response.status == read.NO_CONTENT:
        return None
    return read.decode(response.body, TenantDetail, response.status)
