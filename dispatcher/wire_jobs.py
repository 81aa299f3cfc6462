"""What crosses the wire about endpoints and jobs: see `wire.py`, whose rules hold here."""

from typing import Annotated, Any, Generic, Literal

from msgspec import UNSET, Meta, Raw, UnsetType, field

from dispatcher.jobs.endpoint import Event
from dispatcher.jobs.looks import WaitReason
from dispatcher.jobs.rules import ENDPOINT_NAME
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.values import JobPriority
from dispatcher.wire import Force, Overlap, PolicyChoice, Secret, Shape, Time, View

EndpointName = Annotated[
    str,
    Meta(
        pattern=f"^{ENDPOINT_NAME}$",
        description="Not one of `endpoints`, `jobs`, `projects` and `outputs`.",
        examples=["document-gen"],
    ),
]
Duration = Annotated[
    Annotated[float, Meta(ge=0)] | Annotated[str, Meta(max_length=32)],
    Meta(description="Seconds, or as `30s`, `15m`, `2h`, `7d`.", examples=["15m", 900]),
]
Size = Annotated[
    Annotated[int, Meta(ge=0)] | Annotated[str, Meta(max_length=32)],
    Meta(description="Bytes, or as `64KiB`, `10MiB`, `1GiB`.", examples=["10MiB"]),
]
Code = Annotated[int, Meta(ge=100, le=599)]


class RetryShape(Shape, frozen=True, kw_only=True):
    """Waits between calls that spend tries, and before one that could not be sent is sent."""

    base: Duration = 1
    factor: float = 2
    cap: Duration = 60


class KeepShape(Shape, frozen=True, kw_only=True):
    """For how long after a job's end its parts are kept."""

    input: Duration = "7d"
    output: Duration = "7d"
    job: Duration = "30d"


class CallbackShape(Shape, frozen=True, kw_only=True):
    """Where and how a job's end is told, where its request says nothing. `events`: what else of it
    is told, at most twice a second and never after its end."""

    policy: PolicyChoice | None = None
    destination: str | None = None
    events: list[Event] | None = None


class PriceShape(Shape, frozen=True, kw_only=True):
    """What a job costs, as its views and its callback tell it."""

    per_second: Annotated[float, Meta(ge=0)]


class CancelShape(Shape, frozen=True, kw_only=True):
    """What has the upstream stop working for a call that was closed before its end: a request to a
    `path` of its own server, or to a `url`, in which `{jobId}` is the job's id. Until it is over
    the call's place is taken."""

    method: Literal["POST", "PUT", "DELETE"] = "POST"
    path: str | None = None
    url: str | None = None


class HealthShape(Shape, frozen=True, kw_only=True):
    """How the upstream is asked how it is. After so many `failures` in a row its jobs wait, until
    it is well."""

    path: str
    every: Duration = 10
    timeout: Duration = 5
    failures: Annotated[int, Meta(ge=1)] = 2


class WakeShape(Shape, frozen=True, kw_only=True):
    """Who is told, by a signed POST, that work waits at an endpoint that had none; again each
    `every` while none of it is run."""

    url: str
    every: Duration = 30


