"""What the API shows: the types of its answers.

Fields with a default are left out where they have nothing to say.
"""

from typing import Any

from msgspec import Struct

from dispatcher.api.shapes import PolicyShape, Scope
from dispatcher.states import State
from dispatcher.values import Priority


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
