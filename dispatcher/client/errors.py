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
    """An answer that is not Postback's: most often the URL names something else."""

    @classmethod
    def of(cls, status: int, why: object) -> Self:
        """Return the error of a success that cannot be one."""
        message = f"HTTP {status} with an answer that is not this version of Postback's: {why}"
        return cls("BAD_ANSWER", message, status=status)

    @classmethod
    def too_large(cls, status: int, bytes_max: int) -> Self:
        """Return the error of an answer that was not read to its end."""
        return cls.of(status, f"it is larger than {bytes_max} bytes")


class WaitTimeout(PostbackError):
    """The callback was not in a final state in time. It is still on its way."""

    @classmethod
    def of(cls, id: str, status: str, timeout_s: float, last_error: str | None) -> Self:
        """Return the error of a wait for `id` that was too short. An empty status: the service did
        not say one."""
        why = "" if last_error is None else f" (last error: {last_error})"
        state = f"is still {status}" if status else "is of unknown state: there was no answer"
        return cls("WAIT_TIMEOUT", f"{id} {state} after {timeout_s:g} s{why}")


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


class TooLarge(PostbackError):
    """413: larger than the service takes."""


class ValidationFailed(PostbackError):
    """422: a field is not right; `details` has its `field`, `value` and `reason`."""


class QueueFull(PostbackError):
    """429: the queue has no room; `details` has `queueSize`, `estimatedWait` and `retryAfter`."""


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
_BY_CODE: Final[dict[str, type[PostbackError]]] = {"RATE_LIMITED": RateLimited}
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


def error_of(response: Response) -> PostbackError:
    """Return the error that a response without success stands for."""
    try:
        shape = msgspec.json.decode(response.body, type=dict[str, Any])
        return error_from(response.status, shape, retry_after_s=response.retry_after_s)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _foreign(response)


def error_from(
    status: int, fields: Mapping[str, Any], *, retry_after_s: float | None = None
) -> PostbackError:
    """Return the error whose class says what `status` means and whose `fields` are the API's one
    shape. Raises msgspec.ValidationError for another shape."""
    shape = msgspec.convert(fields, _Shape)
    kind = _BY_CODE.get(shape.error) or _BY_STATUS.get(status, PostbackError)
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
    message = f"HTTP {response.status} that is not Postback's: {text[:_TEXT_CHARS_MAX] or 'empty'}"
    kind = _BY_PROXY.get(response.status, BadAnswer)
    return kind("BAD_ANSWER", message, status=response.status, retry_after_s=response.retry_after_s)
