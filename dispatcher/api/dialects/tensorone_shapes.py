"""What crosses the wire on TensorOne's routes: see `dispatcher/wire.py`, whose rules hold here."""

from typing import Annotated, Any, Generic, Literal

from msgspec import UNSET, Meta, Raw, UnsetType, field

from dispatcher.jobs.states import JobState
from dispatcher.jobs.values import JobPriority
from dispatcher.wire import Shape, Tags, Time, Url, View
from dispatcher.wire_jobs import Duration


class Execution(Shape, frozen=True, kw_only=True):
    """What an endpoint is to do. `async` says what its path says. `timeout`: how long it may
    run."""

    input: Annotated[Raw, Meta(description="An object.", extra_json_schema={"type": "object"})]
    is_async: bool | None = field(default=None, name="async")
    callback_url: Url | None = None
    priority: Literal["normal", "high"] = "normal"
    tags: Tags = field(default_factory=dict)
    timeout: Duration | None = None


class ExecutionView(View, Generic[Time], frozen=True, kw_only=True):
    """The job is on disk, and runs or waits. `estimatedDuration` is in seconds: half of the
    endpoint's jobs take no longer; a minute while nothing is known."""

    job_id: str
    status: JobState
    endpoint_id: str
    priority: JobPriority
    estimated_duration: int
    created_at: Time
    status_url: str
    tags: dict[str, str]


class ListedView(View, Generic[Time], frozen=True, kw_only=True):
    """A job as it is listed."""

    job_id: str
    status: JobState
    endpoint_id: str
    priority: JobPriority
    tags: dict[str, str]
    created_at: Time
    started_at: Time | None = None
    completed_at: Time | None = None


class JobStatusView(ListedView[Time], Generic[Time], frozen=True, kw_only=True):
    """A job shown alone. While it goes on, where that is known: `estimatedCompletion`, and what its
    upstream reported: `progress` (0 to 100), `currentStep` and `metadata`. Once it has ended, all
    that its callback says: `output` is JSON as the upstream wrote it, text as a string, or where to
    fetch what is neither or long; `executionTime` is in seconds; `error` says what went wrong."""

    estimated_completion: Time | None = None
    progress: float | None = None
    current_step: str | None = None
    metadata: Raw | UnsetType = UNSET
    output: Raw | UnsetType = UNSET
    execution_time: float | None = None
    cost: float | None = None
    error: str | None = None


class JobsView(View, Generic[Time], frozen=True, kw_only=True):
    """One page of jobs, newest first."""

    jobs: list[ListedView[Time]]
    next_cursor: str | None


class ResultView(View, frozen=True, kw_only=True):
    """What came of a job that completed. `executionTime` is in seconds; `metadata` holds `jobId`
    and `cost`."""

    output: Raw
    execution_time: float
    status: JobState
    metadata: dict[str, Any]
