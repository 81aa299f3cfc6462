"""How many jobs of tenants run, where there are limits of that: over all endpoints and processes.

Whoever starts some of a tenant's holds that tenant until the end of its transaction, and counts
after it has taken hold, so that none runs beyond the limit. Nobody waits for it: what another
process holds is left to it.
"""

from collections import Counter
from collections.abc import Iterable

from dispatcher.jobs.values import RunningLimits
from dispatcher.store.tx import Tx


class Limited:
    """The tenants whose jobs may not run in any number, as one transaction sees them."""

    def __init__(self, tx: Tx, limits: RunningLimits) -> None:
        self._tx = tx
        self._limits = limits
        self._held: set[str] = set()
        self._running = self._count()

    def full(self) -> list[str]:
        """Return the tenants of which as many jobs run as may, or more."""
        full = {one for one in self._running if self._is_full(one)}
        return sorted(full | {one for one, max in self._limits.own.items() if max <= 0})

    def hold(self, tenants: Iterable[str]) -> None:
        """Take hold of those of these tenants that have a limit and that no other process holds."""
        limited = {one for one in tenants if self._limits.of(one) is not None} - self._held
        if not limited:
            return
        self._held |= self._tx.job_statements.hold_tenants(self._tx, sorted(limited))
        if not self._tx.sole_owner:
            self._running = self._count()

    def admits(self, tenant: str) -> bool:
        """Whether one more of a tenant's may be started."""
        if self._limits.of(tenant) is None:
            return True
        return tenant in self._held and not self._is_full(tenant)

    def take(self, tenant: str) -> None:
        """Count one that is started."""
        self._running[tenant] += 1

    def _is_full(self, tenant: str) -> bool:
        max = self._limits.of(tenant)
        return max is not None and self._running[tenant] >= max

    def _count(self) -> Counter[str]:
        return Counter(dict(self._tx.all(self._tx.job_statements.RUNNING_JOBS)))


def running_of(tx: Tx, tenant: str) -> int:
    """Return how many jobs of a tenant run, those included whose calls have not ended."""
    running: dict[str, int] = dict(tx.all(tx.job_statements.RUNNING_JOBS))
    return running.get(tenant, 0)
