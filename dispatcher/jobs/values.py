"""The values that modules hand to each other about jobs: frozen, and free of IO."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal

from dispatcher.jobs.blobs import Blob, held_bytes
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.policy import Policy
from dispatcher.values import Delivery, Headers, Unopened
from receiver.base.value import frozen

Dialect = Literal["v1", "tensorone", "runpod", "cerebrium"]
JobPriority = Literal["high", "normal", "low"]

# A queue's classes, in the order in which they are served.
HIGH: Final = 0
NORMAL: Final = 1
LOW: Final = 2
CLASS_OF: Final[Mapping[JobPriority, int]] = {"high": HIGH, "normal": NORMAL, "low": LOW}


@frozen
class CallbackTarget:
    """Where a job's end is told, checked when the job was submitted: a URL or a registered
    destination's name, with the ids of its destination and lane. `policy_text` is what is stored
    and `policy` what it says, both None for the destination's own."""

    url: str | None
    destination_name: str | None
    destination: str
    lane: str
    headers: Headers = field(default=(), repr=False)
    policy_text: str | None = None
    policy: Policy | None = None


@frozen
class JobOptions:
    """What a request said beside its body, stored with the job as one JSON text.

    `headers` are those of the caller that its upstream is to see (an allow-list). `sync` marks a
    call that somebody waits for on the same connection: it is never repeated once it was sent.
    `waited`: it was submitted by one who waits for it, and may be asked for as any other; RunPod
    spells its id so. `limit_s` and `ttl_s` are the request's own run limit and time to live.
    """

    function: str | None = None
    headers: Headers = ()
    callback: CallbackTarget | None = None
    sync: bool = False
    waited: bool = False
    limit_s: float | None = None
    ttl_s: float | None = None


@frozen
class NewJob:
    """A validated job, ready to be stored. `key` is its idempotency key's digest, if any, and
    `content` what it must come with again. `expires_ms` is when it ends unless it has begun.
    `secret` is kept sealed only, and shown to nobody: RunPod's `s3Config`, as JSON, for the
    upstream; Cerebrium's webhook secret, for the callback. Of a long input there is a `blob`
    instead of its `body`."""

    id: str  # 32 hexadecimal digits: a UUIDv7
    tenant: str
    endpoint: str
    dialect: Dialect
    priority: JobPriority
    body: bytes = field(repr=False)
    content_type: str
    options: JobOptions
    secret: str | None = field(default=None, repr=False)
    tags: tuple[tuple[str, str], ...] = ()
    key: bytes | None = None
    content: bytes
    created_ms: int
    not_before_ms: int | None = None
    expires_ms: int
    blob: Blob | None = None

    @property
    def size(self) -> int:
        """How many bytes its input has."""
        return len(self.body) if self.blob is None else self.blob.size

    @property
    def held_bytes(self) -> int:
        """How much of that is in memory."""
        return len(self.body) if self.blob is None else held_bytes(self.blob.size)


@frozen
class ClaimedJob:
    """One job that this process runs now: all that its call and its judgement need, and the claim
    that alone may settle it. Times are by this process's clock. Its body is there until the call's
    request is out: what runs again is claimed again."""

    id: str
    tenant: str
    endpoint: str
    dialect: Dialect
    priority: JobPriority
    run: int  # from 1; one more with each retry by a user
    claim: int  # grows with each claim
    calls: int  # calls of this run that went out before this one
    tries: int  # tries of this run's budget spent before this one
    turned_away: int  # how often in this run, while others of its endpoint were answered
    interruptions: int  # processes that died while they ran it
    body: bytes = field(repr=False)
    content_type: str
    options: JobOptions
    secret: str | None = field(default=None, repr=False)
    tags: tuple[tuple[str, str], ...] = ()
    created_ms: int
    queued_ms: int  # when this run was queued
    started_ms: int  # when this run was first claimed
    claimed_ms: int
    expires_ms: int  # when it ends unless it has begun by then
    ends_ms: int | None  # its own time to live
    epoch: int = 0  # of the endpoint: what it may learn from this call
    unopened: Unopened | None = None  # then body, options, secret are not there: nothing goes out
    blob: Blob | None = None  # instead of a long body

    @property
    def held_bytes(self) -> int:
        """How much of its input is in memory."""
        return len(self.body) if self.blob is None else held_bytes(self.blob.size)

    def let_go(self) -> None:
        """Let go of its body, the one thing of it that takes memory: whoever has the job shares
        it."""
        object.__setattr__(self, "body", b"")


