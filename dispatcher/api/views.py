"""What the API shows: response types, and how they are made from the values of the other rooms.

Fields with a default are left out where they have nothing to say.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from dispatcher.api import policies
from dispatcher.api.shapes import PolicyShape, Scope
from dispatcher.clock import iso
from dispatcher.ids import lane_url
from dispatcher.outcome import Outcome
from dispatcher.states import FINAL, State
from dispatcher.values import (
    Attempt,
    Callback,
    Destination,
    Key,
    Priority,
    Replay,
    SigningSecret,
    Stats,
    Submitted,
    Tenant,
)


class View(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The ground of all answers: frozen, camelCase, absent optionals left out."""


class AcceptedView(View, frozen=True, kw_only=True):
    """The callback is on disk, and its delivery is under way or waiting."""

    id: str
    job_id: str
    status: State
    created_at: str
    duplicate: bool


class CallbackView(View, frozen=True, kw_only=True):
    """A callback as it is listed. `status` is the delivery's, `jobStatus` the job's."""

    id: str
    job_id: str
    job_status: str | None
    status: State
    priority: Priority
    tags: dict[str, str]
    destination: str
    callback_url: str
    created_at: str
    attempts: int
    destination_name: str | None = None
    next_attempt_at: str | None = None
    delivered_at: str | None = None
    finished_at: str | None = None
    last_error: str | None = None


class CallbackDetailView(CallbackView, frozen=True, kw_only=True):
    """A callback shown alone."""

    policy: PolicyShape
    payload_size: int
    payload_sha256: str
    payload_pruned: bool


class AttemptView(View, frozen=True, kw_only=True):
    """One POST and what it met. `outcome` is `answered`'s code (`http_503`) or what came
    instead of an answer."""

    n: int
    started_at: str
    duration_ms: float
    outcome: str
    status_code: int | None = None
    error: str | None = None
    response_excerpt: str | None = None


class DestinationView(View, frozen=True, kw_only=True):
    """Where deliveries go. `health`: `healthy`, `failing` (its last attempts found it down),
    `circuit-open` (held; one probe at a time goes out) or `disabled`. `heldReason`: `paused`,
    `circuit`, `retry-after` or `rate`."""

    id: str
    url: str
    health: str
    backlog: int
    sending: int
    paused: bool
    disabled: bool
    created_at: str
    name: str | None = None
    disabled_reason: str | None = None
    held_until: str | None = None
    held_reason: str | None = None
    failures: int = 0
    concurrency: int | None = None
    rate_per_second: float | None = None
    policy: PolicyShape | None = None
    header_names: list[str] = []


class RegisteredView(DestinationView, frozen=True, kw_only=True):
    """A destination just registered, with its signing secret where that was made for it."""

    secret: str | None = None


class ReplayView(View, frozen=True, kw_only=True):
    """A filtered replay: `replayed` and `skipped` (payload gone) grow up to `matched`."""

    id: str
    matched: int
    replayed: int
    skipped: int
    state: str
    filter: dict[str, str]
    created_at: str
    rate_per_second: float | None = None
    finished_at: str | None = None


class PreviewView(View, frozen=True, kw_only=True):
    """What a replay would match now; nothing was changed."""

    matched: int
    sample: list[CallbackView]
    filter: dict[str, str]


class KeyView(View, frozen=True, kw_only=True):
    """An API key, without the key. `tenant` null: a platform key, good for any tenant."""

    id: str
    tenant: str | None
    scopes: list[Scope]
    label: str
    created_at: str


class NewKeyView(KeyView, frozen=True, kw_only=True):
    """A key just made: the only time that it is shown."""

    key: str


class SecretView(View, frozen=True, kw_only=True):
    """A signing secret, without the secret. `active`: it still signs."""

    id: str
    created_at: str
    active: bool
    destination: str | None = None
    expires_at: str | None = None
    revealed_at: str | None = None


class ShownSecretView(SecretView, frozen=True, kw_only=True):
    """A signing secret with its value."""

    secret: str


class TenantView(View, frozen=True, kw_only=True):
    """One customer account."""

    name: str
    created_at: str


