"""The values that modules hand to each other: frozen, and free of IO."""

from dataclasses import dataclass, field
from typing import Final, Literal

from dispatcher.keys import UNLIMITED, Limits
from dispatcher.policy import Policy
from dispatcher.states import State
from receiver.base.value import frozen

Priority = Literal["high", "normal"]
Scope = Literal["submit", "read", "operate", "admin"]
Headers = tuple[tuple[str, str], ...]

# The classes a lane keeps apart, in the order in which they are served.
HIGH: Final = 0
NORMAL: Final = 1
REPLAY: Final = 2
CLASSES: Final = (HIGH, NORMAL, REPLAY)


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A header's value that a stored secret makes when it is sent: `prefix` (`Bearer ` or nothing),
    and what is stored under `name` then."""

    name: str
    prefix: str = ""


SecretHeaders = tuple[tuple[str, SecretRef], ...]
DestinationHeaders = tuple[tuple[str, str | SecretRef], ...]


def plain_headers(headers: DestinationHeaders) -> Headers:
    """Return those of a destination's headers that are as they stand."""
    return tuple((name, value) for name, value in headers if isinstance(value, str))


def secret_headers(headers: DestinationHeaders) -> SecretHeaders:
    """Return those of a destination's headers that name a stored secret."""
    return tuple((name, value) for name, value in headers if isinstance(value, SecretRef))


@frozen
class NewCallback:
    """A validated submit, ready to be stored.

    `destination` and `lane` are ids, the same for a registered destination; for that `url` is None,
    and its own URL, headers and policy apply at send time, so that a correction reaches its backlog
    too.
    `policy_text` is what is stored and `policy` what it says, both None for the destination's.
    `key` is the idempotency key's digest, `content` what it must come with again. `secret` signs
    this one alone, beside the others', by its platform's own scheme; it is kept sealed only.
    """

    id: str
    tenant: str
    job_id: str
    job_status: str | None
    priority: Priority
    destination: str
    lane: str
    destination_name: str | None
    url: str | None
    body: bytes = field(repr=False)
    body_sha256: bytes
    content_type: str
    headers: Headers = ()
    tags: tuple[tuple[str, str], ...] = ()
    policy_text: str | None
    policy: Policy | None
    key: bytes
    explicit_key: bool
    content: bytes
    created_ms: int
    run: int | None = None  # which run of the job it was, where that was said
    not_before_ms: int | None = None  # its first attempt waits until then
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unopened:
    """Why a stored value cannot be opened, fit to show: we lack its key (`keys`), or it is damaged
    or stands where it was not put (`damage`)."""

    lack: Literal["keys", "damage"]
    message: str


@frozen
class Delivery:
    """One leased delivery: all that sending and judging it needs, and the fencing token that
    alone may settle it."""

    id: str
    tenant: str
    job_id: str
    destination: str
    registered: bool
    url: str
    body: bytes = field(repr=False)
    content_type: str
    headers: Headers = field(repr=False)
    policy: Policy
    fence: int  # grows with each claim
    attempt: int  # this attempt's number in the history, from 1
    tries: int  # tries of the budget spent before this one
    created_ms: int
    expires_ms: int
    high: bool
    job_status: str | None = None
    run: int | None = None
    lane: str = ""  # none for a test, which the store does not know
    turned_away: int = 0  # how often before, while others were answered, at no cost
    turned_away_ms: int | None = None  # when for the first time
    epoch: int = 0  # of the destination: what its lane may learn from this attempt
    secret_headers: SecretHeaders = ()  # to be made when it is sent, before `headers`
    secret: str | None = field(default=None, repr=False)  # signs this one, beside the others'
    unopened: Unopened | None = None  # then body and headers are not there, and nothing may go out