@frozen
class SubmittedJob:
    """What a submit came to. `claimed` is set when it was handed straight over; `position` is its
    place in its queue (1: next), where that was asked for and it waits."""

    id: str
    tenant: str
    endpoint: str
    state: JobState
    run: int
    created_ms: int
    duplicate: bool
    claimed: ClaimedJob | None = None


CallKind = Literal[
    "answered",  # a complete answer, whatever its code
    "not_sent",  # name, route, TLS or connect failed: nothing went out
    "unknown",  # lost after the request, or a part of it, went out
    "broken_off",  # the answer broke off after its status line
    "timeout",  # the run limit or its own time to live passed
    "silent",  # no sign of life for longer than its endpoint's heartbeat_timeout
    "too_large",  # an answer longer than the endpoint takes
    "no_room",  # an answer that there was no room for, or that could not be stored
    "cancelled",  # closed because the job was cancelled or lost
    "interrupted",  # closed by us: we stop, or lacked something ourselves (D21)
]


@frozen
class Output:
    """An upstream's answer as it is kept: its bytes and type as they came. Of a long one these are
    kept as a `blob`, and `body` is its beginning, or nothing."""

    body: bytes = field(repr=False)
    content_type: str
    headers: Headers = ()  # an allow-list
    blob: Blob | None = None

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.body) if self.blob is None else self.blob.size

    @property
    def is_here(self) -> bool:
        """Whether `body` is all of it."""
        return self.blob is None or len(self.body) == self.blob.size

    @property
    def sha256(self) -> str:
        """The digest of its bytes, in hexadecimal digits."""
        return sha256(self.body).hexdigest() if self.blob is None else self.blob.sha256.hex()


