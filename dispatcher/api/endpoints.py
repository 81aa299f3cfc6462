"""Endpoints: the upstreams that jobs are run at. Platform keys with the scope `admin` make, change
and test them; whoever may use one sees its name, its state and figures."""

from dataclasses import replace
from typing import Any, Final

from msgspec import UNSET
from starlette.responses import Response

from dispatcher import wire_jobs
from dispatcher.access import new_secret
from dispatcher.api import endpoint_views
from dispatcher.api.call import Call
from dispatcher.api.callbacks import PAGE
from dispatcher.api.errors import unavailable
from dispatcher.api.json import NO_STORE, respond
from dispatcher.api.route import Operation
from dispatcher.gateway.intake import UnknownEndpoint
from dispatcher.jobs import kinds, rules
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, dump_rules
from dispatcher.store.errors import CannotUnseal, Conflict, EndpointChanged, NotFound
from dispatcher.store.stored import PLATFORM
from dispatcher.values import SecretRef
from dispatcher.wire import Page
from dispatcher.wire_jobs import (
    EndpointDetailView,
    EndpointTestView,
    EndpointView,
    LoadView,
    MadeEndpointView,
    PurgedView,
)
from receiver.base import log
from receiver.base.http import invalid

_LOG: Final = log.get("dispatcher.api")
BYTES_MAX: Final = 256 * 1024
"""Of a request about an endpoint: a schema is the most of it."""
_TRIES: Final = 3  # of a change that others are quicker than
_ALL: Final = "/v1/endpoints"
_ONE: Final = f"{_ALL}/{{name}}"


@Operation(
    "GET",
    _ALL,
    tag="endpoints",
    scope="read",
    parameters=PAGE,
    responses={200: list[EndpointView[str]]},
)
async def search(call: Call) -> Response:
    """List endpoints.

    Those that the tenant may submit to. To a platform key with the scope `admin` all there are,
    with their rules.
    """
    listing = call.listing(f"endpoints\0{call.tenant}")
    found = {one.name: one for one in call.context.gateway.book.all() if _sees(call, one)}
    page = listing.page_of(found)
    views = [await _view(call, one) for one in page.data]
    return respond(Page(data=views, next_cursor=page.next_cursor))


@Operation(
    "POST",
    _ALL,
    tag="endpoints",
    scope="admin",
    body=wire_jobs.NewEndpoint,
    example={
        "name": "document-gen",
        "url": "http://127.0.0.1:9000/generate",
        "concurrency": 4,
        "timeout": "15m",
    },
    responses={201: MadeEndpointView[str]},
    errors=("CONFLICT", "KEYS_REQUIRED"),
    actions=("endpoint.create",),
)
async def create(call: Call) -> Response:
    """Make an endpoint.

    Names are global in an installation. What is not said has its default. Its calls are signed with
    a secret of its own, which is made and shown in this answer: its upstream verifies them by it.
    For platform keys only.
    """
    call.principal.require_platform()
    given = await call.json(dict[str, Any], BYTES_MAX)
    name = rules.check_name(given.pop("name", None))
    read = rules.read(given)
    await _check(call, read)
    new = Endpoint(
        name=name,
        rules=read,
        text=dump_rules(read),
        created_ms=call.now_ms,
        updated_ms=call.now_ms,
    )
    secret = new_secret("", call.now_ms, endpoint=name)
    entry = call.entry("endpoint.create", name, tenant=None, fields=sorted(given))
    made = await call.context.store.jobs.put_endpoint(
        new, create=True, secret=secret, now_ms=call.now_ms, entries=[entry]
    )
    call.context.gateway.secrets.forget(name)
    await _changed(call)
    _LOG.info("endpoint made", **_log_fields(call, name))
    location = {"Location": f"{_ALL}/{made.name}", **NO_STORE}
    figures = await call.context.figures.of(made)
    shown = endpoint_views.made(made, figures, call.now_ms, secret.value)
    return respond(shown, 201, location)


@Operation(
    "GET",
    _ONE,
    tag="endpoints",
    scope="read",
    responses={200: EndpointView[str]},
    errors=("NOT_FOUND",),
)
async def get(call: Call) -> Response:
    """Show an endpoint.

    To a platform key with the scope `admin` with its rules.
    """
    return respond(await _view(call, known(call)))


