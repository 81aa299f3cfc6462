"""Endpoints: the upstreams that jobs are run at."""

from collections.abc import Mapping
from typing import Any

from dispatcher.client.calls import build, read
from dispatcher.client.results import (
    Applied,
    Endpoint,
    Load,
    MadeEndpoint,
    Purged,
    RevealedEndpointSecret,
    UpstreamTest,
)
from dispatcher.client.transport import Call
from dispatcher.wire import Page


def endpoints(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Endpoint]]:
    """Return the endpoints that the tenant may submit to; for a platform's administrator all of
    them."""
    return build.get(read.page(Endpoint), "endpoints", params=build.paging(cursor, limit))


def get_endpoint(name: str) -> Call[Endpoint]:
    """Return one endpoint. Raises NotFound."""
    return build.get(read.json(Endpoint), "endpoints", name)


def endpoint_load(name: str) -> Call[Load]:
    """Return what an endpoint has to do, for what scales its upstream; for platform keys. Raises
    NotFound."""
    return build.get(read.json(Load), "endpoints", name, "load")


def make_endpoint(
    name: str, url: str, rules: Mapping[str, Any] | None = None, *, reason: str | None = None
) -> Call[MadeEndpoint]:
    """Name an upstream, with its rules as the API spells them; the answer has what its calls are
    signed with. Raises Conflict if the name is taken, and ValidationFailed."""
    fields = {**(rules or {}), "name": name, "url": url}
    return build.post(read.json(MadeEndpoint), "endpoints", fields=fields, reason=reason)


def change_endpoint(
    name: str, changes: Mapping[str, Any], *, reason: str | None = None
) -> Call[Endpoint]:
    """Change the named rules; None puts one back to its default. What waits is run by them. Raises
    NotFound, ValidationFailed, and Conflict for one that comes from a file."""
    return build.patch(read.json(Endpoint), "endpoints", name, fields=changes, reason=reason)


def remove_endpoint(name: str, *, reason: str | None = None) -> Call[None]:
    """Forget it; what waits for it is cancelled, and told so. Raises NotFound."""
    return build.delete("endpoints", name, reason=reason)


def pause_endpoint(name: str, *, reason: str | None = None) -> Call[Endpoint]:
    """Start no more of its jobs; more are taken. Raises NotFound."""
    return build.post(
        read.json(Endpoint), "endpoints", name, "pause", repeatable=True, reason=reason
    )


def resume_endpoint(name: str, *, reason: str | None = None) -> Call[Endpoint]:
    """Start its jobs again, as if nothing had been wrong with its upstream. Raises NotFound."""
    return build.post(
        read.json(Endpoint), "endpoints", name, "resume", repeatable=True, reason=reason
    )


def purge_endpoint(
    name: str,
    *,
    all_tenants: bool = False,
    callbacks: bool = True,
    reason: str | None = None,
) -> Call[Purged]:
    """Cancel all that waits there, of the tenant, or with a platform's administrator's key of
    `all_tenants`; without `callbacks` nobody is told. Raises NotFound."""
    fields = {"allTenants": all_tenants, "callbacks": callbacks}
    return build.post(read.json(Purged), "endpoints", name, "purge", fields=fields, reason=reason)


def test_endpoint(
    name: str,
    input: bytes | None = None,  # noqa: PT028 - a call
    *,
    path: str | None = None,  # noqa: PT028
    timeout_s: float | None = None,  # noqa: PT028
    reason: str | None = None,  # noqa: PT028
) -> Call[UpstreamTest]:
    """Call an upstream once, as a job would, with this JSON text (`{}`), or at another path of its
    server. Raises NotFound."""
    fields = build.given({"path": path, "timeout": timeout_s})
    members = build.dumps(fields)[1:-1]
    given = b"" if input is None else b'"input":' + build.one_value(input)
    return Call(
        method="POST",
        path=build.path("endpoints", name, "test"),
        read=read.json(UpstreamTest),
        repeatable=False,
        headers=build.reasoned(reason),
        body=b"{" + b",".join(filter(None, (members, given))) + b"}",
        content_type=build.JSON,
    )


def rotate_endpoint_secret(
    name: str,
    *,
    secret: str | None = None,
    overlap_s: float | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Call[RevealedEndpointSecret]:
    """Make a new secret for an endpoint's calls; the one before signs beside it for `overlap_s`
    (default a day). Raises NotFound, and Conflict while an earlier rotation's overlap lasts, unless
    `force` ends it, and where the server's own file says where its secret stands."""
    fields = build.given({"secret": secret, "overlap": overlap_s, "force": force or None})
    path = ("endpoints", name, "secrets", "rotate")
    return build.post(read.json(RevealedEndpointSecret), *path, fields=fields, reason=reason)


def reveal_endpoint_secret(
    name: str, *, id: str | None = None, reason: str | None = None
) -> Call[RevealedEndpointSecret]:
    """Return what signs an endpoint's calls with its value: the current secret, or one by id. It is
    recorded. Raises NotFound, and Conflict where the server's own file says where it stands."""
    path = ("endpoints", name, "secrets", "reveal")
    fields = build.given({"id": id})
    return build.post(read.json(RevealedEndpointSecret), *path, fields=fields, reason=reason)


def apply_endpoints(
    documents: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    dry_run: bool = False,
    reason: str | None = None,
) -> Call[Applied]:
    """Make these endpoints, by name with their rules, the ones that come from a file; without any
    the service reads its own file again. Raises ValidationFailed, and Conflict where it has one."""
    fields = build.given({"endpoints": documents, "dryRun": dry_run or None})
    return build.put(read.json(Applied), "endpoints", fields=fields, reason=reason)
