"""Which job a verified message names, and with which status, in the three founding dialects. Pure.

    platform    job             status                      without a job
    tensorone   `jobId`       `status`, lower case      opaque: known by its signed id
    runpod      `id`          `status`, upper case      opaque: known by its signed id
    cerebrium   X-Request-Id    none: a body is a result    opaque: known by its signed id

Where signed headers name the job (v1j), they are what counts, whatever the body says or is.
`auto` takes a body with `jobId` for the first and one with `id` and a status of RunPod's
spelling for the second. What may be a job's id or status is in `receiver.base.completion`.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from receiver.base.completion import (
    DEPTH_MAX,
    JOB_ID_CHARS_MAX,
    UNKNOWN,
    ParseError,
    Reason,
    as_sent,
    is_job_id,
    names_two,
    parse,
    unread_status,
)
from receiver.signature import Job

Platform: TypeAlias = Literal["tensorone", "runpod", "cerebrium", "other"]
Dialect: TypeAlias = Literal["auto", "tensorone", "runpod", "cerebrium"]

DIALECTS: Final = ("auto", "tensorone", "runpod", "cerebrium")
_RUNPOD_STATUSES: Final = frozenset(
    {"IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
)
# One of these makes a body a report on a job; without any it is the job's bare result.
_REPORTED: Final = ("jobId", "status", "output", "error")


@dataclass(slots=True, kw_only=True)
class Identity:
    """What a message says of itself; `status` as sent. Without a job it is opaque. `run` is there
    where it is signed; `unread` is why the body could not be read. Not frozen, as `Message`."""

    job_id: str | None
    status: str | None
    run: int | None = None
    platform: Platform = "tensorone"
    document: Any = field(default=None, compare=False, repr=False)
    unread: Reason | None = field(default=None, compare=False)


def identify(
    body: bytes,
    message_id: str | None,
    *,
    job: Job | None = None,
    request_id: str | None = None,
    is_vouched: bool = False,
    dialect: Dialect = "auto",
    depth_max: int = DEPTH_MAX,
) -> Identity:
    """Return the job and status that a verified message names, or ParseError.

    The bytes alone decide, never the Content-Type: that header is not signed. `job` is what signed
    headers name, `request_id` the X-Request-Id that Cerebrium names its jobs by, `is_vouched`
    whether the request as a whole is trusted, by its URL. A message that names itself, by a
    job's id that can be read or by its signed `message_id`, is never refused for what its body is;
    one that names nothing, or two jobs, is.
    """
    document, unread = read(body, depth_max=depth_max)
    fields = document if isinstance(document, dict) else {}
    reason = None if unread is None else unread.reason
    if job is not None and job.id is not None:
        return _named_by_headers(body, job, document, reason, dialect)
    if request_id is not None or dialect == "cerebrium":
        if request_id is None and message_id is None and not is_vouched:
            raise ParseError("identity", "the message has no signed id", "X-Request-Id")
        status = None if job is None else job.status
        return Identity(
            job_id=request_id,
            status=status,
            platform="cerebrium",
            document=document,
            unread=reason,
        )
    platform, name = platform_of(fields, dialect)
    if unread is not None and (message_id is None or names_two(body, name)):
        raise unread
    job_id = _job_id(fields, name, is_named=message_id is not None)
    return Identity(
        job_id=job_id,
        status=_status(fields, job, unread),
        run=None if job is None else job.run,
        platform="other" if job_id is None else platform,
        document=document,
        unread=reason,
    )


def read(body: bytes, *, depth_max: int = DEPTH_MAX) -> tuple[Any, ParseError | None]:
    """Return the document in a verified body; None, and why, where it cannot be read."""
    try:
        return parse(body, depth_max=depth_max), None
    except ParseError as error:
        return None, error


def platform_of(fields: dict[str, Any], dialect: Dialect) -> tuple[Platform, str]:
    """Return the platform that sent it, and that platform's field for the job's id."""
    if dialect == "runpod":
        return "runpod", "id"
    if dialect == "auto" and "jobId" not in fields and isinstance(fields.get("id"), str):
        status = fields.get("status")
        if isinstance(status, str) and status in _RUNPOD_STATUSES:
            return "runpod", "id"
    return "tensorone", "jobId"


def _named_by_headers(
    body: bytes, job: Job, document: Any, reason: Reason | None, dialect: Dialect
) -> Identity:
    if not is_job_id(job.id):
        raise _no_job_id("X-Postback-Job-Id")
    fields = document if isinstance(document, dict) else {}
    status = None if job.status is None else as_sent(job.status)
    if status is None:
        status = unread_status(body) if reason is not None else as_sent(fields.get("status"))
    platform, _ = platform_of(fields, dialect)
    if dialect == "cerebrium":
        platform = "cerebrium"
    elif platform == "tensorone" and not any(name in fields for name in _REPORTED):
        platform = "other"
    return Identity(
        job_id=job.id,
        status=status,
        run=job.run,
        platform=platform,
        document=document,
        unread=reason,
    )


def _job_id(fields: dict[str, Any], name: str, *, is_named: bool) -> str | None:
    job_id = fields.get(name)
    if is_job_id(job_id):
        return str(job_id)
    if is_named:
        return None
    if name in fields:
        raise _no_job_id(name)
    raise ParseError("identity", f"the body has no {name}, and no signed webhook-id", name)


def _no_job_id(name: str) -> ParseError:
    message = f"{name} must be text of 1 to {JOB_ID_CHARS_MAX} characters without controls"
    return ParseError("job_id", message, name)


def _status(fields: dict[str, Any], job: Job | None, unread: ParseError | None) -> str | None:
    if job is not None and job.status is not None:
        return as_sent(job.status)
    return as_sent(fields.get("status")) if unread is None else UNKNOWN
