"""How many destinations a tenant has: they come into being with submits, so they are not counted
each time."""

from typing import Final

from dispatcher.store.errors import LimitReached
from dispatcher.store.tx import Tx

_COUNT_MS: Final = 1_000
_COUNT_ANYWAY_MS: Final = 60_000  # what other processes made is not in the number


class Destinations:
    """Whether tenants may have more destinations: at most `max` each.

    Of a tenant that makes new ones it keeps a number that is never too small for this process, and
    counts again where that has reached the limit, at most once a second. Used on the writer's
    thread alone.
    """

    def __init__(self, max: int) -> None:
        self.max = max
        self._counted: dict[str, tuple[int, int]] = {}

    def admits(self, tx: Tx, tenant: str, *, now_ms: int) -> bool:
        """Count one that comes into being; False if it may not."""
        number, counted_ms = self._counted.get(tenant, (self.max, 0))
        if abs(now_ms - counted_ms) >= (_COUNT_MS if number >= self.max else _COUNT_ANYWAY_MS):
            number, counted_ms = self.count(tx, tenant), now_ms
        admitted = number < self.max
        self._counted[tenant] = (number + admitted, counted_ms)
        return admitted

    def count(self, tx: Tx, tenant: str) -> int:
        """Return how many destinations a tenant has, at most `max`."""
        row = tx.one(
            "SELECT count(*) FROM (SELECT 1 FROM destinations WHERE tenant = ? "
            "AND removed_ms IS NULL LIMIT ?) counted",
            tenant,
            self.max,
        )
        return 0 if row is None else int(row[0])

    def refusal(self, tenant: str) -> LimitReached:
        """Return the error for one more than there may be."""
        setting = "DISPATCHER_TENANT_DESTINATIONS_MAX"
        return LimitReached(f"the tenant {tenant}", "destinations", setting, self.max)
