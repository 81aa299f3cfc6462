"""What TensorOne's routes answer, typed, with aware datetimes in UTC. Fields that are not known
here are ignored."""

from datetime import datetime
from typing import Any, Final

from msgspec import Struct, field

FINAL: Final = frozenset({"completed", "failed", "cancelled", "timeout"})


class Job(Struct, frozen=True, kw_only=True, rename="camel"):
    """A job that was taken. `estimated_duration` is in seconds."""

    job_id: str
    status: str
    endpoint_id: str | None = None
    priority: str | None = None
    estimated_duration: float | None = None
    created_at: datetime | None = None
    status_url: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


class JobStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """A job as it is now: `queued`, `running`, `completed`, `failed`, `cancelled` or `timeout`.
    `progress` (0 to 100), `current_step` and `metadata` are what its function told of it, `output`
    is there once it is completed, `error` where it was not. While one is watched whose answer comes
    in chunks, `output` is the list of those that have come."""

    job_id: str
    status: str
    endpoint_id: str | None = None
    priority: str | None = None
    progress: float | None = None
    current_step: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    estimated_completion: datetime | None = None
    execution_time: float | None = None
    output: Any = None
    error: str | None = None
    cost: float | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.status in FINAL


class Chunk(Struct, frozen=True, kw_only=True):
    """One chunk of an answer that comes in chunks, and its number, from 0."""

    index: int
    output: Any


class Execution(Struct, frozen=True, kw_only=True, rename="camel"):
    """What came of a job that was waited for. `execution_time` is in seconds. One that takes longer
    than the service waits is still `queued` or `running`: ask for it by its `job_id`."""

    status: str
    output: Any = None
    execution_time: float | None = None
    metadata: dict[str, Any] | None = None
    error: str | None = None
    job_id: str | None = None


class JobPage(Struct, frozen=True, kw_only=True, rename="camel"):
    """One page of a listing; `next_cursor` leads to the next one."""

    jobs: list[JobStatus]
    next_cursor: str | None = None