class StatsView(View, frozen=True, kw_only=True):
    """Figures of one tenant. Rates are per second, over the last minute."""

    counts: dict[str, int]
    accepted_per_second: float
    delivered_per_second: float
    failed_attempts_per_second: float
    oldest_pending_at: str | None = None


class StatusView(View, frozen=True, kw_only=True):
    """Whether the service lives or is ready, and the reason where it is not."""

    status: str
    reason: str | None = None


class Page(View, frozen=True, kw_only=True):
    """One page of a listing; `nextCursor` leads to the next one, null ends it."""

    data: list[Any]
    next_cursor: str | None


class ErrorView(View, frozen=True, kw_only=True):
    """The one shape of every error."""

    error: str
    message: str
    details: dict[str, Any]
    request_id: str


class LineView(AcceptedView, frozen=True, kw_only=True):
    """What one line of a batch came to, where it was taken; else it is an error with `line`."""

    line: int


def accepted(submitted: Submitted) -> AcceptedView:
    return AcceptedView(**_accepted(submitted))


def line(n: int, submitted: Submitted) -> LineView:
    return LineView(**_accepted(submitted), line=n)


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


def callback(value: Callback) -> CallbackView:
    return CallbackView(**_callback(value))


def callback_detail(value: Callback) -> CallbackDetailView:
    return CallbackDetailView(
        **_callback(value),
        policy=policies.shown(value.policy),
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


def attempt(value: Attempt) -> AttemptView:
    return AttemptView(
        n=value.n,
        started_at=iso(value.started_ms),
        duration_ms=value.duration_ms,
        outcome=value.outcome,
        status_code=value.status_code,
        error=value.error,
        response_excerpt=value.excerpt,
    )


def probe(outcome: Outcome) -> AttemptView:
    """A test's outcome, as the attempt that it is."""
    return AttemptView(
        n=1,
        started_at=iso(outcome.started_ms),
        duration_ms=outcome.duration_ms,
        outcome=outcome.code,
        status_code=outcome.status_code,
        error=outcome.error,
        response_excerpt=outcome.excerpt,
    )


def destination(value: Destination) -> DestinationView:
    return DestinationView(**_destination(value))


def registered(value: Destination, secret: str | None) -> RegisteredView:
    return RegisteredView(**_destination(value), secret=secret)


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
        "policy": None if value.policy is None else policies.shown(value.policy),
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


def replay(value: Replay) -> ReplayView:
    return ReplayView(
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


def key(value: Key) -> KeyView:
    return KeyView(**_key(value))


def new_key(value: Key, text: str) -> NewKeyView:
    return NewKeyView(**_key(value), key=text)


def _key(value: Key) -> dict[str, Any]:
    return {
        "id": value.id,
        "tenant": value.tenant,
        "scopes": sorted(value.scopes),
        "label": value.label,
        "created_at": iso(value.created_ms),
    }


def secret(value: SigningSecret, now_ms: int) -> SecretView:
    return SecretView(**_secret(value, now_ms))


def shown_secret(value: SigningSecret, now_ms: int) -> ShownSecretView:
    return ShownSecretView(**_secret(value, now_ms), secret=value.value)


def _secret(value: SigningSecret, now_ms: int) -> dict[str, Any]:
    return {
        "id": value.id,
        "created_at": iso(value.created_ms),
        "active": value.expires_ms is None or value.expires_ms > now_ms,
        "destination": value.destination,
        "expires_at": _iso(value.expires_ms),
        "revealed_at": _iso(value.revealed_ms),
    }


def tenant(value: Tenant) -> TenantView:
    return TenantView(name=value.name, created_at=iso(value.created_ms))


def stats(value: Stats) -> StatsView:
    return StatsView(
        counts={state: value.counts.get(state, 0) for state in ("pending", "sending", *_ENDS)},
        accepted_per_second=value.accepted_per_second,
        delivered_per_second=value.delivered_per_second,
        failed_attempts_per_second=value.failed_attempts_per_second,
        oldest_pending_at=_iso(value.oldest_pending_ms),
    )


_ENDS: tuple[State, ...] = ("delivered", "dead", "cancelled")


def _iso(ms: int | None) -> str | None:
    return None if ms is None else iso(ms)
