"""What a tenant may still use, of what all tenants share: the rate of submits, the queue, the
storage. Each limit is the tenant's own, or the settings'."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dispatcher.access import Access
from dispatcher.pace import paced
from dispatcher.settings import Settings
from dispatcher.store.rows import ROW_BYTES
from dispatcher.store.store import Store
from dispatcher.values import Tenant
from receiver.base.clock import monotonic_ms

WAIT_S_MAX: Final = 86_400  # as much as can be said of a queue that does not move
RETRY_S_MAX: Final = 60


class QuotaError(Exception):
    """A callback that may be taken later; the message is fit to show."""

    retry_after_s: int


class QueueFull(QuotaError):
    """`estimated_wait_s` is how long this queue takes to drain at the measured rate,
    `retry_after_s` how long until there is room for one more."""

    def __init__(
        self,
        queue_size: int,
        estimated_wait_s: int,
        retry_after_s: int,
        what: str = "deliveries",
        limit: str | None = None,
    ) -> None:
        allowed = "" if limit is None else f", as many as {limit} allows"
        super().__init__(f"too many {what} are waiting{allowed}")
        self.queue_size = queue_size
        self.estimated_wait_s = estimated_wait_s
        self.retry_after_s = retry_after_s


class RateLimited(QuotaError):
    """The tenant submits faster than it may."""

    def __init__(self, rate_per_second: float, wait_ms: float) -> None:
        allowed = f"{rate_per_second:g} submits a second"
        super().__init__(f"more than {allowed}, which the tenant's ratePerSecond allows")
        self.rate_per_second = rate_per_second
        self.retry_after_s = max(1, min(RETRY_S_MAX, math.ceil(wait_ms / 1000)))


class StorageFull(QuotaError):
    """What this callback would take, or the `output` of a job, and what is left to its tenant;
    `upgrade_url` is where there is more to be had."""

    def __init__(
        self,
        estimated_bytes: int,
        remaining_bytes: int,
        *,
        of_tenant: bool,
        output: bool = False,
        upgrade_url: str | None = None,
    ) -> None:
        room = (
            "within what the tenant may store, its storageBytesMax"
            if of_tenant
            else "to store this callback: see DISPATCHER_STORAGE_BYTES_MAX and the disk"
        )
        if output:
            room = "for its output within what the tenant may store, its outputsBytesMax"
        super().__init__(f"there is no room {room}")
        self.estimated_bytes = estimated_bytes
        self.remaining_bytes = max(0, remaining_bytes)
        self.upgrade_url = upgrade_url
        self.retry_after_s = RETRY_S_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant may use; of what it stores, `outputs_bytes_max` for outputs.
    `rate_per_second` None: as many submits as come; `jobs_running_max` None: as many jobs at once
    as endpoints let run."""

    storage_bytes_max: int
    outputs_bytes_max: int
    queue_max: int
    rate_per_second: float | None
    jobs_running_max: int | None = None


