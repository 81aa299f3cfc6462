"""What the service answers, typed. Fields it may add later are ignored, so that an older client
keeps working; times are aware datetimes in UTC."""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")

State = Literal["pending", "sending", "delivered", "dead", "cancelled"]


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A frozen value, camelCase on the wire."""


class Submitted(Result, frozen=True, kw_only=True):
    """A callback that the service has on disk. `duplicate`: it had it already, under this id."""

    id: str
    job_id: str
    status: State
    created_at: datetime
    duplicate: bool


class Callback(Result, frozen=True, kw_only=True):
    """A callback on its way. The fields from `policy` on are there when it is shown alone."""

    id: str
    job_id: str
    job_status: str | None
    status: State
    priority: Literal["high", "normal"]
    tags: dict[str, str]
    destination: str
    callback_url: str
    created_at: datetime
    attempts: int
    destination_name: str | None = None
    next_attempt_at: datetime | None = None
    delivered_at: datetime | None = None
    finished_at: datetime | None = None
    last_error: str | None = None
    policy: dict[str, Any] | None = None
    payload_size: int | None = None
    payload_sha256: str | None = None
    payload_pruned: bool | None = None

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status in ("delivered", "dead", "cancelled")


class Page(Result, Generic[T], frozen=True, kw_only=True):
    """Some of a list, and the cursor to go on with (None at the end)."""

    data: list[T]
    next_cursor: str | None


class Attempt(Result, frozen=True, kw_only=True):
    """One POST and what it met."""

    n: int
    started_at: datetime
    duration_ms: float
    outcome: str
    status_code: int | None = None
    error: str | None = None
    response_excerpt: str | None = None


class Preview(Result, frozen=True, kw_only=True):
    """What a filtered replay would match: how many, and some of them."""

    matched: int
    sample: list[Callback]
    filter: dict[str, str]


class Replay(Result, frozen=True, kw_only=True):
    """A filtered replay and how far it is: `replayed` and `skipped` (payload gone) grow up to
    `matched`."""

    id: str
    matched: int
    replayed: int
    skipped: int
    state: Literal["running", "done", "cancelled"]
    filter: dict[str, str]
    created_at: datetime
    rate_per_second: float | None = None
    finished_at: datetime | None = None

    @property
    def final(self) -> bool:
        """Whether it feeds nothing more."""
        return self.state != "running"


class Destination(Result, frozen=True, kw_only=True):
    """Where deliveries go, with its health (`healthy failing circuit-open disabled`), what waits
    for it and what holds it (`paused circuit retry-after rate`)."""

    id: str
    url: str
    health: str
    backlog: int
    sending: int
    paused: bool
    disabled: bool
    created_at: datetime
    name: str | None = None
    disabled_reason: str | None = None
    held_until: datetime | None = None
    held_reason: str | None = None
    failures: int = 0
    concurrency: int | None = None
    rate_per_second: float | None = None
    policy: dict[str, Any] | None = None
    header_names: list[str] = []


class Registered(Destination, frozen=True, kw_only=True):
    """A destination just registered; `secret` is there where it was made for it."""

    secret: str | None = None

    def __repr__(self) -> str:
        return f"Registered(id={self.id!r}, name={self.name!r}, url={self.url!r}, secret=…)"


class Key(Result, frozen=True, kw_only=True):
    """An API key without the key itself. `tenant` None: a platform key, good for any tenant."""

    id: str
    tenant: str | None
    scopes: list[str]
    label: str
    created_at: datetime


class NewKey(Key, frozen=True, kw_only=True):
    """A key just made: `key` is shown this once."""

    key: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, scopes={self.scopes!r}, key=…)"


class Secret(Result, frozen=True, kw_only=True):
    """A signing secret without its value. `active`: it still signs; `destination` None: it is
    the tenant's; `revealed_at` None: nobody has asked to see it."""

    id: str
    created_at: datetime
    active: bool
    destination: str | None = None
    expires_at: datetime | None = None
    revealed_at: datetime | None = None


class RevealedSecret(Secret, frozen=True, kw_only=True):
    """A signing secret with its value."""

    secret: str

    def __repr__(self) -> str:
        return f"RevealedSecret(id={self.id!r}, secret=…)"


class Tenant(Result, frozen=True, kw_only=True):
    """One customer account."""

    name: str
    created_at: datetime


class Stats(Result, frozen=True, kw_only=True):
    """A tenant's figures; rates are over the last minute."""

    counts: dict[str, int]
    accepted_per_second: float
    delivered_per_second: float
    failed_attempts_per_second: float
    oldest_pending_at: datetime | None = None
