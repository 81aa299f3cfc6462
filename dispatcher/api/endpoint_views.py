"""Endpoints as answers show them: their rules for those who make them, figures for everybody."""

from typing import Any, Final

from dispatcher.jobs import rules
from dispatcher.jobs.endpoint import Endpoint, EndpointRules
from dispatcher.sending.probe import UpstreamTest
from dispatcher.values import SecretRef
from dispatcher.wire_jobs import EndpointDetailView, EndpointTestView, EndpointView
from receiver.base.clock import iso

EXCERPT_BYTES: Final = 1_024
"""So much of a test's output is shown."""


def view(endpoint: Endpoint) -> EndpointView:
    """Return an endpoint as everybody sees it who may use it."""
    return EndpointView(**_fields(endpoint))


def detail(endpoint: Endpoint) -> EndpointDetailView[str]:
    """Return an endpoint as those see it who may change it."""
    return EndpointDetailView(
        **_fields(endpoint),
        url=endpoint.rules.url,
        managed=endpoint.managed,
        created_at=iso(endpoint.created_ms),
        updated_at=iso(endpoint.updated_ms),
        rules=rules.document_of(endpoint.rules),
        header_names=rules.header_names(endpoint.rules),
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


def _fields(endpoint: Endpoint) -> dict[str, Any]:
    return {"name": endpoint.name, "state": "paused" if endpoint.paused else "active"}
