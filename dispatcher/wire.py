"""What crosses the wire: the types of requests and answers, which validate, encode, decode and make
the OpenAPI document; the same for the API and for the client.

Requests are strict: unknown fields are refused, so that a misspelt one is noticed. Answers are
lenient: a client ignores the fields that it does not know, and a field with a default is left out
where it has nothing to say.
"""

from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dispatcher.fairness import RATE_MIN
from dispatcher.policy import (
    DEFAULT,
    PRESETS,
    TIMEOUT_MS_MAX,
    Policy,
    PresetName,
    TurnedAway,
)
from dispatcher.states import State
from dispatcher.values import Priority, Scope
from dispatcher.waiting import WaitReason
from receiver.base.completion import HEADERS_MAX, JOB_ID_CHARS_MAX, STATUS_CHARS_MAX
from receiver.signature import RUN_MAX

Item = TypeVar("Item")
# An answer's times are texts where they are written, with three decimals as `iso` makes them, and
# datetimes where they are read. A policy is read as it comes: it may gain fields.
Time = TypeVar("Time")
AnyPolicy = TypeVar("AnyPolicy")

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
URL_CHARS_MAX: Final = 2_048
TAGS_MAX: Final = 16
LABEL_CHARS_MAX: Final = 100
TAG_CHARS_MAX: Final = 64
TAG_VALUE_CHARS_MAX: Final = 256
RATE_MAX: Final = 10_000
CONCURRENCY_MAX: Final = 65_536
LIMIT_MAX: Final = 10**15  # of what a tenant may store, or have waiting
KEY_NETWORKS_MAX: Final = 32
KEY_DESTINATIONS_MAX: Final = 64
SERVER_CHARS_MAX: Final = 300
EXPIRES_S_MAX: Final = 3_650 * 86_400
NOT_BEFORE_S_MAX: Final = 604_800  # a week: a key then holds for the longest default schedule too
_DEFAULT: Final = PRESETS[DEFAULT]

JobId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=JOB_ID_CHARS_MAX,
        description="The platform's id of the finished job.",
        examples=["job_1234567890abcdef"],
    ),
]
JobStatus = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=STATUS_CHARS_MAX,
        description="The job's own status; by default `payload.status` where that is a string.",
        examples=["completed"],
    ),
]
Run = Annotated[
    int,
    Meta(
        ge=1,
        le=RUN_MAX,
        description="Which run of the job this is, where a job may run again; each has an end of "
        "its own.",
        examples=[1],
    ),
]
NotBefore = Annotated[
    Annotated[str, Meta(max_length=64)] | Annotated[float, Meta(ge=0, le=NOT_BEFORE_S_MAX)],
    Meta(
        description="When it may first be sent: an ISO-8601 time, or seconds from now; at most a "
        "week ahead. The policy's maximum age counts from then.",
        examples=["2026-01-31T12:00:00Z", 30],
    ),
]
ExpiresAt = Annotated[
    Annotated[str, Meta(max_length=64)] | Annotated[float, Meta(gt=0, le=EXPIRES_S_MAX)],
    Meta(
        description="When it ends: an ISO-8601 time, or seconds from now; at most ten years ahead.",
        examples=["2027-01-31T12:00:00Z", 7_776_000],
    ),
]
Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=URL_CHARS_MAX,
        description="http or https, to an address that deliveries may reach.",
        examples=["https://example.com/webhooks/job-complete"],
    ),
]
Name = Annotated[
    str, Meta(pattern=NAME, description="A registered destination's name.", examples=["billing"])
]
TagKey = Annotated[str, Meta(min_length=1, max_length=TAG_CHARS_MAX)]
TagValue = Annotated[str, Meta(max_length=TAG_VALUE_CHARS_MAX)]
Tags = Annotated[
    dict[TagKey, TagValue],
    Meta(max_length=TAGS_MAX, description="To find it by.", examples=[{"userId": "user_123"}]),
]
CustomHeaders = Annotated[
    dict[str, str],
    Meta(
        max_length=HEADERS_MAX,
        description="Added to each delivery; never ones that frame the message, belong to the "
        "connection or are set by the dispatcher.",
    ),
]
Seconds = Annotated[float, Meta(ge=0, le=604_800)]
StatusCode = Annotated[int, Meta(ge=200, le=599)]
Rate = Annotated[float, Meta(ge=RATE_MIN, le=RATE_MAX, description="Deliveries a second.")]
Concurrency = Annotated[
    int, Meta(ge=1, le=CONCURRENCY_MAX, description="Most attempts in flight at once.")
]
Scopes = Annotated[list[Scope], Meta(min_length=1, max_length=4)]
Secret = Annotated[
    str,
    Meta(
        max_length=200,
        description="`whsec_` and the base64 of 24 to 64 bytes; made when it is not given.",
    ),
]
Overlap = Annotated[float, Meta(ge=0, le=2_592_000, description="Seconds the old secret signs on.")]
Force = Annotated[bool, Meta(description="End an earlier rotation's overlap at once.")]


