"""What one process has running of jobs: places, of which each open call takes one, and bytes of
inputs. Apart from the slots of deliveries: calls that last for hours never eat those. Endpoints
share them as tenants share slots: who holds many leaves some for whoever comes next (I6)."""

import math
from collections import Counter
from typing import Final

from dispatcher import fairness
from dispatcher.jobs.values import JobClaimRequest

# While a claim is under way it has this part of what was free, and hand-over the rest.
_CLAIM_PART: Final = 0.75


class Places:
    """Bounded places. One is held before a job is known to be ours, so that the two ways in,
    hand-over and claim, never fill one place twice."""

    def __init__(self, places_max: int, *, bytes_max: int) -> None:
        self._max = places_max
        self._bytes_max = bytes_max
        self._bytes_free = bytes_max
        self._busy = Counter[str]()
        self._busy_bytes = Counter[str]()
        self._taken = 0
        self._asked = 0
        self._asked_bytes = 0
        self._part = 1.0  # of what is free and of what is to stay so, that hand-over has

    @property
    def taken(self) -> int:
        """Places that jobs hold."""
        return self._taken

    @property
    def free(self) -> int:
        """Places that nothing holds."""
        return self._max - self._taken - self._asked

    def admits(self, endpoint: str, size: int) -> bool:
        """Whether one more job, with an input of `size` bytes, may be handed straight over."""
        held = self._busy.get(endpoint, 0)
        if self.free <= fairness.reserve_endpoint(held, self._max) * self._part:
            return False
        held_bytes, free = self._busy_bytes.get(endpoint, 0), self._bytes_free - self._asked_bytes
        return fairness.bytes_fit(size, free, held_bytes, self._bytes_max, part=self._part)

    def take(self, endpoint: str, size: int) -> None:
        """Hold a place."""
        self._taken += 1
        self._busy[endpoint] += 1
        self._busy_bytes[endpoint] += size
        self._bytes_free -= size

    def give(self, endpoint: str, size: int) -> None:
        """Let the place go."""
        self._taken -= 1
        self._busy[endpoint] -= 1
        self._busy_bytes[endpoint] -= size
        if not self._busy[endpoint]:
            del self._busy[endpoint]
            del self._busy_bytes[endpoint]
        self._bytes_free += size

    def give_bytes(self, endpoint: str, size: int) -> None:
        """Let go of an input's bytes, while its place is held still."""
        self._busy_bytes[endpoint] -= size
        self._bytes_free += size

    def ask(self, process: str, now_ms: int, *, places_max: int | None = None) -> JobClaimRequest:
        """Hold three quarters of what is free, at most `places_max`, and return what to claim for
        it; `answered` lets go of that."""
        places = math.ceil(self.free * _CLAIM_PART)
        self._asked = places if places_max is None else min(places, places_max)
        self._asked_bytes = math.ceil(max(0, self._bytes_free) * _CLAIM_PART)
        self._part = 1 - _CLAIM_PART
        return JobClaimRequest(
            process=process,
            places=self._asked,
            places_max=self._max,
            bytes_free=self._asked_bytes,
            bytes_max=self._bytes_max,
            part=_CLAIM_PART,
            busy=dict(self._busy),
            busy_bytes=dict(self._busy_bytes),
            now_ms=now_ms,
        )

    def answered(self) -> None:
        """Let go of what was held for a claim: its jobs are `take`n one by one."""
        self._asked = self._asked_bytes = 0
        self._part = 1.0
