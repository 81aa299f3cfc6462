"""Figures and signs of life."""

from typing import Final

from starlette.responses import Response

from dispatcher import wire
from dispatcher.api import show
from dispatcher.api.call import Call, answer
from dispatcher.api.errors import RETRY_SOON_S
from dispatcher.api.operation import Operation, Parameter
from dispatcher.metrics import CONTENT_TYPE
from dispatcher.store.errors import StoreError
from receiver.base.http import invalid


async def stats(call: Call) -> Response:
    """`GET /v1/stats`: one tenant's figures, or to a platform key everybody's."""
    found = call.query(("all",))
    everybody = found.get("all", "false")
    if everybody not in ("true", "false"):
        raise invalid("all", everybody, "must be true or false")
    if everybody == "true":
        call.principal.require_platform()
    tenant = None if everybody == "true" else call.tenant
    return answer(show.stats(await call.context.store.stats(tenant, now_ms=call.now_ms)))


async def healthz(call: Call) -> Response:
    """`GET /healthz`: the process answers."""
    return answer(wire.StatusView(status="ok"))


async def readyz(call: Call) -> Response:
    """`GET /readyz`: a submit would be taken now."""
    if not call.context.engine.ready:
        return _unready("starting or stopping")
    try:
        await call.context.store.check()
    except StoreError as error:
        return _unready(str(error))
    return answer(wire.StatusView(status="ready"))


def _unready(reason: str) -> Response:
    status = wire.StatusView(status="unready", reason=reason)
    return answer(status, 503, {"Retry-After": str(RETRY_SOON_S)})


async def metrics(call: Call) -> Response:
    """`GET /metrics`, for Prometheus."""
    return Response(call.context.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/stats",
        handler=stats,
        scope="read",
        tag="service",
        summary="Figures",
        about="Counts by state, the oldest pending callback, and rates over the last minute.",
        parameters=(
            Parameter(name="all", about="`true`: of all tenants, for platform keys.", type=bool),
        ),
        answers={200: wire.StatsView[str]},
    ),
    Operation(
        method="GET",
        path="/healthz",
        handler=healthz,
        tag="service",
        summary="Whether the process lives",
        answers={200: wire.StatusView},
    ),
    Operation(
        method="GET",
        path="/readyz",
        handler=readyz,
        tag="service",
        summary="Whether submits are taken",
        answers={200: wire.StatusView, 503: wire.StatusView},
    ),
    Operation(
        method="GET",
        path="/metrics",
        handler=metrics,
        tag="service",
        summary="Figures for Prometheus",
        answers={200: "text/plain"},
    ),
)