@frozen
class CallOutcome:
    """What one call of an upstream met: a peer's faults are values. `error` may be shown to the
    tenant; `detail` is for our own log only (it may tell where the upstream lives).

    `sent` says whether any byte of the request may have reached the upstream. `output` is what
    came of a body, if there was one (of a broken one: what arrived). Of an answer that came in
    chunks, `chunks` is how many these were, and the output their JSON array.
    """

    kind: CallKind
    sent: bool
    started_ms: int
    duration_ms: float
    status_code: int | None = None
    output: Output | None = None
    error: str | None = None
    detail: str | None = None
    retry_after_ms: int | None = None  # as asked for, but never above DISPATCHER_RETRY_AFTER_MAX
    no_retry: bool = False  # the upstream's `Postback-Retry: no`
    by_url: bool = False  # the upstream's `Postback-Complete: url`
    failed: bool = False  # a 2xx of an upstream whose kind says in its answer that it failed
    lack: str | None = None  # of an interrupted one: what we lacked, in one word
    chunks: int | None = None

    def began_ms(self, now_ms: int) -> int:
        """Return since when a call has been out that was answered now: by how long it lasted, since
        the clock may have been set meanwhile."""
        return now_ms - round(self.duration_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChunks:
    """Chunks of a call, `size` of them from number `n` on, as a JSON array; they are stored only
    while its claim is the current one."""

    job: str
    tenant: str
    endpoint: str
    run: int
    claim: int
    n: int
    size: int
    body: bytes = field(repr=False)


@frozen
class JobVerdict:
    """What follows from a call: the job's next state and the reason beside it; for another call
    when it is due, when it ends unless that has begun (None: as before), and whether a try was
    spent. `turned_away`, in any state, is what its endpoint's window and hold learn from it, and
    counts against the job while others were answered: see `jobs.health`. Of one that its upstream
    is to end by URL (`running`) `limit_ms` is when its run limit is over, and `look_ms` when it is
    looked at before."""

    state: JobState
    reason: JobReason | None = None
    due_ms: int | None = None
    expires_ms: int | None = None
    spent: bool = False
    turned_away: bool = False
    error: str | None = None  # to show; of a failed one with a body, the body is its error
    limit_ms: int | None = None
    look_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobByUrl:
    """A job whose call is out, to be ended by its upstream: `called_ms` is since when, `limit_ms`
    when its run limit is over (None while a process holds its call), and `sign_ms` when it last
    gave a sign of life, by this process's clock."""

    job: ClaimedJob
    called_ms: int
    limit_ms: int | None
    sign_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Progress of a job, under the claim that its upstream was called under."""

    job: str
    claim: int
    progress: Progress


@frozen
class JobSettlement:
    """The end of one call. Fenced: recorded only while `job.claim` is the current one, and with it
    the output, the callback of a final state, and what the endpoint learns. `cost` is what a run
    that ended is counted with. `releasing`: its upstream is to be stopped yet, and its place is
    taken until then (`freed`)."""

    job: ClaimedJob
    outcome: CallOutcome
    verdict: JobVerdict
    random: float  # spreads holds
    now_ms: int
    cost: float = 0.0
    releasing: bool = False


@frozen
class SettledJob:
    """What came of a settlement: whether the claim was still the current one, the state after it,
    the id of the callback that tells it, if any, and its delivery where that was handed over."""

    recorded: bool
    state: JobState
    callback: str | None = None
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedJob:
    """What a cancel or a retry came to: the job's state after it, whether that was its doing
    (`changed`), and the process that has its call open still, if any."""

    id: str
    tenant: str
    endpoint: str
    state: JobState
    reason: JobReason | None
    run: int
    changed: bool
    process: str | None = None


@dataclass(frozen=True, slots=True)
class HeldJob:
    """What the database says that a process runs: a job under its current claim, or (`releasing`)
    the call of one that has ended."""

    id: str
    claim: int
    releasing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningLimits:
    """How many jobs of a tenant may run at once, over all endpoints and processes: as many as its
    `own` limit says, else the `default` (None: any number)."""

    default: int | None = None
    own: Mapping[str, int] = field(default_factory=dict)

    def of(self, tenant: str) -> int | None:
        """Return a tenant's."""
        return self.own.get(tenant, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClaimRequest:
    """How much a process can start now: `places` of its `places_max`, with `bytes_free` of inputs
    of `bytes_max`. They are the `part` of what is free that is for claims, and leave as much of
    `process` is who claims; `limits` are those of tenants, None where none has one."""

    process: str
    places: int
    places_max: int
    bytes_free: int
    bytes_max: int
    part: float = 1.0
    busy: Mapping[str, int] = field(default_factory=dict)
    busy_bytes: Mapping[str, int] = field(default_factory=dict)
    limits: RunningLimits | None = None
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAttempt:
    """One call, as history keeps it."""

    run: int
    n: int
    started_ms: int
    duration_ms: float
    outcome: str
    status_code: int | None = None
    error: str | None = None
    process: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job, as views show it. `output` is there where it was asked for and small enough; while
    its options are `unopened`, they are not."""

    id: str
    tenant: str
    endpoint: str
    dialect: Dialect
    state: JobState
    reason: JobReason | None
    priority: JobPriority
    run: int
    calls: int
    tags: tuple[tuple[str, str], ...]
    options: JobOptions
    created_ms: int
    queued_ms: int
    due_ms: int
    started_ms: int | None
    ended_ms: int | None
    expires_ms: int
    status_code: int | None
    error: str | None
    callback: str | None
    output_bytes: int | None
    output_type: str | None
    releasing: bool
    epoch: int
    ticket: int
    output: Output | None = None
    unopened: Unopened | None = None
    progress: Progress | None = None  # of its present run's last call, where that is asked for
