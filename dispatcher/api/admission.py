"""Whether there is room for one more callback, and in real numbers when there will be."""

import math
from typing import Final

from dispatcher.api.context import Context
from dispatcher.api.errors import ApiError, invalid, unavailable
from dispatcher.store.errors import NotFound, StoreFull
from dispatcher.values import NewCallback, Submitted

# What a callback takes up beside its payload: its rows and their index entries, measured.
ROW_BYTES: Final = 1_024
WAIT_S_MAX: Final = 86_400  # as much as can be said of a queue that does not move
RETRY_S_MAX: Final = 60


async def take(context: Context, new: NewCallback) -> Submitted:
    """Store the callback and start to deliver it.

    Raises ApiError: 503 while the service does not take any, 429 and 507 where there is no room,
    422 for an unknown destination; and what the store raises.
    """
    check_ready(context)
    check_queue(context, new.tenant)
    size = len(new.body) + ROW_BYTES
    if context.store.usage().free_bytes < size:
        raise storage_full(context, size)
    try:
        return await context.engine.submit(new)
    except StoreFull:
        raise storage_full(context, size) from None
    except NotFound:
        reason = "no destination of this name is registered"
        raise invalid("destination", new.destination_name, reason) from None


def check_ready(context: Context) -> None:
    """Raise ApiError (503) unless submits are taken."""
    if not context.engine.ready:
        raise unavailable("not taking callbacks now: starting or stopping")


def check_queue(context: Context, tenant: str) -> None:
    """Raise ApiError (429) where the tenant's queue, or the whole one, is full."""
    settings = context.settings
    # Of the whole queue a tenant is told the limit, not how much the others have in it (I9).
    for queued, limit, shown in (
        (context.store.queued(tenant), settings.tenant_queue_max, None),
        (context.store.queued(), settings.queue_max, settings.queue_max),
    ):
        if queued >= limit:
            raise queue_full(
                queued if shown is None else shown,
                over=queued - limit + 1,
                drain_rate=context.engine.drain_rate(),
            )


def queue_full(queue_size: int, *, over: int, drain_rate: float) -> ApiError:
    """429: `estimatedWait` is how long this queue takes to drain at the measured rate,
    `retryAfter` how long until `over` of it have gone; both in seconds."""
    wait_s = _seconds(queue_size, drain_rate, WAIT_S_MAX)
    retry_s = _seconds(over, drain_rate, RETRY_S_MAX)
    return ApiError(
        "QUEUE_FULL",
        "too many deliveries are waiting",
        details={"queueSize": queue_size, "estimatedWait": wait_s, "retryAfter": retry_s},
        headers={"Retry-After": str(retry_s)},
    )


def storage_full(context: Context, size: int) -> ApiError:
    """507: what this would take and what is left, in bytes."""
    remaining = max(0, context.store.usage().free_bytes)
    return ApiError(
        "STORAGE_LIMIT_EXCEEDED",
        "there is no room to store this callback",
        details={"estimatedSize": size, "remainingQuota": remaining},
        headers={"Retry-After": str(RETRY_S_MAX)},
    )


def _seconds(count: int, rate: float, most: int) -> int:
    if rate <= 0 or count / rate >= most:
        return most
    return max(1, math.ceil(count / rate))