@Operation(
    "PATCH",
    _ONE,
    tag="endpoints",
    scope="admin",
    body=wire_jobs.EndpointChange,
    example={"concurrency": 8, "rate": None},
    responses={200: EndpointDetailView[str]},
    errors=("NOT_FOUND", "CONFLICT", "KEYS_REQUIRED", "CANNOT_UNSEAL"),
    actions=("endpoint.change",),
)
async def change(call: Call) -> Response:
    """Change an endpoint.

    The rules that are named; null puts one back to its default. What waits is run by them. With
    another `url` nothing is left of what was learned of the last one. For platform keys only.
    """
    _own(call)
    changes = await call.json(dict[str, Any], BYTES_MAX)
    if not changes:
        raise invalid("body", None, "names nothing to change")
    made = await _change(call, changes, tries=_TRIES)
    await _changed(call)
    _LOG.info("endpoint changed", **_log_fields(call, made.name))
    return respond(await _view(call, made))


async def _change(call: Call, changes: dict[str, Any], *, tries: int) -> Endpoint:
    """Change these fields of an endpoint, and none that others change meanwhile. Raises
    EndpointChanged where they always do."""
    before = _own(call)
    if before.unopened is not None:
        raise CannotUnseal(before.unopened)
    read = rules.read(rules.merged(before.rules, changes))
    await _check(call, read)
    changed = replace(before, rules=read, text=dump_rules(read), updated_ms=call.now_ms)
    entry = call.entry("endpoint.change", before.name, tenant=None, fields=sorted(changes))
    try:
        return await call.context.store.jobs.put_endpoint(
            changed, create=False, seen=before, now_ms=call.now_ms, entries=[entry]
        )
    except EndpointChanged:
        if tries <= 1:
            raise
    await _changed(call)
    return await _change(call, changes, tries=tries - 1)


@Operation(
    "DELETE",
    _ONE,
    tag="endpoints",
    scope="admin",
    responses={204: None},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("endpoint.remove",),
)
async def remove(call: Call) -> Response:
    """Remove an endpoint.

    It takes no more; what waits is cancelled, and told so, in the background; what runs comes to
    its end. For platform keys only.
    """
    name = _own(call).name
    entry = call.entry("endpoint.remove", name, tenant=None)
    await call.context.store.jobs.remove_endpoint(
        name, managed=False, now_ms=call.now_ms, entries=[entry]
    )
    call.context.gateway.secrets.forget(name)
    await _changed(call)
    _LOG.warning("endpoint removed", **_log_fields(call, name))
    return Response(status_code=204)


@Operation(
    "POST",
    f"{_ONE}/pause",
    tag="endpoints",
    scope="admin",
    responses={200: EndpointDetailView[str]},
    errors=("NOT_FOUND",),
    actions=("endpoint.pause",),
)
async def pause(call: Call) -> Response:
    """Pause an endpoint.

    Nothing more is started; what waits stays, and more is taken. For platform keys only.
    """
    return await _set_paused(call, paused=True)


@Operation(
    "POST",
    f"{_ONE}/resume",
    tag="endpoints",
    scope="admin",
    responses={200: EndpointDetailView[str]},
    errors=("NOT_FOUND",),
    actions=("endpoint.resume",),
)
async def resume(call: Call) -> Response:
    """Go on with an endpoint.

    As if nothing had been wrong with its upstream: a circuit is closed. For platform keys only.
    """
    return await _set_paused(call, paused=False)


async def _set_paused(call: Call, *, paused: bool) -> Response:
    call.principal.require_platform()
    name = known(call).name
    entry = call.entry("endpoint.pause" if paused else "endpoint.resume", name, tenant=None)
    changed = await call.context.store.jobs.set_paused(
        name, paused=paused, now_ms=call.now_ms, entries=[entry]
    )
    await _changed(call)
    return respond(await _view(call, changed))


@Operation(
    "GET",
    f"{_ONE}/load",
    tag="endpoints",
    scope="read",
    responses={200: LoadView},
    errors=("NOT_FOUND",),
)
async def load(call: Call) -> Response:
    """Show what an endpoint has to do.

    For what scales its upstream: `wanted` counts what runs too, or whoever scales by what waits
    would end what works. For platform keys only.
    """
    call.principal.require_platform()
    found = await call.context.store.jobs.load(known(call).name)
    return respond(endpoint_views.load_view(found, call.now_ms))


@Operation(
    "POST",
    f"{_ONE}/purge",
    tag="endpoints",
    scope="operate",
    body=wire_jobs.Purge,
    body_optional=True,
    example={},
    responses={200: PurgedView},
    errors=("NOT_FOUND", "CONFLICT"),
    actions=("endpoint.purge",),
)
async def purge(call: Call) -> Response:
    """Empty a queue.

    Of the tenant's own jobs none that waits will start; what runs goes on. With `allTenants`
    everybody's, which needs a platform key with the scope `admin`. They are cancelled in the
    background, each with its callback, unless `callbacks` is false.
    """
    request = await call.json_if_any(wire_jobs.Purge) or wire_jobs.Purge()
    if request.all_tenants:
        call.principal.require_platform()
        call.principal.require("admin")
    name = known(call).name
    tenant = None if request.all_tenants else call.tenant
    entry = call.entry("endpoint.purge", name, tenant=tenant, callbacks=request.callbacks)
    purged = await call.context.store.jobs.purge(
        name, tenant=tenant, callbacks=request.callbacks, now_ms=call.now_ms, entries=[entry]
    )
    call.context.wake_job_sweeper()
    _LOG.warning("queue purged", **_log_fields(call, name), tenant=tenant, jobs=purged)
    return respond(PurgedView(purged=purged))


