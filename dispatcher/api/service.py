"""Figures and signs of life."""

from typing import Final

from starlette.responses import Response

from dispatcher import VERSION, wire
from dispatcher.api.call import Call
from dispatcher.api.errors import RETRY_SOON_S
from dispatcher.api.json import respond
from dispatcher.api.route import Operation, Parameter, admit
from dispatcher.jobs.states import STATES as JOB_STATES
from dispatcher.metrics import CONTENT_TYPE
from dispatcher.settings import not_default, secrets_set
from dispatcher.states import STATES
from dispatcher.store import located
from dispatcher.store.errors import StoreError, StoreFull
from receiver.base.clock import iso
from receiver.base.http import invalid


@Operation(
    "GET",
    "/v1/stats",
    tag="service",
    scope="read",
    parameters=(
        Parameter(name="all", about="`true`: of all tenants, for platform keys.", type=bool),
    ),
    responses={200: wire.StatsView[str]},
)
async def stats(call: Call) -> Response:
    """Figures.

    Callbacks and jobs by state, the oldest pending callback, and rates over the last minute.
    """
    everybody = call.query.get("all", "false")
    if everybody not in ("true", "false"):
        raise invalid("all", everybody, "must be true or false")
    if everybody == "true":
        call.principal.require_platform()
    tenant = None if everybody == "true" else call.tenant
    figures = await call.context.store.stats(tenant)
    jobs = await call.context.store.jobs.counts(tenant)
    view = wire.StatsView(
        counts={state: figures.counts.get(state, 0) for state in STATES},
        jobs={state: jobs[state] for state in JOB_STATES},
        accepted_per_second=figures.accepted_per_second,
        delivered_per_second=figures.delivered_per_second,
        failed_attempts_per_second=figures.failed_attempts_per_second,
        oldest_pending_at=iso(figures.oldest_pending_ms),
    )
    return respond(view)


@Operation(
    "GET",
    "/v1/service",
    tag="service",
    scope="admin",
    responses={200: wire.ServiceView},
)
async def service(call: Call) -> Response:
    """See how this process was started.

    For platform keys. Of settings that hold secrets the names alone.
    """
    call.principal.require_platform()
    settings = call.context.settings
    view = wire.ServiceView(
        version=VERSION,
        database=located(settings.database_url),
        settings=not_default(settings),
        secrets=secrets_set(settings),
    )
    return respond(view)


@Operation("GET", "/healthz", tag="service", responses={200: wire.StatusView})
async def healthz(_: Call) -> Response:
    """Whether the process lives."""
    return respond(wire.StatusView(status="ok"))


@Operation("GET", "/readyz", tag="service", responses={200: wire.StatusView, 503: wire.StatusView})
async def readyz(call: Call) -> Response:
    """Whether submits are taken.

    503 with the `reason` while every submit is refused: the process starts or stops, the database
    does not answer, its disk or its storage is full, or the queue of all tenants is; and while what
    is stored cannot be opened, since its key is not in DISPATCHER_ENCRYPTION_KEYS.
    """
    if not call.context.engine.ready:
        return _unready("starting or stopping")
    refusal = call.context.quotas.refusal()
    if refusal is not None:
        return _unready(refusal)
    try:
        await call.context.store.check()
        missing = (
            await call.context.store.missing_keys()
            or call.context.engine.missing_key()
            or call.context.gateway.engine.missing_key()
        )
    except StoreFull:
        return _unready("the disk is full: what is accepted could not be written")
    except StoreError as error:
        return _unready(str(error))
    if missing is not None:
        return _unready(f"a key is missing in DISPATCHER_ENCRYPTION_KEYS: {missing}")
    return respond(wire.StatusView(status="ready"))


def _unready(reason: str) -> Response:
    status = wire.StatusView(status="unready", reason=reason)
    return respond(status, 503, {"Retry-After": str(RETRY_SOON_S)})


@Operation(
    "GET",
    "/metrics",
    tag="service",
    responses={200: "text/plain"},
    errors=("UNAUTHORIZED", "FORBIDDEN", "RATE_LIMITED"),
)
async def metrics(call: Call) -> Response:
    """Figures for Prometheus.

    Without a key they name nobody. A platform key with the scope `read` is told what the
    destinations are called whose ids stand there, too.
    """
    named = call.header(b"authorization") is not None
    if named:
        await admit(call, "read")
        call.principal.require_platform()
    await call.context.gauges.look()
    text = call.context.metrics.render()
    if named:
        text += call.context.gauges.names()
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


OPERATIONS: Final = (stats, service, healthz, readyz, metrics)
