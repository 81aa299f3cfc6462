"""What looking at jobs returns, beside the jobs themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dispatcher.jobs.blobs import Blob
from dispatcher.jobs.endpoint import HeldReason
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.states import JobState
from dispatcher.jobs.values import Job, Output

WaitReason = Literal[
    "paused", "unhealthy", "held", "not_before", "tenant_limit", "rate", "capacity"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Jobs, newest first, and the id to go on after (None at the end)."""

    jobs: Sequence[Job]
    next_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """The bytes that a job was submitted with, and their type; of a long one they are a `blob`."""

    body: bytes = field(repr=False)
    content_type: str
    blob: Blob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedOutput:
    """What a run of a job brought, and when it had ended, by the database's clock."""

    tenant: str
    endpoint: str
    ended_ms: int
    output: Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """What has come of a call in chunks: `values`, from number `first` on, of `total` until now.
    They are those of `claim`: another one means that the call was repeated, and began anew."""

    state: JobState
    run: int
    claim: int
    first: int = 0
    values: tuple[bytes, ...] = field(default=(), repr=False)
    total: int = 0

    @property
    def is_all(self) -> bool:
        """Whether nothing more has come than these."""
        return self.first + len(self.values) >= self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOut:
    """What was handed out of a stream that hands out each chunk once: `values`, or the `whole`
    output of a job that completed. `is_last`: nothing more has come."""

    state: JobState
    run: int
    values: tuple[bytes, ...] = field(default=(), repr=False)
    whole: bool = False
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """How far somebody has followed a job: the claim, and how many of its chunks."""

    job: str
    claim: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNews:
    """How a job stands, for who follows it; while it runs, with its new `chunks`, and what its
    present call has told of its `progress`, which it did `signs` times."""

    job: str
    state: JobState
    run: int
    claim: int
    chunks: Chunks | None = None
    progress: Progress | None = field(default=None, repr=False)

    @property
    def signs(self) -> int:
        """How often it told of it."""
        return 0 if self.progress is None else self.progress.n


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWait:
    """Why a job waits, and for how many. `position` is its place in its own queue, 1 for the next;
    far back not `exact`. `ahead` is how many its endpoint is to have begun before it, those that
    run included, where its queues take turns. `until_ms` is when a hold ends (`held`, for
    `held_reason`), its own time comes or its endpoint's rate allows a start."""

    position: int
    exact: bool
    ahead: int
    reason: WaitReason
    until_ms: int | None = None
    held_reason: HeldReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLoad:
    """What a tenant has at an endpoint: jobs that wait and run, and of its runs since it came, how
    many completed, failed (or were stopped), and were asked for again."""

    queued: int
    running: int
    completed: int
    failed: int
    retried: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobUsage:
    """What a customer used of an endpoint on a day (days since the Unix epoch): runs that had begun
    and ended, how many of them did not complete, how long their last calls took, what they cost,
    and the bytes of their outputs."""

    tenant: str
    endpoint: str
    day: int
    runs: int
    failed: int
    run_ms: int
    cost: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCount:
    """How many jobs a bulk change made now would match (not `exact`: at least), and the newest of
    them."""

    matched: int = 0
    exact: bool = True
    sample: Sequence[Job] = ()

    def plus(self, matched: int, *, exact: bool, sample: Sequence[Job]) -> "SweepCount":
        """Return this count and another one."""
        return SweepCount(
            matched=self.matched + matched,
            exact=self.exact and exact,
            sample=(*self.sample, *sample),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSweep:
    """A change of many jobs: a purge, a bulk cancel or a bulk retry, and how far it is: of those
    that `matched` (not `matched_exactly`: at least) so many were changed (`done`), and so many were
    not (`skipped`), since something else had happened to them."""

    id: str
    tenant: str
    what: Literal["purge", "cancel", "retry"]
    endpoint: str | None
    filter: Mapping[str, str]
    callbacks: bool
    matched: int
    matched_exactly: bool
    done: int
    skipped: int
    state: Literal["running", "completed", "cancelled"]
    created_ms: int
    ended_ms: int | None