@frozen
class Submitted:
    """What a submit came to. `delivery` is set when it was handed straight over (D6)."""

    id: str
    job_id: str
    state: State
    created_ms: int
    duplicate: bool
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One POST, as history keeps it."""

    n: int
    started_ms: int
    duration_ms: float
    outcome: str
    status_code: int | None = None
    error: str | None = None
    excerpt: str | None = None
    detail: str | None = None  # its class and its reason in truth, for operators: see `Outcome`


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What the lane of a pending callback says of when it may go: `ready_ms` is when the lane's
    next of its class may (None: nothing of it may now)."""

    is_paused: bool = False
    disabled_reason: str | None = None
    held_until_ms: int = 0
    held_reason: str | None = None
    circuit_open: bool = False
    ready_ms: int | None = None
    not_before_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """A callback as it is listed and shown."""

    id: str
    tenant: str
    job_id: str
    job_status: str | None
    state: State
    priority: Priority
    destination: str
    lane: str
    destination_name: str | None
    url: str
    tags: dict[str, str]
    created_ms: int
    attempts: int
    tries: int
    due_ms: int | None
    finished_ms: int | None
    last_error: str | None
    policy: str | None
    payload_size: int
    payload_sha256: bytes
    payload_pruned: bool
    run: int | None = None
    schedule: Schedule | None = None  # while it is pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """The stored bytes and what they were declared to be."""

    body: bytes = field(repr=False)
    content_type: str
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a tenant's deliveries go, with its limits and its lane's health.

    Unregistered ones (no `name`) are servers, and come into being with their first callback;
    `last_url` is the URL of the last one. While its headers are `unopened`, they are not there.
    """

    id: str
    tenant: str
    name: str | None
    url: str
    policy: str | None
    headers: DestinationHeaders = field(repr=False)
    paused: bool
    disabled_reason: str | None
    concurrency: int | None
    rate_per_second: float | None
    created_ms: int
    last_url: str | None = None
    failures: int = 0
    circuit_open: bool = False
    held_until_ms: int | None = None
    held_reason: str | None = None
    backlog: int = 0
    backlog_exactly: bool = True  # False: more wait than are counted
    sending: int = 0
    last_error: str | None = None  # of the last attempt, where that was not acknowledged
    unopened: Unopened | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A filtered replay: a fixed set, fed in the background. Not `matched_exactly`: at least so
    many match."""

    id: str
    tenant: str
    filter: str  # the filter as JSON, as the caller may see it
    rate_per_second: float | None
    state: Literal["running", "done", "cancelled"]
    matched: int
    replayed: int
    skipped: int
    created_ms: int
    finished_ms: int | None
    matched_exactly: bool = True
    outcomes: "ReplayOutcomes | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOutcomes:
    """What became of the callbacks that a filtered replay took up, as far as no other has taken
    them up since. Not `exact`: of the first of them."""

    delivered: int = 0
    failed: int = 0  # dead again
    retrying: int = 0  # tried since, without success, and to be tried again
    waiting: int = 0  # for the first try since
    cancelled: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Callbacks of one destination that failed in one way, in one state. `sample` is the newest of
    them; what its last attempt met stands beside it."""

    destination: str
    destination_name: str | None
    url: str
    state: State
    error: str | None
    count: int
    oldest: str
    sample: str
    message: str | None = None
    excerpt: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key without the key: `tenant` None is a platform key, good for any tenant. The text
    that it had before its last rotation is good until `previous_until_ms`."""

    id: str
    digest: bytes = field(repr=False)
    tenant: str | None
    scopes: frozenset[str]
    label: str
    created_ms: int
    limits: Limits = UNLIMITED
    previous_digest: bytes | None = field(default=None, repr=False)
    previous_until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """When a key was used last, to about a minute, and its text before the last rotation."""

    key: str
    used_ms: int | None
    previous_used_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningSecret:
    """A secret that signs until `expires_ms` (None: until it is rotated out): a tenant's, one of
    its destinations', or that of calls to an endpoint (`tenant` is empty). One that is `unopened`
    has no value, and must sign nothing."""

    id: str
    tenant: str
    destination: str | None
    value: str = field(repr=False)
    created_ms: int
    expires_ms: int | None
    revealed_ms: int | None = None
    unopened: Unopened | None = None
    endpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKey:
    """A key that links and tokens in URLs are made with."""

    id: str
    value: bytes = field(repr=False)
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """A secret that was stored by name, for headers. One that is `unopened` has no value, and
    nothing that needs it may go out."""

    name: str
    updated_ms: int
    value: str = field(default="", repr=False)
    unopened: Unopened | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecretEntry:
    """What is told of a stored secret: never its value. `used_by` are the first of the `uses`
    destinations whose headers name it."""

    name: str
    created_ms: int
    updated_ms: int
    uses: int = 0
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One customer account of the platform, with the limits of its own (None: the settings').
    `erasing_ms`: since when it is being erased."""

    name: str
    created_ms: int
    label: str = ""
    storage_bytes_max: int | None = None
    queue_max: int | None = None
    rate_per_second: float | None = None
    jobs_running_max: int | None = None
    outputs_bytes_max: int | None = None
    erasing_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A tenant's figures. Rates are deliveries a second over the last minute."""

    counts: dict[State, int]
    oldest_pending_ms: int | None
    accepted_per_second: float
    delivered_per_second: float
    failed_attempts_per_second: float
