"""Every error response of the API: one shape, one table of codes, and what errors from elsewhere
become."""

from collections.abc import Mapping
from typing import Any, Final

from dispatcher import intake, quotas
from dispatcher.access import Elsewhere, Forbidden, TooFast, Unauthorized
from dispatcher.filters import FilterError
from dispatcher.gateway.intake import UnknownEndpoint
from dispatcher.intake import IntakeError
from dispatcher.jobs.fields import RuleError
from dispatcher.quotas import QuotaError
from dispatcher.store.errors import (
    CannotUnseal,
    Conflict,
    DestinationDisabled,
    InputGone,
    KeyReused,
    LimitReached,
    NoKeyring,
    NotFound,
    NotYet,
    PayloadGone,
    RedirectsSecret,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TenantErasing,
)
from receiver.base import log
from receiver.base.http import Refusal, invalid
from receiver.base.lack import OwnLack

_LOG: Final = log.get("dispatcher.api")

# code: (status, when it is answered). The OpenAPI document lists the same table.
CODES: Final[dict[str, tuple[int, str]]] = {
    "BAD_REQUEST": (400, "The request's headers contradict each other."),
    "MALFORMED_JSON": (400, "The body is not one JSON document in UTF-8."),
    "UNAUTHORIZED": (401, "No API key, or one that is mistyped, has ended or is not valid."),
    "FORBIDDEN": (403, "The key does not allow this: its scopes, tenant, networks, destinations."),
    "NOT_FOUND": (404, "No such thing, or it belongs to another tenant."),
    "METHOD_NOT_ALLOWED": (405, "The route has other methods: see the Allow header."),
    "REQUEST_TIMEOUT": (408, "The body did not arrive in time."),
    "CONFLICT": (
        409,
        "The thing is in a state that does not allow this; with Retry-After where that passes.",
    ),
    "IDEMPOTENCY_CONFLICT": (409, "The idempotency key came before, with other content."),
    "DESTINATION_DISABLED": (409, "The destination takes no callbacks."),
    "TENANT_ERASING": (409, "The tenant is being erased; it takes nothing until that is done."),
    "LIMIT_REACHED": (409, "As many of these as there may be; details say which limit it is."),
    "KEYS_REQUIRED": (
        409,
        "This is kept sealed only, and DISPATCHER_ENCRYPTION_KEYS is not set.",
    ),
    "JOB_CANCELLED": (409, "The job whose output was waited for was cancelled."),
    "PAYLOAD_GONE": (410, "The payload's retention has ended, or the input's or output's."),
    "PAYLOAD_TOO_LARGE": (413, "The body is larger than the limit."),
    "RANGE_NOT_SATISFIABLE": (416, "The range begins behind the end; Content-Range says where."),
    "UNSUPPORTED_MEDIA_TYPE": (415, "The body has a type or an encoding that is not taken here."),
    "VALIDATION_ERROR": (422, "A field is missing, unknown, or has a value it cannot have."),
    "QUEUE_FULL": (429, "Too many deliveries, or jobs, wait; details say for how long."),
    "TOO_MANY_WAITING": (
        429,
        "As many requests as may be held wait for a job's end; nothing was run.",
    ),
    "RATE_LIMITED": (429, "The tenant submits, or the key asks, faster than it may; see details."),
    "INTERNAL": (500, "A fault of ours; the requestId finds it in the log."),
    "JOB_FAILED": (502, "The job whose output was waited for failed; details say why."),
    "UNAVAILABLE": (503, "Not ready, stopping, or the database does not answer."),
    "CANNOT_UNSEAL": (
        503,
        "What is stored cannot be opened: its key is not in DISPATCHER_ENCRYPTION_KEYS, or it is "
        "damaged.",
    ),
    "JOB_TIMEOUT": (504, "The job whose output was waited for took longer than it may."),
    "STORAGE_LIMIT_EXCEEDED": (507, "No room to store this; details say how much is left."),
}
RETRY_SOON_S: Final = 1  # how long a client waits out a stopped process or a busy database