class Shape(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The ground of all requests: frozen, camelCase, no unknown fields."""


class Exponential(Shape, frozen=True, kw_only=True):
    """Waits of `base * factor ** (n - 1)` seconds after try n, at most `cap`."""

    base: Annotated[float, Meta(gt=0, le=604_800)]
    factor: Annotated[float, Meta(gt=0, le=100)]
    cap: Annotated[float, Meta(gt=0, le=604_800)]


class PolicyShape(Shape, frozen=True, kw_only=True):
    """How a delivery is tried; all times in seconds. Give `delays` or `exponential`, or neither
    for the default schedule."""

    attempts: Annotated[int, Meta(ge=1, le=50)]
    delays: (
        Annotated[
            list[Seconds],
            Meta(min_length=1, max_length=50, description="Waits; the last one repeats."),
        ]
        | UnsetType
    ) = UNSET
    exponential: Exponential | UnsetType = UNSET
    jitter: Annotated[float, Meta(ge=0, le=1, description="0.2 spreads waits by ±20 %.")] = (
        _DEFAULT.jitter
    )
    timeout: Annotated[
        float, Meta(ge=0.1, le=TIMEOUT_MS_MAX / 1000, description="Of one attempt.")
    ] = _DEFAULT.timeout
    acknowledge: Literal["2xx"] | Annotated[list[StatusCode], Meta(min_length=1, max_length=20)] = (
        "2xx"
    )
    max_age: Annotated[float, Meta(ge=1, le=2_592_000)] = _DEFAULT.max_age
    turned_away: Annotated[
        TurnedAway,
        Meta(description="What 429, and 503 with `Retry-After`, cost: nothing, or a try."),
    ] = "free"
    retry: (
        Literal["all"]
        | Annotated[
            list[StatusCode],
            Meta(max_length=20, description="Codes tried again, beside lost connections."),
        ]
    ) = "all"


PolicyChoice = PresetName | PolicyShape


def policy_shape(policy: Policy) -> PolicyShape:
    """Return a policy as it is shown, in full; given back, it means the same."""
    codes = policy.acknowledge
    return PolicyShape(
        attempts=policy.attempts,
        delays=list(policy.delays) or UNSET,
        exponential=UNSET
        if policy.delays
        else Exponential(base=policy.base, factor=policy.factor, cap=policy.cap),
        jitter=policy.jitter,
        timeout=policy.timeout,
        acknowledge="2xx" if isinstance(codes, str) else sorted(codes),
        max_age=policy.max_age,
        turned_away=policy.turned_away,
        retry="all" if isinstance(policy.retry, str) else sorted(policy.retry),
    )


class Submit(Shape, frozen=True, kw_only=True):
    """A finished job's callback. `payload` is delivered byte for byte as it stands here."""

    job_id: JobId
    payload: Annotated[Raw, Meta(description="Any JSON.")]
    callback_url: Url | None = None
    destination: Name | None = None
    job_status: JobStatus | None = None
    priority: Priority = "normal"
    tags: Tags = {}
    policy: PolicyChoice | None = None
    headers: CustomHeaders | None = None
    run: Run | None = None
    not_before: NotBefore | None = None


class BatchLine(Submit, frozen=True, kw_only=True):
    """One line of a batch: a submit, with its idempotency key inside."""

    idempotency_key: (
        Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,255}$", description="1 to 255 visible ASCII.")]
        | None
    ) = None


