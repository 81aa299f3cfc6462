"""Which job a verified body names, and with which status, in the three platforms' dialects. Pure.

    platform    job             status                      without a job
    tensorone   `jobId`       `status`, lower case      opaque: known by its signed id
    runpod      `id`          `status`, upper case      refused
    cerebrium   X-Request-Id    none: a body is a result    opaque: known by its signed id

`auto` takes a body with `jobId` for the first and one with `id` and a status of RunPod's
spelling for the second.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from receiver.verification.parse import DEPTH_MAX, ParseError, parse

Platform: TypeAlias = Literal["tensorone", "runpod", "cerebrium", "other"]
Dialect: TypeAlias = Literal["auto", "tensorone", "runpod", "cerebrium"]

DIALECTS: Final = ("auto", "tensorone", "runpod", "cerebrium")
JOB_ID_CHARS_MAX: Final = 200  # a UUID has 36, an ARN or a URL-like name some 150
STATUS_CHARS_MAX: Final = 64
STATUSES: Final = ("queued", "running", "completed", "failed", "cancelled", "timeout")
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "timeout"})
# Those statuses in all the platforms' spellings, in lower case.
_CANONICAL: Final = {
    **{status: status for status in STATUSES},
    "in_queue": "queued",
    "in_progress": "running",
    "timed_out": "timeout",
}
_RUNPOD_STATUSES: Final = frozenset(
    {"IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
)

# These say "no JSON at all", so the bytes may still be an opaque message with a signed id.
# All other reasons say "JSON that readers would read differently", which no id makes safe.
_NOT_JSON: Final = ("encoding", "syntax")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a message says of itself; `status` as sent. Without a job it is opaque."""

    job_id: str | None
    status: str | None
    platform: Platform = "tensorone"
    document: Any = field(default=None, compare=False, repr=False)


def identify(
    body: bytes,
    message_id: str | None,
    *,
    request_id: str | None = None,
    dialect: Dialect = "auto",
    depth_max: int = DEPTH_MAX,
) -> Identity:
    """Return the job and status that a verified message names, or ParseError.

    The bytes alone decide, never the Content-Type: that header is not signed. A body that is no
    JSON, or no object, or names no job, is identified by its signed `message_id`; without one
    it is refused. An id or status of the wrong form is refused always. `request_id` is the
    X-Request-Id that Cerebrium signed: it names the job whatever the body is.
    """
    document = read_document(
        body,
        is_named=message_id is not None,
        is_result=request_id is not None,
        depth_max=depth_max,
    )
    if request_id is not None:
        return Identity(job_id=request_id, status=None, platform="cerebrium", document=document)
    if dialect == "cerebrium":  # without its own signature: somebody else's, or nobody's
        if message_id is None:
            raise ParseError("identity", "the message has no signed id", "X-Request-Id")
        return Identity(job_id=None, status=None, platform="cerebrium", document=document)
    fields = document if isinstance(document, dict) else {}
    platform, name = _named(fields, dialect)
    job_id = _job_id(fields, name)
    if job_id is None and (message_id is None or dialect == "runpod"):
        raise ParseError("identity", f"the body has no {name}, and no signed webhook-id", name)
    status = _status(fields)
    if job_id is None:
        platform = "other"
    return Identity(job_id=job_id, status=status, platform=platform, document=document)


def read_document(
    body: bytes, *, is_named: bool, is_result: bool = False, depth_max: int = DEPTH_MAX
) -> Any:
    """Return the document in a verified body, or ParseError; None where the body may be anything:
    one that is no JSON, under a signed id (`is_named`); or what the customer's own function
    returned (`is_result`), of which nothing is believed."""
    try:
        return parse(body, depth_max=depth_max)
    except ParseError as error:
        if is_result or (is_named and error.reason in _NOT_JSON):
            return None
        raise


def _named(fields: dict[str, Any], dialect: Dialect) -> tuple[Platform, str]:
    """Return the platform that sent it, and that platform's field for the job's id."""
    if dialect == "runpod":
        return "runpod", "id"
    if dialect == "auto" and "jobId" not in fields and isinstance(fields.get("id"), str):
        status = fields.get("status")
        if isinstance(status, str) and status in _RUNPOD_STATUSES:
            return "runpod", "id"
    return "tensorone", "jobId"


def _job_id(fields: dict[str, Any], name: str) -> str | None:
    if name not in fields:
        return None
    job_id = fields[name]
    if not is_name(job_id, JOB_ID_CHARS_MAX):
        raise ParseError(
            "job_id",
            f"{name} must be a string of 1 to {JOB_ID_CHARS_MAX} printable characters",
            name,
        )
    return str(job_id)


def _status(fields: dict[str, Any]) -> str | None:
    status = fields.get("status")
    if status is None:
        return None
    if not is_name(status, STATUS_CHARS_MAX):
        raise ParseError(
            "status",
            f"status must be a string of 1 to {STATUS_CHARS_MAX} printable characters",
            "status",
        )
    return str(status)


def is_name(value: Any, chars_max: int) -> bool:
    """Whether a value can name something: short, printable, not blank."""
    if not isinstance(value, str) or not 1 <= len(value) <= chars_max:
        return False
    return value.isprintable() and not value.isspace()


def canonical(status: str | None) -> str:
    """Return the one spelling of a status as sent. None is `completed`: a completion may come
    without a status. One that none of the platforms has stays as it is, in lower case, and is
    progress."""
    if status is None:
        return "completed"
    return _CANONICAL.get(status.lower(), status.lower())