class EndpointFields(Shape, frozen=True, kw_only=True):
    """The rules of an endpoint. They are read when a job is started: a change acts on what waits.
    In a change, null puts a field back to its default."""

    method: str | UnsetType = UNSET
    kind: Literal["http", "runpod", "cog"] | UnsetType = UNSET
    body: Literal["auto", "raw", "input", "envelope"] | UnsetType = UNSET
    concurrency: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    rate: Annotated[float, Meta(gt=0, description="Starts a second.")] | UnsetType | None = UNSET
    adaptive: bool | UnsetType = UNSET
    timeout: Duration | UnsetType | None = UNSET
    timeout_max: Duration | UnsetType | None = UNSET
    queue_timeout: Duration | UnsetType = UNSET
    delivery: Literal["at-least-once", "at-most-once"] | UnsetType = UNSET
    attempts: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    retry_on: list[Literal["unknown"] | Code] | UnsetType = UNSET
    repeat_within: Duration | UnsetType = UNSET
    busy: list[Code] | UnsetType = UNSET
    completion: Literal["response", "url"] | UnsetType = UNSET
    progress: bool | UnsetType = UNSET
    heartbeat_timeout: Duration | UnsetType | None = UNSET
    functions: list[str] | UnsetType = UNSET
    priority_scope: Literal["customer", "endpoint"] | UnsetType = UNSET
    on_disconnect: Literal["cancel", "keep"] | UnsetType = UNSET
    schema: (
        Annotated[
            dict[str, Any], Meta(description="JSON Schema 2020-12 of the input, no remote `$ref`.")
        ]
        | UnsetType
        | None
    ) = UNSET
    queue_max: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    queue_max_tenant: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    input_max: Size | UnsetType = UNSET
    output_max: Size | UnsetType = UNSET
    keep: KeepShape | UnsetType = UNSET
    headers: (
        Annotated[
            dict[str, str],
            Meta(
                description="Sent with each call, and never shown. `secret:NAME`, alone or behind "
                "one word, names a stored secret of the platform."
            ),
        ]
        | UnsetType
    ) = UNSET
    retry: RetryShape | UnsetType = UNSET
    callback: CallbackShape | UnsetType = UNSET
    cancel: Literal["close"] | CancelShape | UnsetType = UNSET
    cool_down: Duration | UnsetType = UNSET
    health: HealthShape | UnsetType | None = UNSET
    wake: WakeShape | UnsetType | None = UNSET
    price: PriceShape | UnsetType | None = UNSET
    expected_duration: Duration | UnsetType | None = UNSET
    expected_output: Size | UnsetType | None = UNSET
    tenants: list[str] | UnsetType = UNSET


class NewEndpoint(EndpointFields, frozen=True, kw_only=True):
    """An upstream to be known by name, and its rules."""

    name: EndpointName
    url: str


class EndpointChange(EndpointFields, frozen=True, kw_only=True):
    """The rules to change."""

    url: str | UnsetType = UNSET


class ApplyRequest(Shape, frozen=True, kw_only=True):
    """All endpoints that come from a file, by name, with their rules. With `dryRun` nothing is
    changed."""

    endpoints: (
        Annotated[
            dict[str, dict[str, Any]],
            Meta(max_length=1_000, description="The fields of an endpoint, without its name."),
        ]
        | UnsetType
    ) = UNSET
    dry_run: bool = False


class EndpointTest(Shape, frozen=True, kw_only=True):
    """What a test sends: an input as a job would bring it. With `path` it goes there: to one that
    sleeps, for instance, to see what cuts a long call."""

    input: Annotated[Raw, Meta(description="Any JSON; `{}` by default.")] | UnsetType = UNSET
    path: Annotated[str, Meta(min_length=1, max_length=1_024)] | None = None
    timeout: Annotated[float, Meta(gt=0, le=300, description="Seconds.")] = 30


class RotateEndpointSecret(Shape, frozen=True, kw_only=True):
    """A rotation of the secret that signs an endpoint's calls."""

    secret: Secret | None = None
    overlap: Overlap | None = None
    force: Force = False


class RevealEndpointSecret(Shape, frozen=True, kw_only=True):
    """Which secret to show: one by id, or the current one."""

    id: str | None = None


class Purge(Shape, frozen=True, kw_only=True):
    """Whose jobs: the tenant's own, or with `allTenants` everybody's. Without `callbacks` nobody
    is told of their end."""

    all_tenants: bool = False
    callbacks: bool = True


class SweepRequest(Shape, frozen=True, kw_only=True):
    """Which jobs. A filter is required; a dry run changes nothing."""

    filter: Annotated[
        dict[str, str],
        Meta(
            min_length=1,
            max_length=16,
            description="The listing's filters.",
            examples=[{"endpoint": "document-gen", "tag.team": "a"}],
        ),
    ]
    dry_run: bool = False