class ReplayRequest(Shape, frozen=True, kw_only=True):
    """Which callbacks to replay. Where the filter names no status, only dead ones match; with the
    status `pending` those that wait are tried now."""

    filter: Annotated[
        dict[str, str],
        Meta(
            min_length=1,
            max_length=16,
            description="The listing's filters.",
            examples=[{"status": "dead", "tag.team": "a", "since": "2026-01-31T12:00:00Z"}],
        ),
    ]
    dry_run: bool = False
    rate_per_second: Rate | None = None


class Register(Shape, frozen=True, kw_only=True):
    """A destination to be known by name."""

    name: Name
    url: Url
    secret: Secret | None = None
    policy: PolicyChoice | None = None
    headers: CustomHeaders | None = None
    concurrency: Concurrency | None = None
    rate_per_second: Rate | None = None


class DestinationChange(Shape, frozen=True, kw_only=True):
    """The fields to change; null puts a limit, the policy or the headers back to the default."""

    url: Url | UnsetType = UNSET
    policy: PolicyChoice | UnsetType | None = UNSET
    headers: CustomHeaders | UnsetType | None = UNSET
    concurrency: Concurrency | UnsetType | None = UNSET
    rate_per_second: Rate | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class DestinationTest(Shape, frozen=True, kw_only=True):
    """Where a test goes: for a server its `lastUrl`, unless another URL of it is named."""

    url: Url | None = None


class NewKey(Shape, frozen=True, kw_only=True):
    """An API key to make. `tenant` null makes a platform key; left out, it is the tenant that
    the request is about. What it is to be bound to and is left out, it is bound to as the key that
    it is made with."""

    scopes: Scopes
    tenant: Annotated[str, Meta(pattern=NAME)] | UnsetType | None = UNSET
    label: Annotated[str, Meta(max_length=LABEL_CHARS_MAX)] = ""
    expires_at: ExpiresAt | None = None
    networks: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=64)]],
        Meta(
            max_length=KEY_NETWORKS_MAX,
            description="CIDRs that it may be used from; none: from anywhere.",
            examples=[["203.0.113.0/24", "2001:db8::/48"]],
        ),
    ] = []
    destinations: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=SERVER_CHARS_MAX)]],
        Meta(
            max_length=KEY_DESTINATIONS_MAX,
            description="Where it may submit to: names of registered destinations, and servers of "
            "callback URLs (`scheme://host:port`); none: to any. It bounds submits alone.",
            examples=[["billing", "https://example.com"]],
        ),
    ] = []
    rate_per_second: (
        Annotated[
            float,
            Meta(
                ge=0.001,
                le=1_000_000,
                description="Most requests a second, in each process; a batch is one.",
            ),
        ]
        | None
    ) = None


class RotateKey(Shape, frozen=True, kw_only=True):
    """A new text for an API key, which stays what it is."""

    overlap: (
        Annotated[
            float,
            Meta(ge=0, le=2_592_000, description="Seconds that the text before is good on."),
        ]
        | None
    ) = None
    force: Annotated[bool, Meta(description="End an earlier rotation's overlap at once.")] = False
    expires_at: ExpiresAt | None = None


class TenantChange(Shape, frozen=True, kw_only=True):
    """The limits to change; null puts one back to the service's default."""

    label: Annotated[str, Meta(max_length=100)] | UnsetType | None = UNSET
    storage_bytes_max: (
        Annotated[
            int,
            Meta(ge=0, le=LIMIT_MAX, description="Most that it may store, in bytes."),
        ]
        | UnsetType
        | None
    ) = UNSET
    queue_max: (
        Annotated[int, Meta(ge=0, le=LIMIT_MAX, description="Most deliveries that may wait.")]
        | UnsetType
        | None
    ) = UNSET
    rate_per_second: (
        Annotated[
            float,
            Meta(ge=0.001, le=1_000_000, description="Most submits a second, in each process."),
        ]
        | UnsetType
        | None
    ) = UNSET
    jobs_running_max: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=LIMIT_MAX,
                description="Most of its jobs that run at once, over all endpoints and processes.",
            ),
        ]
        | UnsetType
        | None
    ) = UNSET
    outputs_bytes_max: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=LIMIT_MAX,
                description="Most that outputs of its jobs may have of that, in bytes.",
            ),
        ]
        | UnsetType
        | None
    ) = UNSET


