"""What can go wrong between you and the service, as typed errors.

None of them ever holds the API key.
"""

from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec

from dispatcher.client.transport import Response

_TEXT_CHARS_MAX: Final = 200  # of a response that is not ours, enough to recognise a proxy's page


class PostbackError(Exception):
    """Anything the service, or the way to it, answered but success.

    `code` is for programs (`VALIDATION_ERROR`, `UNREACHABLE`, …), `message` for people, `details`
    what the service added, `status` the HTTP status (None where no answer came), `request_id` the
    word to look for in the service's log, `retry_after_s` how long it asks to wait.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Unreachable(PostbackError):
    """No answer came: nothing listens there, or the connection broke, or took too long; also where
    a proxy says so for the service (502, 504)."""


class BadAnswer(PostbackError):
    """An answer that is not Postback's: most often the URL names something else. `details` has the
    `reason`, or the beginning of the `text` that came."""

    @classmethod
    def of(cls, status: int, why: object) -> Self:
        """Return the error of a success that cannot be one."""
        message = f"HTTP {status} with an answer that is not this version of Postback's: {why}"
        return cls("BAD_ANSWER", message, status=status, details={"reason": str(why)})

    @classmethod
    def too_large(cls, status: int, bytes_max: int) -> Self:
        """Return the error of an answer that was not read to its end."""
        return cls.of(status, f"it is larger than {bytes_max} bytes")


class WaitTimeout(PostbackError):
    """The callback, or job, was not in a final state in time. It is still on its way. `details` has
    its `id` and, where the service said one, its `status`."""

    @classmethod
    def of(
        cls, id: str, status: str, timeout_s: float, last_error: str | None, waits: str = ""
    ) -> Self:
        """Return the error of a wait for `id` that was too short. An empty status: the service did
        not say one. `waits`: what it waits for, in words."""
        reasons = [waits] if waits else []
        if last_error is not None:
            reasons.insert(0, f"last error: {last_error}")
        why = f" ({'; '.join(reasons)})" if reasons else ""
        state = f"is still {status}" if status else "is of unknown state: there was no answer"
        details = {"id": id, "status": status} if status else {"id": id}
        message = f"{id} {state} after {timeout_s:g} s{why}"
        return cls("WAIT_TIMEOUT", message, details=details)

    @property
    def id(self) -> str:
        """What was waited for."""
        return str(self.details["id"])


class BadRequest(PostbackError):
    """400: the request could not be read."""


class Unauthorized(PostbackError):
    """401: no API key, or not one the service knows, or one that is mistyped or has ended."""


class Forbidden(PostbackError):
    """403: the API key does not carry the scope, or is not good for that tenant, from that address
    (`details` has it), or to submit to that destination."""


class NotFound(PostbackError):
    """404: no such thing in this tenant."""


class Conflict(PostbackError):
    """409: the thing is in a state that does not allow this, or the key came with other content."""


class Gone(PostbackError):
    """410: the payload's retention has ended."""


class InputGone(Gone):
    """410: a job's input is kept no longer: it cannot be shown, or the job run again."""


class OutputGone(Gone):
    """410: a job's output is kept no longer."""


class JobFailed(PostbackError):
    """502: the job whose output was waited for has failed. `details` has its `id`, `status` and,
    where they are known, `reason`, `statusCode` and `error`: the upstream's own words, if any."""

    @property
    def job_id(self) -> str:
        """Which job it is."""
        return str(self.details.get("id", ""))


class JobTimeout(JobFailed):
    """504: the job whose output was waited for took longer than it may."""


class JobCancelled(JobFailed):
    """409: the job whose output was waited for was cancelled."""


class TooLarge(PostbackError):
    """413: larger than the service takes."""


class ValidationFailed(PostbackError):
    """422: a field is not right; `details` has its `field`, `value` and `reason`."""


class QueueFull(PostbackError):
    """429: the queue has no room; `details` has `queueSize`, `estimatedWait` and `retryAfter`."""

    @property
    def queue_size(self) -> int | None:
        """How many wait, where that was told."""
        size = self.details.get("queueSize")
        return size if isinstance(size, int) else None

    @property
    def estimated_wait_s(self) -> float | None:
        """When there should be room, where that was told."""
        wait_s = self.details.get("estimatedWait")
        return float(wait_s) if isinstance(wait_s, int | float) else None


class RateLimited(QueueFull):
    """429: the tenant submits, or the key (`details` has its `key`) asks, faster than it may;
    `details` has `ratePerSecond` and `retryAfter`."""


class Unavailable(PostbackError):
    """503: the service cannot take this now; nothing was changed."""


class StorageFull(PostbackError):
    """507: the service has no room left, or the tenant none; nothing was changed."""


_BY_STATUS: Final[dict[int, type[PostbackError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: ValidationFailed,
    429: QueueFull,
    503: Unavailable,
    507: StorageFull,
}
_BY_CODE: Final[dict[str, type[PostbackError]]] = {
    "RATE_LIMITED": RateLimited,
    "JOB_FAILED": JobFailed,
    "JOB_TIMEOUT": JobTimeout,
    "JOB_CANCELLED": JobCancelled,
}
_BY_PROXY: Final[dict[int, type[PostbackError]]] = {
    429: QueueFull,
    502: Unreachable,
    503: Unavailable,
    504: Unreachable,
}


class _Shape(msgspec.Struct, frozen=True, rename="camel"):
    error: str
    message: str
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    request_id: str | None = None


_NO_KINDS: Final[Mapping[str, type[PostbackError]]] = {}


def is_final(response: Response) -> bool:
    """Whether it tells how a job has ended: no proxy says that."""
    return isinstance(error_of(response), JobFailed)


def error_of(
    response: Response, kinds: Mapping[str, type[PostbackError]] = _NO_KINDS
) -> PostbackError:
    """Return the error that a response without success stands for; `kinds` is what its code means,
    where it means something of its own."""
    try:
        shape = msgspec.json.decode(response.body, type=dict[str, Any])
        return error_from(response.status, shape, kinds, retry_after_s=response.retry_after_s)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _foreign(response)


def error_from(
    status: int,
    fields: Mapping[str, Any],
    kinds: Mapping[str, type[PostbackError]] = _NO_KINDS,
    *,
    retry_after_s: float | None = None,
) -> PostbackError:
    """Return the error whose class says what `status` means and whose `fields` are the API's one
    shape. Raises msgspec.ValidationError for another shape."""
    shape = msgspec.convert(fields, _Shape)
    by_code = kinds.get(shape.error) or _BY_CODE.get(shape.error)
    kind = by_code or _BY_STATUS.get(status, PostbackError)
    return kind(
        shape.error,
        shape.message,
        details=shape.details,
        status=status,
        request_id=shape.request_id,
        retry_after_s=retry_after_s,
    )


def _foreign(response: Response) -> PostbackError:
    """Return an error page of something between us, or something else altogether. 502, 503 and 504
    are a proxy's usual words for a service that restarts."""
    text = " ".join(response.body[: _TEXT_CHARS_MAX * 4].decode(errors="replace").split())
    text = text[:_TEXT_CHARS_MAX]
    return _BY_PROXY.get(response.status, BadAnswer)(
        "BAD_ANSWER",
        f"HTTP {response.status} that is not Postback's: {text or 'empty'}",
        details={"text": text},
        status=response.status,
        retry_after_s=response.retry_after_s,
    )