class Quotas:
    """Looks at what tenants use in this process, before each submit.

    Rates hold for this process alone. The queue and the storage are everybody's, as far as this
    process knows: of other processes, about a second ago.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        access: Access,
        drain_rate: Callable[[], float],
        *,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._settings = settings
        self._store = store
        self._access = access
        self._drain_rate = drain_rate
        self._monotonic_ms = monotonic_ms
        storage_bytes_max = settings.tenant_storage_bytes_max or settings.storage_bytes_max // 4
        self._defaults = Limits(
            storage_bytes_max=storage_bytes_max,
            outputs_bytes_max=settings.tenant_outputs_bytes_max or storage_bytes_max,
            queue_max=settings.tenant_queue_max,
            rate_per_second=settings.tenant_rate_per_second or None,
            jobs_running_max=settings.tenant_jobs_running_max or None,
        )
        self._paces: dict[str, float] = {}  # until when each tenant's rate is used
        self._arriving: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()  # of outputs

    def limits(self, tenant: str) -> Limits:
        """Return the limits in force."""
        known = self._access.tenant(tenant)
        return self._defaults if known is None else self.limits_of(known)

    def limits_of(self, tenant: Tenant) -> Limits:
        """Return the limits that are in force for this tenant."""
        storage, queue, rate = tenant.storage_bytes_max, tenant.queue_max, tenant.rate_per_second
        running, outputs = tenant.jobs_running_max, tenant.outputs_bytes_max
        default = self._defaults
        if all(own is None for own in (storage, queue, rate, running, outputs)):
            return default
        storage_bytes_max = default.storage_bytes_max if storage is None else storage
        if outputs is None:
            outputs = self._settings.tenant_outputs_bytes_max or storage_bytes_max
        return Limits(
            storage_bytes_max=storage_bytes_max,
            outputs_bytes_max=outputs,
            queue_max=default.queue_max if queue is None else queue,
            rate_per_second=default.rate_per_second if rate is None else rate,
            jobs_running_max=default.jobs_running_max if running is None else running,
        )

    @contextmanager
    def room(self, tenant: str, size: int, *, of_job: bool = False) -> Iterator[None]:
        """Count a submit, and keep room for its `size` bytes while it is stored; a job waits in
        its endpoint's queue, not among the deliveries. Raises RateLimited, QueueFull and
        StorageFull."""
        limits = self.limits(tenant)
        if limits.rate_per_second is not None:
            self._check_rate(tenant, limits.rate_per_second)
        if not of_job:
            self._check_queue(tenant, limits)
        free = self._store.usage().free_bytes
        left = limits.storage_bytes_max - self.used_bytes(tenant)
        if left < size:
            raise StorageFull(size, left, of_tenant=True, upgrade_url=self._settings.upgrade_url)
        if free < size:
            raise StorageFull(size, min(left, free), of_tenant=False)
        self._arriving[tenant] += size
        try:
            yield
        finally:
            self._arriving[tenant] -= size
            if not self._arriving[tenant]:
                del self._arriving[tenant]

    def used_bytes(self, tenant: str) -> int:
        """Return what the tenant's callbacks take up, with those that are being stored."""
        return self._store.stored_bytes(tenant) + self._arriving[tenant] + self._coming[tenant]

    def output_bytes_left(self, tenant: str) -> int:
        """Return how many more bytes of outputs the tenant may keep, less those that come now."""
        limits = self.limits(tenant)
        outputs = self._store.output_bytes(tenant) + self._coming[tenant]
        left = limits.storage_bytes_max - self.used_bytes(tenant)
        return min(left, limits.outputs_bytes_max - outputs)

    def check_output(self, tenant: str, size: int) -> None:
        """Raise StorageFull where no output of so many bytes could be kept."""
        left = self.output_bytes_left(tenant)
        if left < size:
            raise StorageFull(
                size, left, of_tenant=True, output=True, upgrade_url=self._settings.upgrade_url
            )

    def take_output(self, tenant: str, size: int) -> bool:
        """Hold room for an output that comes, or a part of it; False where there is none."""
        if self.output_bytes_left(tenant) < size:
            return False
        self._coming[tenant] += size
        return True

    def give_output(self, tenant: str, size: int) -> None:
        """Let go of that: by now it is counted, or never will be."""
        self._coming[tenant] -= size
        if not self._coming[tenant]:
            del self._coming[tenant]

    def storage_full(self, tenant: str, size: int) -> StorageFull:
        """Return the error for a callback that the database found no room for."""
        left = self.limits(tenant).storage_bytes_max - self.used_bytes(tenant)
        free = self._store.usage().free_bytes
        return StorageFull(size, min(left, free), of_tenant=False)

    def refusal(self) -> str | None:
        """Return why every submit is refused now, whatever tenant it is of; None where none is."""
        usage, settings = self._store.usage(), self._settings
        if usage.free_bytes < ROW_BYTES:
            return (
                f"the storage is full: {usage.used_bytes:,} bytes are used, and no more than "
                f"{usage.free_bytes:,} are free of DISPATCHER_STORAGE_BYTES_MAX and the disk"
            )
        if self._store.queued() >= settings.queue_max:
            return (
                f"the queue is full: {settings.queue_max:,} deliveries wait, as many as "
                "DISPATCHER_QUEUE_MAX allows"
            )
        return None

    def _check_rate(self, tenant: str, rate: float) -> None:
        now_ms = self._monotonic_ms()
        self._paces[tenant], wait_ms = paced(self._paces.get(tenant, 0.0), rate, now_ms)
        if wait_ms:
            raise RateLimited(rate, wait_ms)

    def _check_queue(self, tenant: str, limits: Limits) -> None:
        queued = self._store.queued(tenant)
        if queued >= limits.queue_max:
            over = queued - limits.queue_max + 1
            rate, limit = self._drain_rate(), "the tenant's queueMax"
            raise queue_full(queued, over=over, drain_rate=rate, limit=limit)
        # Of the whole queue a tenant is told the limit, not how much the others have in it (I9).
        queued, queue_max = self._store.queued(), self._settings.queue_max
        if queued >= queue_max:
            over = queued - queue_max + 1
            rate, limit = self._drain_rate(), "DISPATCHER_QUEUE_MAX"
            raise queue_full(queue_max, over=over, drain_rate=rate, limit=limit)


def queue_full(
    queue_size: int,
    *,
    over: int,
    drain_rate: float,
    what: str = "deliveries",
    limit: str | None = None,
) -> QueueFull:
    """Return the error for a queue that drains at `drain_rate` a second, and has room again when
    `over` of `what` waits have gone; `limit` is what says how many may."""
    wait_s = _seconds(queue_size, drain_rate, WAIT_S_MAX)
    return QueueFull(queue_size, wait_s, _seconds(over, drain_rate, RETRY_S_MAX), what, limit)


def _seconds(count: int, rate: float, seconds_max: int) -> int:
    if rate <= 0 or count / rate >= seconds_max:
        return seconds_max
    return max(1, math.ceil(count / rate))
