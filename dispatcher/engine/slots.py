"""What this process has in flight: per tenant, of high priority, and in bytes."""

import math
from collections import Counter
from typing import Final

from dispatcher import fairness
from dispatcher.store.requests import ClaimRequest

# While a claim is under way it has at most this part of what was free, and hand-over the rest; and
# as little as this where less waits: hand-over costs half as much as a claim.
_CLAIM_PART: Final = 0.75
_CLAIM_PART_MIN: Final = 0.25


class Slots:
    """Bounded places for attempts. A place is held before the work is known to be ours, so that
    the two ways in, hand-over and claim, never fill one place twice."""

    def __init__(self, slots_max: int, *, bytes_max: int) -> None:
        self.slots_max = slots_max
        self._bytes_max = bytes_max
        self._bytes_free = bytes_max
        self._busy = Counter[str]()
        self._busy_bytes = Counter[str]()
        self._high = 0
        self._taken = 0
        self._claimed_high = 0
        self._part = 1.0
        self._split = 1, 1  # of so many free slots, those for hand-over and all

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
        slots_max, part, free = self.slots_max, self._part, self.free
        held = self._busy.get(tenant, 0)
        ours, all_free = self._split
        if free <= 0 or (free - 1) * all_free < fairness.reserve(held, slots_max) * ours:
            return False
        if high and self._high_free() <= fairness.reserve_high(held, slots_max) * part:
            return False
        tenants = len(self._busy) + (held == 0)
        if held >= fairness.direct_slots(slots_max, tenants):
            return False
        held_bytes = self._busy_bytes.get(tenant, 0)
        return fairness.bytes_fit(size, self._bytes_free, held_bytes, self._bytes_max, part=part)

    def _high_free(self) -> int:
        busy = self._high + self._claimed_high
        return fairness.high_slots(self.free, self.slots_max, busy)

    def take(self, tenant: str, *, high: bool, size: int) -> None:
        """Hold a place."""
        self._taken += 1
        self._busy[tenant] += 1
        self._busy_bytes[tenant] += size
        self._high += high
        self._bytes_free -= size

    def give(self, tenant: str, *, high: bool, size: int) -> None:
        """Let the place go."""
        self._taken -= 1
        self._busy[tenant] -= 1
        self._busy_bytes[tenant] -= size
        if not self._busy[tenant]:
            del self._busy[tenant]
            del self._busy_bytes[tenant]
        self._high -= high
        self._bytes_free += size

    def ask(self, now_ms: int, *, waiting: int) -> ClaimRequest:
        """Hold so many slots for a claim as deliveries are `waiting`, but from a quarter to three
        quarters of what is free, and return what to claim for them. The rest stays for hand-over
        meanwhile; `answered` lets go of what is held."""
        least = math.ceil(self.free * _CLAIM_PART_MIN)
        claim = ClaimRequest(
            slots=min(_claimed(self.free), max(least, waiting)),
            slots_max=self.slots_max,
            bytes_free=_claimed(self._bytes_free),
            bytes_max=self._bytes_max,
            part=_CLAIM_PART,
            busy_high=self._high,
            busy=dict(self._busy),
            busy_bytes=dict(self._busy_bytes),
            now_ms=now_ms,
        )
        self._claimed_high = _claimed(self._high_free())
        self._split = self.free - claim.slots, self.free
        self._taken += claim.slots
        self._bytes_free -= claim.bytes_free
        self._part = 1 - _CLAIM_PART
        return claim

    def answered(self, claim: ClaimRequest) -> None:
        """Let go of what was held for a claim: its deliveries are `take`n one by one."""
        self._taken -= claim.slots
        self._bytes_free += claim.bytes_free
        self._claimed_high = 0
        self._part = 1.0
        self._split = 1, 1


class Probes:
    """Bounded test callbacks, which take no slots: `tenant_max` at most for one tenant, and what
    is left is shared as slots are."""

    def __init__(self, probes_max: int, tenant_max: int) -> None:
        self._max = probes_max
        self._tenant_max = tenant_max
        self._free = probes_max
        self._busy = Counter[str]()

    def take(self, tenant: str) -> bool:
        """Hold a place, if this tenant may have one more."""
        held = self._busy.get(tenant, 0)
        if held >= self._tenant_max or self._free <= fairness.reserve(held, self._max):
            return False
        self._free -= 1
        self._busy[tenant] += 1
        return True

    def give(self, tenant: str) -> None:
        """Let the place go."""
        self._free += 1
        self._busy[tenant] -= 1
        if not self._busy[tenant]:
            del self._busy[tenant]


def _claimed(free: int) -> int:
    return math.ceil(free * _CLAIM_PART)
