"""Endpoints as answers show them: their rules for those who make them, figures for everybody."""

from collections.abc import Mapping
from typing import Any, Final

from dispatcher.gateway.figures import Figures
from dispatcher.jobs import rules
from dispatcher.jobs.endpoint import Endpoint, EndpointLoad, EndpointRules
from dispatcher.jobs.estimates import Histogram, What, wanted
from dispatcher.sending.probe import UpstreamTest
from dispatcher.values import SecretRef
from dispatcher.wire_jobs import (
    EndpointDetailView,
    EndpointTestView,
    EndpointView,
    LoadView,
    MadeEndpointView,
    MeasuresView,
    MeasureView,
)
from receiver.base.clock import iso

EXCERPT_BYTES: Final = 1_024
"""So much of a test's output is shown."""


def view(endpoint: Endpoint, figures: Figures, now_ms: int, *, counted: bool) -> EndpointView[str]:
    """Return an endpoint as everybody sees it who may use it; how many jobs there are only where
    they may be `counted`."""
    return EndpointView(**_fields(endpoint, figures, now_ms, counted=counted))


def detail(endpoint: Endpoint, figures: Figures, now_ms: int) -> EndpointDetailView[str]:
    """Return an endpoint as those see it who may change it."""
    return EndpointDetailView(**_details(endpoint, figures, now_ms))


def made(endpoint: Endpoint, figures: Figures, now_ms: int, secret: str) -> MadeEndpointView[str]:
    """Return an endpoint that was just made, with what signs its calls."""
    return MadeEndpointView(**_details(endpoint, figures, now_ms), secret=secret)


def _details(endpoint: Endpoint, figures: Figures, now_ms: int) -> dict[str, Any]:
    return _fields(endpoint, figures, now_ms, counted=True) | {
        "url": endpoint.rules.url,
        "managed": endpoint.managed,
        "created_at": iso(endpoint.created_ms),
        "updated_at": iso(endpoint.updated_ms),
        "rules": rules.document_of(endpoint.rules),
        "header_names": rules.header_names(endpoint.rules),
        "rules_unopened": None if endpoint.unopened is None else endpoint.unopened.message,
        "measured": _measured(figures.measured),
    }


def _measured(found: Mapping[What, Histogram]) -> MeasuresView:
    return MeasuresView(
        wait=_quantiles(found["wait"], 1000),
        run=_quantiles(found["run"], 1000),
        output_bytes=_quantiles(found["bytes"], 1),
    )


def _quantiles(found: Histogram, unit: int) -> MeasureView:
    half, most = found.quantile(0.5), found.quantile(0.95)
    return MeasureView(
        count=found.n,
        p50=None if half is None else half / unit,
        p95=None if most is None else most / unit,
    )


def load_view(load: EndpointLoad, now_ms: int) -> LoadView:
    """Return what a scaler asks for."""
    oldest_ms = load.oldest_queued_ms
    return LoadView(
        queued=load.queued,
        running=load.running + load.releasing,
        capacity=load.window,
        wanted=wanted(load.queued, load.running, load.releasing),
        oldest_queued_seconds=0.0 if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000,
    )


def tested(test: UpstreamTest) -> EndpointTestView[str]:
    """Return what a test call met."""
    outcome = test.outcome
    output = outcome.output
    return EndpointTestView(
        started_at=iso(outcome.started_ms),
        duration_ms=outcome.duration_ms,
        outcome=outcome.kind,
        status_code=outcome.status_code,
        error=outcome.error,
        detail=outcome.detail,
        address=test.address,
        connected_ms=test.connected_ms,
        head_ms=test.head_ms,
        advice=test.advice,
        content_type=None if output is None else output.content_type,
        output_excerpt=None
        if output is None
        else output.body[:EXCERPT_BYTES].decode(errors="replace"),
    )


def secrets_of(of: EndpointRules) -> frozenset[str]:
    """Return the names of the stored secrets that an endpoint's headers name."""
    return frozenset(value.name for _, value in of.headers if isinstance(value, SecretRef))


def _fields(endpoint: Endpoint, figures: Figures, now_ms: int, *, counted: bool) -> dict[str, Any]:
    load = figures.load
    is_timed = load.held_until_ms > now_ms and load.unhealthy_ms is None
    is_held = is_timed or load.unhealthy_ms is not None
    reason = load.held_reason if is_timed else "unhealthy"
    fields = {
        "name": endpoint.name,
        "state": "paused" if endpoint.paused else "held" if is_held else "active",
        "capacity": load.window,
        "held_until": iso(load.held_until_ms) if is_timed else None,
        "held_reason": reason if is_held else None,
        "estimated_duration": figures.estimates.duration_s,
    }
    if counted:
        fields |= {"queued": load.queued, "running": load.running + load.releasing}
    return fields