class Retry(Shape, frozen=True, kw_only=True):
    """A retry of one job. `force` also takes one that is completed."""

    force: bool = False


class EndpointView(View, Generic[Time], frozen=True, kw_only=True):
    """An endpoint as everybody sees it who may use it. `state`: `active`, `paused` (what waits
    stays, and more is taken), or `held` until `heldUntil` for `heldReason`: `circuit` (it cannot
    be reached), `retry-after` or `turned-away` (it asked for less), or `unhealthy` (its health
    check fails) until it is well. `capacity` is how many calls
    may be open now; `estimatedDuration`: half of its jobs take no longer. Platform keys alone are
    told how many jobs there are."""

    name: str
    state: str
    capacity: int
    queued: int | None = None
    running: int | None = None
    held_until: Time | None = None
    held_reason: str | None = None
    estimated_duration: float | None = None


class MeasureView(View, frozen=True, kw_only=True):
    """What half of so many measurements do not exceed, and 95 % of them; to some 20 %."""

    count: int
    p50: float | None = None
    p95: float | None = None


class MeasuresView(View, frozen=True, kw_only=True):
    """What was measured of an endpoint's jobs in the last seven days: how many seconds they waited
    for their first start, how many their last calls took, and how many bytes completed ones
    brought."""

    wait: MeasureView
    run: MeasureView
    output_bytes: MeasureView


class EndpointDetailView(EndpointView[Time], Generic[Time], frozen=True, kw_only=True):
    """An endpoint with its rules, as platform keys with the scope `admin` see it: values of
    headers never, only their names. `managed`: it comes from the server's own file, and is changed
    there. `rulesUnopened`: why its rules cannot be opened; until then nothing is run by them."""

    url: str
    managed: bool
    created_at: Time
    updated_at: Time
    rules: dict[str, Any]
    header_names: list[str] = field(default_factory=list)
    rules_unopened: str | None = None
    measured: MeasuresView | None = None


class MadeEndpointView(EndpointDetailView[Time], Generic[Time], frozen=True, kw_only=True):
    """An endpoint just made, with the secret that signs its calls: for its upstream, which verifies
    them by it."""

    secret: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


class EndpointSecretView(View, Generic[Time], frozen=True, kw_only=True):
    """A secret that signs calls, without the secret. `active`: it still signs."""

    id: str
    endpoint: str
    created_at: Time
    active: bool
    expires_at: Time | None = None
    revealed_at: Time | None = None


class ShownEndpointSecretView(EndpointSecretView[Time], Generic[Time], frozen=True, kw_only=True):
    """A secret that signs calls, with its value."""

    secret: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r})"


class ApplyView(View, frozen=True, kw_only=True):
    """What a file of endpoints changed, or would change, by name."""

    created: list[str]
    changed: list[str]
    removed: list[str]
    unchanged: list[str]


class LoadView(View, frozen=True, kw_only=True):
    """What a scaler of the upstream asks for. `wanted`: how many calls would run if there were room
    for all, those that run included."""

    queued: int
    running: int
    capacity: int
    wanted: int
    oldest_queued_seconds: float


class EndpointTestView(View, Generic[Time], frozen=True, kw_only=True):
    """One call of an upstream and what it met. `outcome`: `answered` with a `statusCode`, or what
    came instead: `not_sent`, `unknown`, `broken_off`, `timeout`, `too_large`, `no_room` or
    `interrupted`;
    `detail` is the true reason. `connectedMs` and `headMs`: until there was a connection, and until
    the head of an answer. `advice`: what cut it, and what to do about it."""

    started_at: Time
    duration_ms: float
    outcome: str
    status_code: int | None = None
    error: str | None = None
    detail: str | None = None
    address: str | None = None
    connected_ms: float | None = None
    head_ms: float | None = None
    advice: str | None = None
    content_type: str | None = None
    output_excerpt: str | None = None