@Operation(
    "POST",
    f"{_ONE}/test",
    tag="endpoints",
    scope="admin",
    body=wire_jobs.EndpointTest,
    body_optional=True,
    example={"input": {"prompt": "hello"}},
    responses={200: EndpointTestView[str]},
    errors=("NOT_FOUND", "CANNOT_UNSEAL"),
    actions=("endpoint.test",),
)
async def probe(call: Call) -> Response:
    """Call an upstream once.

    As a job would, but for nobody: nothing is stored. The answer says all that is known of the
    call, the true reason of a failure too. For platform keys only.
    """
    call.principal.require_platform()
    request = await call.json_if_any(wire_jobs.EndpointTest, BYTES_MAX) or wire_jobs.EndpointTest()
    endpoint = known(call)
    if endpoint.unopened is not None:
        raise CannotUnseal(endpoint.unopened)
    call.context.job_intake.check_ready()
    if not call.context.probes.take(call.tenant):
        raise unavailable("too many tests run at once")
    try:
        entry = call.entry("endpoint.test", endpoint.name, tenant=None)
        await call.context.store.record(entry)
        tested = await call.context.gateway.upstreams.test(
            endpoint.rules,
            secrets=await call.context.gateway.secrets.of(endpoint),
            body=b"{}" if request.input is UNSET else bytes(request.input),
            path=request.path,
            limit_s=request.timeout,
        )
    finally:
        call.context.probes.give(call.tenant)
    return respond(endpoint_views.tested(tested))


# --- who sees what ---


def known(call: Call) -> Endpoint:
    """Return the endpoint that the path names. Raises NotFound, also for one that is not for the
    tenant of the request, unless a platform's administrator asks."""
    name = call.path["name"]
    endpoint = call.context.gateway.book.find(name)
    if endpoint is None or not _sees(call, endpoint):
        raise UnknownEndpoint(name)
    return endpoint


def _sees(call: Call, endpoint: Endpoint) -> bool:
    return _administers(call) or endpoint.rules.admits(call.tenant)


def _administers(call: Call) -> bool:
    return call.principal.tenant is None and "admin" in call.principal.scopes


async def _view(call: Call, endpoint: Endpoint) -> EndpointView[str]:
    """Return an endpoint as this key sees it: a tenant's is not told how many jobs others have
    there (I9)."""
    figures = await call.context.figures.of(endpoint)
    if _administers(call):
        return endpoint_views.detail(endpoint, figures, call.now_ms)
    counted = call.principal.tenant is None
    return endpoint_views.view(endpoint, figures, call.now_ms, counted=counted)


# --- changes ---


def _own(call: Call) -> Endpoint:
    """Return an endpoint that this interface may change. Raises Forbidden and Conflict."""
    call.principal.require_platform()
    endpoint = known(call)
    if endpoint.managed:
        raise Conflict(
            f"{endpoint.name} comes from the file that DISPATCHER_APPLY, or `dispatcher apply`, "
            "names: change it there"
        )
    return endpoint


async def _check(call: Call, read: EndpointRules) -> None:
    """Raise Refusal (422) for an upstream that no call could go to, for a stored secret that there
    is not, and for a callback that could not go out."""
    for field, url in kinds.urls_of(read).items():
        fault = call.context.gateway.upstreams.guard.check_url(url)
        if fault is not None:
            raise invalid(field, url, fault)
    for name, value in read.headers:
        if isinstance(value, SecretRef):
            try:
                await call.context.store.stored_secret(PLATFORM, value.name)
            except NotFound:
                reason = f"the platform has no stored secret {value.name}"
                raise invalid(f"headers.{name}", None, reason) from None


async def _changed(call: Call) -> None:
    """Have this process know what was changed; the others hear of it."""
    await call.context.gateway.book.reload()


def _log_fields(call: Call, name: str) -> dict[str, Any]:
    return {"name": name, "by": call.principal.key_id, "requestId": call.request.id}


OPERATIONS: Final = (search, create, get, change, remove, pause, resume, load, purge, probe)
