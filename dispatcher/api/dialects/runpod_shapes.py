"""What crosses the wire on RunPod's routes: see `dispatcher/wire.py`, whose rules hold here; but
keys that are not known are thrown away, as it promises."""

from typing import Annotated, Any, Final, Generic, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dispatcher.dialects.runpod import Status
from dispatcher.wire import Item, Url, View

EXECUTION_MS_MIN: Final = 5_000
EXECUTION_MS_MAX: Final = 604_800_000
TTL_MS_MIN: Final = 10_000
TTL_MS_MAX: Final = 2_592_000_000


class Envelope(Struct, frozen=True, kw_only=True, rename="camel"):
    """The ground of requests: unknown keys are thrown away."""


class ExecutionPolicy(Envelope, frozen=True, kw_only=True):
    """How a job is run. Times are milliseconds: `executionTimeout` counts while it runs, 24 hours
    unless its endpoint says otherwise; `ttl` counts from its submit on. `lowPriority`: when nothing
    else waits."""

    execution_timeout: Annotated[int, Meta(ge=EXECUTION_MS_MIN, le=EXECUTION_MS_MAX)] | None = None
    ttl: Annotated[int, Meta(ge=TTL_MS_MIN, le=TTL_MS_MAX)] | None = None
    low_priority: bool | None = None


class S3Config(Envelope, frozen=True, kw_only=True):
    """Where a worker puts what it makes."""

    access_id: str | None = None
    access_secret: str | None = None
    bucket_name: str | None = None
    endpoint_url: str | None = None
    object_path: str | None = None


S3_NAMES: Final = ("accessId", "accessSecret", "bucketName", "endpointUrl", "objectPath")


class RunRequest(Envelope, frozen=True, kw_only=True):
    """A job. `webhook`, or `webhookV2`, is where its end is told."""

    input: Annotated[Raw, Meta(description="An object.", extra_json_schema={"type": "object"})]
    webhook: Url | None = None
    webhook_v2: Url | None = None
    policy: ExecutionPolicy | None = None
    s3_config: (
        Annotated[
            Raw,
            Meta(
                description="For the worker alone: kept sealed, and never shown. Texts by the "
                f"names {', '.join(S3_NAMES)}.",
                extra_json_schema={"type": "object"},
            ),
        ]
        | UnsetType
    ) = UNSET


class TakenView(View, frozen=True, kw_only=True):
    """A job that was taken, or is to run again; of one that came before, with its key, what it
    does."""

    id: str
    status: Status


class RequestView(View, frozen=True, kw_only=True):
    """A job without what came of it. `delayTime` is how long it waited, and `executionTime` how
    long it has been running or ran, in milliseconds; `retries` how often it was run again."""

    id: str
    status: Status
    delay_time: int | None = None
    execution_time: int | None = None
    retries: int | None = None


class RequestDetailView(View, frozen=True, kw_only=True):
    """A job. `output` is what its upstream answered, or while it runs what it reported last;
    `error` says why it ended otherwise, in the upstream's own words where there are any."""

    id: str
    status: Status
    delay_time: int | None = None
    execution_time: int | None = None
    retries: int | None = None
    output: Any = None
    error: str | None = None


class ChunkView(View, frozen=True, kw_only=True):
    """A piece of an output."""

    output: Any


class StreamView(View, frozen=True, kw_only=True):
    """What is new of a job's output."""

    status: Status
    stream: list[ChunkView]


class PurgeView(View, frozen=True, kw_only=True):
    """How many jobs waited, and will not run."""

    removed: int
    status: Literal["completed"]


class JobCounts(View, frozen=True, kw_only=True):
    """The tenant's own jobs at the endpoint; `failed` are all runs that ended without success."""

    completed: int
    failed: int
    in_progress: int
    in_queue: int
    retried: int


class WorkerCounts(View, frozen=True, kw_only=True):
    """The calls that the endpoint may have open at once, whoever's they are: `throttled` are those
    that it may not have for now."""

    idle: int
    initializing: int
    ready: int
    running: int
    throttled: int


class HealthView(View, frozen=True, kw_only=True):
    """What an endpoint has to do, and may do."""

    jobs: JobCounts
    workers: WorkerCounts


class RequestsView(View, Generic[Item], frozen=True, kw_only=True):
    """A page of jobs; `nextCursor` leads to the next one, null ends it."""

    requests: list[Item]
    next_cursor: str | None