class SubmittedJobView(View, Generic[Time], frozen=True, kw_only=True):
    """The job is on disk, and runs or waits. `duplicate`: it came before, with the same
    idempotency key; `status` is its present state."""

    id: str
    endpoint: str
    status: JobState
    created_at: Time
    duplicate: bool
    position: int | None = None


class OutputRefView(View, Generic[Time], frozen=True, kw_only=True):
    """Where an output is fetched that is not shown here: it is neither JSON nor text, or long."""

    url: str
    size: int
    content_type: str
    sha256: str | None = None
    expires_at: Time | None = None


class JobCallbackView(View, frozen=True, kw_only=True):
    """The callback that tells the end of the last run that ended: its id, and its delivery's
    state."""

    id: str
    status: str


class JobView(View, Generic[Time], frozen=True, kw_only=True):
    """A job as it is listed. `attempts`: calls of this run that went out; `run` counts from 1, one
    more with each retry."""

    id: str
    endpoint: str
    status: JobState
    run: int
    attempts: int
    priority: JobPriority
    tags: dict[str, str]
    created_at: Time
    reason: JobReason | None = None
    started_at: Time | None = None
    ended_at: Time | None = None
    status_code: int | None = None


class JobDetailView(JobView[Time], Generic[Time], frozen=True, kw_only=True):
    """A job shown alone. While it waits: `position` in its queue (1 is next; `positionExactly`
    false: about), `waitingFor`: `capacity`, `paused`, `unhealthy` (its endpoint's
    health check fails), `held` (for `heldReason`), `rate`,
    `not_before` (its own time) or `tenant_limit` (as many of its tenant's jobs run as may,
    `jobsRunningMax`), and until when that is so, if it is known. `progress` (0 to 100),
    `currentStep` and `metadata` are what its upstream reported last, `log` the last lines of its
    log. `output` is JSON as the
    upstream wrote it, or text; `outputRef` where it is neither, or long. `error` says what went
    wrong: the upstream's own words where it had any."""

    position: int | None = None
    position_exactly: bool = True
    waiting_for: WaitReason | None = None
    waiting_until: Time | None = None
    held_reason: str | None = None
    estimated_start: Time | None = None
    estimated_completion: Time | None = None
    progress: float | None = None
    current_step: str | None = None
    metadata: Raw | UnsetType = UNSET
    log: str | None = None
    output: Raw | UnsetType = UNSET
    output_ref: OutputRefView[Time] | None = None
    error: str | None = None
    cost: float | None = None
    callback: JobCallbackView | None = None


class JobAttemptView(View, Generic[Time], frozen=True, kw_only=True):
    """One call of the upstream. `outcome`: `answered` with a `statusCode`, or what came instead:
    `not_sent`, `unknown`, `broken_off`, `timeout`, `too_large`, `no_room`, `cancelled` or
    `interrupted`."""

    run: int
    n: int
    started_at: Time
    duration_ms: float
    outcome: str
    status_code: int | None = None
    error: str | None = None


class PurgedView(View, frozen=True, kw_only=True):
    """How many jobs waited: none of them will start. They are cancelled, and told so, in the
    background."""

    purged: int


class SweepView(View, Generic[Time], frozen=True, kw_only=True):
    """A purge, a bulk cancel or a bulk retry: `done` and `skipped` (they had gone on by themselves)
    grow up to `matched`. With `matchedExactly` false at least so many match."""

    id: str
    what: Literal["purge", "cancel", "retry"]
    state: str
    matched: int
    done: int
    skipped: int
    created_at: Time
    filter: dict[str, str] = field(default_factory=dict)
    endpoint: str | None = None
    finished_at: Time | None = None
    matched_exactly: bool = True


class UsageView(View, frozen=True, kw_only=True):
    """What a tenant used of one endpoint on one day (UTC)."""

    day: str
    endpoint: str
    runs: int
    failed: int
    seconds: float
    bytes: int
    cost: float
