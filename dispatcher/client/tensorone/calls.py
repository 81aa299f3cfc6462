"""Every call of TensorOne's routes as a value."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from dispatcher.client.calls import build, read
from dispatcher.client.errors import InputGone
from dispatcher.client.events import Event
from dispatcher.client.tensorone.results import Chunk, Execution, Job, JobPage, JobStatus
from dispatcher.client.transport import Call

T = TypeVar("T")

ROOT: Final = "/v2"
HOLD_S: Final = 300
"""The longest that a synchronous execution is waited for."""
_FILTERS: Final = {"status": "status", "endpoint_id": "endpointId", "tags": "tag.KEY"}
_EVENTS: Final = (("Accept", "text/event-stream"),)


def execute_async(
    endpoint_id: str,
    input: Any,
    callback_url: str | None = None,
    tags: Mapping[str, str] | None = None,
    priority: str | None = None,
    *,
    timeout: float | str | None = None,
    idempotency_key: str | None = None,
) -> Call[Job]:
    """Have an endpoint run a job in the background: its end is told to `callback_url`, or asked
    for. `priority` is `normal` or `high`, `timeout` how long a call may take (seconds, or as
    `15m`). One whose answer was lost is sent again, and is the same job."""
    fields = {
        "input": input,
        "async": True,
        "callbackUrl": callback_url,
        "priority": priority,
        "tags": None if tags is None else dict(tags),
        "timeout": timeout,
    }
    return _execute(Job, endpoint_id, "runasync", fields, idempotency_key)


def execute(
    endpoint_id: str,
    input: Any,
    tags: Mapping[str, str] | None = None,
    priority: str | None = None,
    *,
    timeout: float | str | None = None,
    idempotency_key: str | None = None,
) -> Call[Execution]:
    """Have an endpoint run a job, and wait for its output."""
    fields = {
        "input": input,
        "priority": priority,
        "tags": None if tags is None else dict(tags),
        "timeout": timeout,
    }
    return _execute(Execution, endpoint_id, "runsync", fields, idempotency_key, HOLD_S)


def _execute(
    type: type[T],
    endpoint: str,
    verb: str,
    fields: Mapping[str, Any],
    key: str | None,
    hold_s: int = 0,
) -> Call[T]:
    return Call(
        method="POST",
        root=ROOT,
        path=build.path("endpoints", endpoint, verb),
        read=read.json(type),
        repeatable=True,
        headers=build.key(key or uuid.uuid4().hex),
        body=build.dumps({"input": None} | build.given(fields)),
        content_type=build.JSON,
        hold_s=hold_s,
    )


def get_status(job_id: str) -> Call[JobStatus]:
    """Return a job as it is now. Raises NotFound."""
    return _call("GET", job_id, "status")


def watch_status(job_id: str) -> Call[JobStatus]:
    """Return a job's updates as they come, until its end: a stream of events."""
    return _call("GET", job_id, "status", headers=_EVENTS)


Update: TypeAlias = JobStatus | Chunk


def read_update(event: Event) -> Update | None:
    """Return an event of such a stream; None for one that is not known here."""
    if event.name == "output":
        return read.decode(event.data, Chunk, 200)
    return None if event.name else read.decode(event.data, JobStatus, 200)


def is_new(chunks: Sequence[object], one: Chunk) -> bool:
    """Whether a chunk is another one than was there, or comes next: a stream that is begun again
    tells all of them again."""
    return one.index >= len(chunks) or chunks[one.index] != one.output


def cancel(job_id: str) -> Call[JobStatus]:
    """Cancel a job. One that has ended stays as it is. Raises NotFound."""
    return _call("POST", job_id, "cancel")


def retry(job_id: str) -> Call[JobStatus]:
    """Run a job again that failed, timed out or was cancelled. Raises NotFound, Conflict and
    InputGone."""
    return _call("POST", job_id, "retry", repeatable=False, errors={"PAYLOAD_GONE": InputGone})


def _call(method: str, id: str, verb: str, *, repeatable: bool = True, **more: Any) -> Call[Any]:
    return Call(
        method=method,
        root=ROOT,
        path=build.path("jobs", id, verb),
        read=read.json(JobStatus),
        repeatable=repeatable,
        **more,
    )


def list_jobs(
    *,
    status: str | None = None,
    endpoint_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Call[JobPage]:
    """Up to `limit` jobs in this state, of this endpoint and with these tags, newest first, from
    `cursor` on."""
    chosen = build.given({"status": status, "endpoint_id": endpoint_id, "tags": tags})
    filters = build.filters(chosen, _FILTERS, "jobs")
    return Call(
        method="GET",
        root=ROOT,
        path=build.path("jobs"),
        read=read.json(JobPage),
        repeatable=True,
        params=(*filters.items(), *build.paging(cursor, limit)),
    )


def server_of(base_url: str) -> str:
    """Return the server's URL, with or without the version of the routes at its end."""
    return base_url.rstrip("/").removesuffix(ROOT)