class ApiError(Refusal):
    """A refusal by its code, which is one of CODES."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(CODES[code][0], code, message, details=details, headers=headers)


def unavailable(message: str) -> ApiError:
    """503, with the time after which another try makes sense."""
    return ApiError("UNAVAILABLE", message, headers={"Retry-After": str(RETRY_SOON_S)})


def to_refusal(error: Exception, request_id: str) -> Refusal:
    """Return what the caller is told about `error`; a fault of ours is logged with the request's
    id."""
    match error:
        case Refusal():
            return error
        case IntakeError():
            return _from_intake(error)
        case QuotaError():
            return _from_quota(error)
        case FilterError():
            return from_filter(error)
        case RuleError():
            return invalid(error.field, error.value, error.reason)
        case Unauthorized():
            return ApiError("UNAUTHORIZED", str(error), headers={"WWW-Authenticate": "Bearer"})
        case Elsewhere():
            return ApiError("FORBIDDEN", str(error), details={"address": error.address})
        case Forbidden():
            return ApiError("FORBIDDEN", str(error))
        case TooFast():
            return _from_rate(error)
        case LimitReached():
            details = {"limit": error.setting, "max": error.max}
            return ApiError("LIMIT_REACHED", str(error), details=details)
        case KeyReused():
            details = {"firstId": error.first_id}
            return ApiError("IDEMPOTENCY_CONFLICT", str(error), details=details)
        case NotYet():
            return ApiError("CONFLICT", str(error), headers={"Retry-After": str(RETRY_SOON_S)})
        case StoreUnavailable():
            return unavailable(str(error))
        case OwnLack(what="keys" | "damage"):
            return ApiError("CANNOT_UNSEAL", str(error))
    for kind, code in _STORE_CODES.items():
        if isinstance(error, kind):
            return ApiError(code, str(error))
    _LOG.exception("request failed", requestId=request_id)
    return ApiError("INTERNAL", "a fault of ours; its requestId finds it in the log")


# A kind before those that it is one of.
_STORE_CODES: Final[dict[type[StoreError], str]] = {
    NotFound: "NOT_FOUND",
    DestinationDisabled: "DESTINATION_DISABLED",
    TenantErasing: "TENANT_ERASING",
    RedirectsSecret: "FORBIDDEN",
    PayloadGone: "PAYLOAD_GONE",
    InputGone: "PAYLOAD_GONE",
    CannotUnseal: "CANNOT_UNSEAL",
    NoKeyring: "KEYS_REQUIRED",
    Conflict: "CONFLICT",
    StoreFull: "STORAGE_LIMIT_EXCEEDED",
}


def _from_intake(error: IntakeError) -> Refusal:
    """Return what the caller is told about a callback that was not taken."""
    message = str(error)
    match error:
        case intake.Invalid():
            return invalid(error.field, error.value, error.reason)
        case intake.PayloadTooLarge():
            return ApiError("PAYLOAD_TOO_LARGE", message, details={"bytesMax": error.bytes_max})
        case UnknownEndpoint():
            return ApiError("NOT_FOUND", message)
        case _:  # NotReady
            return unavailable(message)


def _from_rate(error: TooFast) -> Refusal:
    """Return what the caller is told whose key is used faster than it may."""
    rate, retry_s = error.rate_per_second, error.retry_after_s
    details = {"ratePerSecond": rate, "retryAfter": retry_s, "key": error.key_id}
    headers = {"Retry-After": str(retry_s)}
    return ApiError("RATE_LIMITED", str(error), details=details, headers=headers)


def _from_quota(error: QuotaError) -> Refusal:
    """Return what the caller is told about a callback that there is no room for now."""
    code = "QUEUE_FULL"
    details: dict[str, Any] = {}
    match error:
        case quotas.QueueFull():
            details = {
                "queueSize": error.queue_size,
                "estimatedWait": error.estimated_wait_s,
                "retryAfter": error.retry_after_s,
            }
        case quotas.RateLimited():
            code = "RATE_LIMITED"
            details = {"ratePerSecond": error.rate_per_second, "retryAfter": error.retry_after_s}
        case quotas.StorageFull():
            code = "STORAGE_LIMIT_EXCEEDED"
            details = {
                "estimatedSize": error.estimated_bytes,
                "remainingQuota": error.remaining_bytes,
            }
            if error.upgrade_url is not None:
                details["upgradeUrl"] = error.upgrade_url
    headers = {"Retry-After": str(error.retry_after_s)}
    return ApiError(code, str(error), details=details, headers=headers)


def from_filter(error: FilterError, prefix: str = "") -> Refusal:
    """422 for a filter that cannot be understood; `prefix` is where the filter stood."""
    return invalid(prefix + error.field, error.value, error.reason)