class Rotate(Shape, frozen=True, kw_only=True):
    """A rotation of the tenant's signing secret, or of one registered destination's."""

    destination: str | None = None
    secret: Secret | None = None
    overlap: Overlap | None = None
    force: Force = False


class Reveal(Shape, frozen=True, kw_only=True):
    """Which secret to show: one by id, or the current one of a destination or of the tenant."""

    id: str | None = None
    destination: str | None = None


class StoreSecret(Shape, frozen=True, kw_only=True):
    """A secret to store, as it is to stand in a header."""

    secret: Annotated[
        str, Meta(min_length=1, description="Visible ASCII, spaces and tabs; never shown again.")
    ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(secret=…)"


class View(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The ground of all answers: frozen, camelCase, absent optionals left out."""


class AcceptedView(View, Generic[Time], frozen=True, kw_only=True):
    """The callback is on disk, and its delivery is under way or waiting."""

    id: str
    job_id: str
    status: State
    created_at: Time
    duplicate: bool


class WaitView(View, Generic[Time], frozen=True, kw_only=True):
    """What a pending callback waits for, and until when where that is known. `retry`: its next try;
    `not-before`: the time that was asked for; of its destination: `paused` or `disabled` by an
    operator, `circuit` (it was down; one probe at a time goes out), `retry-after` or `turned-away`
    (it asked for a pause, or for less), `rate` (its deliveries a second), `slot` (a place among
    those that are sent at once)."""

    reason: WaitReason
    until: Time | None = None


class CallbackView(View, Generic[Time], frozen=True, kw_only=True):
    """A callback as it is listed. `status` is the delivery's, `jobStatus` the job's."""

    id: str
    job_id: str
    job_status: str | None
    status: State
    priority: Priority
    tags: dict[str, str]
    destination: str
    callback_url: str
    created_at: Time
    attempts: int
    destination_name: str | None = None
    run: int | None = None
    next_attempt_at: Time | None = None
    delivered_at: Time | None = None
    finished_at: Time | None = None
    last_error: str | None = None
    waits_for: WaitView[Time] | None = None


class CallbackDetailView(CallbackView[Time], Generic[Time], frozen=True, kw_only=True):
    """A callback shown alone."""

    policy: PolicyShape
    payload_size: int
    payload_sha256: str
    payload_pruned: bool


class AttemptView(View, Generic[Time], frozen=True, kw_only=True):
    """One POST and what it met. `outcome`: `acknowledged` or `rejected` by the answer whose
    `statusCode` stands beside it, or what came instead of one: `timeout`, `unreachable`,
    `tls_error`, `protocol_error` or `interrupted`. For platform keys: `cause` is why it did not
    reach its peer, `blocked` (by the rules of egress), `dns`, `refused`, `closed`, `tls`, `proxy`
    or `network`, and `detail` the reason in words."""

    n: int
    started_at: Time
    duration_ms: float
    outcome: str
    status_code: int | None = None
    error: str | None = None
    response_excerpt: str | None = None
    cause: str | None = None
    detail: str | None = None


class FailureView(View, Generic[Time], frozen=True, kw_only=True):
    """Callbacks of one destination that failed in one way: `dead`, or `pending` until their next
    try. `sample` is the newest of them; `message`, `responseExcerpt`, and for platform keys `cause`
    and `detail`, are what its last attempt met."""

    destination: str
    url: str
    status: State
    count: int
    oldest_at: Time
    newest_at: Time
    sample: str
    destination_name: str | None = None
    error: str | None = None
    message: str | None = None
    response_excerpt: str | None = None
    cause: str | None = None
    detail: str | None = None


class FailuresView(View, Generic[Item], frozen=True, kw_only=True):
    """What fails, the most first. Not `complete`: of the newest, as many as one look is about."""

    data: list[Item]
    complete: bool


class DestinationView(View, Generic[Time, AnyPolicy], frozen=True, kw_only=True):
    """Where deliveries go: one registered by name, or, without a name, a server (`url` is its
    `scheme://host:port`, `lastUrl` the URL used last). `health`: `healthy`, `failing` (its last
    attempts found it down), `rejecting` (its last answer refused what came), `circuit-open` (held;
    one probe at a time goes out) or `disabled`, the gravest of its lanes; `lastError` is what its
    last attempt met, where that is not well. `heldReason`: `paused`,
    `circuit`, `retry-after` or `turned-away` (the peer asked for less) or `rate`. With
    `backlogExactly` false at least so many wait: one answer counts 250,000 at most.
    `headersUnopened`: why its headers cannot be opened; until they can, nothing goes there."""

    id: str
    url: str
    health: str
    backlog: int
    sending: int
    paused: bool
    disabled: bool
    created_at: Time
    name: str | None = None
    disabled_reason: str | None = None
    held_until: Time | None = None
    held_reason: str | None = None
    failures: int = 0
    concurrency: int | None = None
    rate_per_second: float | None = None
    policy: AnyPolicy | None = None
    header_names: list[str] = []
    headers_unopened: str | None = None
    last_url: str | None = None
    backlog_exactly: bool = True
    last_error: str | None = None


class RegisteredView(
    DestinationView[Time, AnyPolicy], Generic[Time, AnyPolicy], frozen=True, kw_only=True
):
    """A destination just registered, with its signing secret where that was made for it."""

    secret: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, name={self.name!r}, url={self.url!r})"


class ReplayOutcomesView(View, frozen=True, kw_only=True):
    """What became of the callbacks that a filtered replay took up, but for those that another has
    taken up since: `delivered`, `failed` (dead again), `retrying` (tried since without success),
    `waiting` for the first try since, `cancelled`. With `exactly` false: of the first of them."""

    delivered: int
    failed: int
    retrying: int
    waiting: int
    cancelled: int
    exactly: bool


class ReplayView(View, Generic[Time], frozen=True, kw_only=True):
    """A filtered replay: `replayed` and `skipped` (payload gone) grow up to `matched`. With
    `matchedExactly` false at least so many match: large sets are counted while they are fed. Shown
    alone it has the `outcomes`."""

    id: str
    matched: int
    replayed: int
    skipped: int
    state: str
    filter: dict[str, str]
    created_at: Time
    rate_per_second: float | None = None
    finished_at: Time | None = None
    matched_exactly: bool = True
    outcomes: ReplayOutcomesView | None = None


class PreviewView(View, Generic[Item], frozen=True, kw_only=True):
    """What a replay or a sweep would match now; nothing was changed. With `matchedExactly` false at
    least so many match: there are more than 10,000, or more than it looks through."""

    matched: int
    sample: list[Item]
    filter: dict[str, str]
    matched_exactly: bool = True


class KeyView(View, Generic[Time], frozen=True, kw_only=True):
    """An API key, without the key. `tenant` null: a platform key, good for any tenant. Of what it
    may be bound to, what it is not bound to is left out. `lastUsedAt` is exact to a minute or two;
    the text before the last rotation is good until `previousExpiresAt`, and was used last at
    `previousUsedAt`."""

    id: str
    tenant: str | None
    scopes: list[Scope]
    label: str
    created_at: Time
    expires_at: Time | None = None
    last_used_at: Time | None = None
    networks: list[str] = []
    destinations: list[str] = []
    rate_per_second: float | None = None
    previous_expires_at: Time | None = None
    previous_used_at: Time | None = None


class NewKeyView(KeyView[Time], Generic[Time], frozen=True, kw_only=True):
    """A key just made: the only time that it is shown."""

    key: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, scopes={self.scopes!r})"


class SecretView(View, Generic[Time], frozen=True, kw_only=True):
    """A signing secret, without the secret. `active`: it still signs."""

    id: str
    created_at: Time
    active: bool
    destination: str | None = None
    expires_at: Time | None = None
    revealed_at: Time | None = None


class ShownSecretView(SecretView[Time], Generic[Time], frozen=True, kw_only=True):
    """A signing secret with its value."""

    secret: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r})"


class AuditView(View, Generic[Time], frozen=True, kw_only=True):
    """One entry of the audit trail: when, who (`actor`: an API key's id, or `service`;
    `byPlatform`: the platform's), from where, what, on what. `tenant` null: the platform itself. A
    tenant's own keys do not see where the platform asked from."""

    id: str
    at: Time
    actor: str
    by_platform: bool
    tenant: str | None
    action: str
    detail: dict[str, Any]
    target: str | None = None
    reason: str | None = None
    address: str | None = None
    session: str | None = None


class ReencryptionView(View, Generic[Time], frozen=True, kw_only=True):
    """How far everything is sealed with the newest key. `state`: `none` (never asked for),
    `running` or `done`. `looked`: rows that were looked at; `sealed`: values that were plain, or
    sealed with an older key; `unopened`: those that no key opens. `clean`: nothing of what they
    were is left in the database's file."""

    state: str
    looked: int
    sealed: int
    unopened: int
    clean: bool
    key: str | None = None
    started_at: Time | None = None
    finished_at: Time | None = None


class StoredSecretView(View, Generic[Time], frozen=True, kw_only=True):
    """A stored secret, without the secret. `uses`: how many destinations' headers name it, or of
    the platform's how many endpoints' do, of which `usedBy` has the first twenty."""

    name: str
    created_at: Time
    updated_at: Time
    uses: int
    used_by: list[str]


class TenantView(View, Generic[Time], frozen=True, kw_only=True):
    """One customer account. `erasingAt`: since when it is being erased."""

    name: str
    created_at: Time
    label: str = ""
    erasing_at: Time | None = None


class TenantDetailView(TenantView[Time], Generic[Time], frozen=True, kw_only=True):
    """A tenant with the limits in force, of which `defaults` are not its own, and what it uses of
    them. `ratePerSecond` absent: as many submits as come; `jobsRunningMax` absent: as many of its
    jobs run at once as endpoints let."""

    storage_bytes_max: int
    queue_max: int
    rate_per_second: float | None = None
    jobs_running_max: int | None = None
    outputs_bytes_max: int = 0
    defaults: list[str]
    storage_bytes: int
    output_bytes: int = 0
    queued: int


class StatsView(View, Generic[Time], frozen=True, kw_only=True):
    """Figures of one tenant: callbacks by state, and `jobs` by theirs. Rates are per second, over
    the last minute."""

    counts: dict[str, int]
    jobs: dict[str, int] = {}
    accepted_per_second: float
    delivered_per_second: float
    failed_attempts_per_second: float
    oldest_pending_at: Time | None = None


class ServiceView(View, frozen=True, kw_only=True):
    """How a process was started: its settings that are not the defaults, by their variables, and
    the variables that hold secrets and are set. `database` is without its password."""

    version: str
    database: str
    settings: dict[str, Any]
    secrets: list[str]


class StatusView(View, frozen=True, kw_only=True):
    """Whether the service lives or is ready, and the reason where it is not."""

    status: str
    reason: str | None = None


class Page(View, Generic[Item], frozen=True, kw_only=True):
    """One page of a listing; `nextCursor` leads to the next one, null ends it. A page may hold less
    than `limit`, even nothing, and others follow it all the same: one request looks through a
    bounded number of callbacks."""

    data: list[Item]
    next_cursor: str | None


class ErrorView(View, frozen=True, kw_only=True):
    """The one shape of every error."""

    error: str
    message: str
    details: dict[str, Any]
    request_id: str


class LineView(AcceptedView[Time], Generic[Time], frozen=True, kw_only=True):
    """What one line of a batch came to, where it was taken; else it is an error with `line`."""

    line: int


class LineErrorView(View, frozen=True, kw_only=True):
    """Why one line of a batch was not taken. `status` is that of the answer that it would have had
    alone."""

    line: int
    status: int
    error: str
    message: str
    details: dict[str, Any]
