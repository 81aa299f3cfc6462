"""From the values of the other rooms to what the API shows of them."""

from typing import Any

import msgspec

from dispatcher import wire
from dispatcher.ids import lane_url
from dispatcher.outcome import Outcome
from dispatcher.policy import Policy, attempt_outcome, load
from dispatcher.states import FINAL, STATES, State
from dispatcher.values import (
    Attempt,
    Callback,
    Destination,
    Key,
    Replay,
    SigningSecret,
    Stats,
    Submitted,
    Tenant,
)
from dispatcher.wire import PolicyShape
from receiver.base.clock import iso


def accepted(submitted: Submitted) -> wire.AcceptedView[str]:
    return wire.AcceptedView(**_accepted(submitted))


def line(n: int, submitted: Submitted) -> wire.LineView[str]:
    return wire.LineView(**_accepted(submitted), line=n)


def _accepted(submitted: Submitted) -> dict[str, Any]:
    # Whether a fresh one was handed straight over is a matter of microseconds, not of its story.
    status: State = submitted.state if submitted.duplicate else "pending"
    return {
        "id": submitted.id,
        "job_id": submitted.job_id,
        "status": status,
        "created_at": iso(submitted.created_ms),
        "duplicate": submitted.duplicate,
    }


def callback(value: Callback) -> wire.CallbackView[str]:
    return wire.CallbackView(**_callback(value))


def callback_detail(value: Callback) -> wire.CallbackDetailView[str]:
    return wire.CallbackDetailView(
        **_callback(value),
        policy=wire.policy_shape(load(value.policy)),
        payload_size=value.payload_size,
        payload_sha256=value.payload_sha256.hex(),
        payload_pruned=value.payload_pruned,
    )


def _callback(value: Callback) -> dict[str, Any]:
    finished_at = _iso(value.finished_ms) if value.state in FINAL else None
    return {
        "id": value.id,
        "job_id": value.job_id,
        "job_status": value.job_status,
        "status": value.state,
        "priority": value.priority,
        "tags": value.tags,
        "destination": value.destination,
        "destination_name": value.destination_name,
        "callback_url": value.url,
        "created_at": iso(value.created_ms),
        "attempts": value.attempts,
        "next_attempt_at": _iso(value.due_ms) if value.state == "pending" else None,
        "delivered_at": finished_at if value.state == "delivered" else None,
        "finished_at": finished_at,
        "last_error": value.last_error,
    }


def attempt(value: Attempt) -> wire.AttemptView[str]:
    return wire.AttemptView(
        n=value.n,
        started_at=iso(value.started_ms),
        duration_ms=value.duration_ms,
        outcome=value.outcome,
        status_code=value.status_code,
        error=value.error,
        response_excerpt=value.excerpt,
    )


def probe(outcome: Outcome, policy: Policy) -> wire.AttemptView[str]:
    """Return a test's outcome, as the attempt that it is."""
    return wire.AttemptView(
        n=1,
        started_at=iso(outcome.started_ms),
        duration_ms=outcome.duration_ms,
        outcome=attempt_outcome(outcome, policy),
        status_code=outcome.status_code,
        error=outcome.error,
        response_excerpt=outcome.excerpt,
    )


def destination(value: Destination) -> wire.DestinationView[str, PolicyShape]:
    return wire.DestinationView(**_destination(value))


def registered(value: Destination, secret: str | None) -> wire.RegisteredView[str, PolicyShape]:
    return wire.RegisteredView(**_destination(value), secret=secret)


def _destination(value: Destination) -> dict[str, Any]:
    return {
        "id": value.id,
        "name": value.name,
        "url": value.url if value.name is not None else lane_url(value.url),
        "health": health(value),
        "backlog": value.backlog,
        "sending": value.sending,
        "paused": value.paused,
        "disabled": value.disabled_reason is not None,
        "disabled_reason": value.disabled_reason,
        "held_until": _iso(value.held_until_ms),
        "held_reason": "paused" if value.paused else value.held_reason,
        "failures": value.failures,
        "concurrency": value.concurrency,
        "rate_per_second": value.rate_per_second,
        "policy": None if value.policy is None else wire.policy_shape(load(value.policy)),
        "header_names": [name for name, _ in value.headers],
        "created_at": iso(value.created_ms),
    }


def health(value: Destination) -> str:
    """One word on a destination, the gravest that holds."""
    if value.disabled_reason is not None:
        return "disabled"
    if value.circuit_open:
        return "circuit-open"
    return "failing" if value.failures else "healthy"


def replay(value: Replay) -> wire.ReplayView[str]:
    return wire.ReplayView(
        id=value.id,
        matched=value.matched,
        replayed=value.replayed,
        skipped=value.skipped,
        state=value.state,
        filter=msgspec.json.decode(value.filter, type=dict[str, str]),
        created_at=iso(value.created_ms),
        rate_per_second=value.rate_per_second,
        finished_at=_iso(value.finished_ms),
    )


def key(value: Key) -> wire.KeyView[str]:
    return wire.KeyView(**_key(value))


def new_key(value: Key, text: str) -> wire.NewKeyView[str]:
    return wire.NewKeyView(**_key(value), key=text)


def _key(value: Key) -> dict[str, Any]:
    return {
        "id": value.id,
        "tenant": value.tenant,
        "scopes": sorted(value.scopes),
        "label": value.label,
        "created_at": iso(value.created_ms),
    }


def secret(value: SigningSecret, now_ms: int) -> wire.SecretView[str]:
    return wire.SecretView(**_secret(value, now_ms))


def shown_secret(value: SigningSecret, now_ms: int) -> wire.ShownSecretView[str]:
    return wire.ShownSecretView(**_secret(value, now_ms), secret=value.value)


def _secret(value: SigningSecret, now_ms: int) -> dict[str, Any]:
    return {
        "id": value.id,
        "created_at": iso(value.created_ms),
        "active": value.expires_ms is None or value.expires_ms > now_ms,
        "destination": value.destination,
        "expires_at": _iso(value.expires_ms),
        "revealed_at": _iso(value.revealed_ms),
    }


def tenant(value: Tenant) -> wire.TenantView[str]:
    return wire.TenantView(name=value.name, created_at=iso(value.created_ms))


def stats(value: Stats) -> wire.StatsView[str]:
    return wire.StatsView(
        counts={state: value.counts.get(state, 0) for state in STATES},
        accepted_per_second=value.accepted_per_second,
        delivered_per_second=value.delivered_per_second,
        failed_attempts_per_second=value.failed_attempts_per_second,
        oldest_pending_at=_iso(value.oldest_pending_ms),
    )


def _iso(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)
