"""What this process has in flight: per tenant, of high priority, and in bytes."""

from collections import Counter

from dispatcher import fairness
from dispatcher.store.requests import ClaimRequest


class Slots:
    """Bounded places for attempts. A place is held before the work is known to be ours, so that
    the two ways in, hand-over and claim, never fill one place twice."""

    def __init__(self, slots_max: int, *, bytes_max: int) -> None:
        self.slots_max = slots_max
        self._bytes_free = bytes_max
        self._busy: Counter[str] = Counter()
        self._high = 0
        self._taken = 0

    @property
    def free(self) -> int:
        """Places that nothing holds."""
        return self.slots_max - self._taken

    @property
    def taken(self) -> int:
        """Places that are held."""
        return self._taken

    def admits(self, tenant: str, *, high: bool, size: int) -> bool:
        """Whether one more of this kind may be handed straight over."""
        if self.free <= 0 or size > self._bytes_free:
            return False
        if high and fairness.high_slots(self.free, self.slots_max, self._high) <= 0:
            return False
        return self._busy[tenant] < fairness.tenant_slots(self.slots_max, contended=False)

    def take(self, tenant: str, *, high: bool, size: int) -> None:
        """Hold a place."""
        self._taken += 1
        self._busy[tenant] += 1
        self._high += high
        self._bytes_free -= size

    def give(self, tenant: str, *, high: bool, size: int) -> None:
        """Let the place go."""
        self._taken -= 1
        self._busy[tenant] -= 1
        if not self._busy[tenant]:
            del self._busy[tenant]
        self._high -= high
        self._bytes_free += size

    def ask(self, now_ms: int) -> ClaimRequest:
        """Hold three quarters of what is free for a claim, and what to claim for them. The rest
        stays for hand-over meanwhile; `answered` lets go of what is held."""
        slots = self.free - self.free // 4
        bytes_free = self._bytes_free - self._bytes_free // 4
        self._taken += slots
        self._bytes_free -= bytes_free
        return ClaimRequest(
            slots=slots,
            slots_max=self.slots_max,
            bytes_free=bytes_free,
            busy_high=self._high,
            busy=dict(self._busy),
            now_ms=now_ms,
        )

    def answered(self, claim: ClaimRequest) -> None:
        """Let go of what was held for a claim: its deliveries are `take`n one by one."""
        self._taken -= claim.slots
        self._bytes_free += claim.bytes_free
