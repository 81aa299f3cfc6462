"""What one process has running of jobs: places, of which each open call takes one, and bytes of
inputs. Apart from the slots of deliveries: calls that last for hours never eat those."""

import math
from typing import Final

from dispatcher.jobs.values import JobClaimRequest

# While a claim is under way it has this part of what was free, and hand-over the rest.
_CLAIM_PART: Final = 0.75
_CLAIM_MAX: Final = 256  # jobs of one claim: a commit stays short, and the next one follows at once
_ANY_SIZE: Final = 2**62


class Places:
    """Bounded places. One is held before a job is known to be ours, so that the two ways in,
    hand-over and claim, never fill one place twice."""

    def __init__(self, places_max: int, *, bytes_max: int) -> None:
        self._max = places_max
        self._bytes_max = bytes_max
        self._taken = 0
        self._bytes = 0
        self._asked = 0
        self._asked_bytes = 0

    @property
    def taken(self) -> int:
        """Places that jobs hold."""
        return self._taken

    @property
    def free(self) -> int:
        """Places that nothing holds."""
        return self._max - self._taken - self._asked

    def admits(self, size: int) -> bool:
        """Whether one more job, with an input of `size` bytes, may be handed straight over. One
        that is larger than all there is goes alone."""
        if self.free <= 0:
            return False
        return self._bytes + self._asked_bytes + size <= self._bytes_max or self._is_idle

    def take(self, size: int) -> None:
        """Hold a place."""
        self._taken += 1
        self._bytes += size

    def give(self, size: int) -> None:
        """Let the place go."""
        self._taken -= 1
        self._bytes -= size

    def ask(
        self, process: str, now_ms: int, *, places_max: int = _CLAIM_MAX, in_vain: bool = False
    ) -> JobClaimRequest:
        """Hold what a claim may bring, and return what to claim; `answered` lets go of it. Where
        nothing runs, and nothing that fits was found (`in_vain`), one of any size may come."""
        bytes_free = math.ceil(max(0, self._bytes_max - self._bytes) * _CLAIM_PART)
        places = min(math.ceil(self.free * _CLAIM_PART), places_max)
        self._asked, self._asked_bytes = places, bytes_free
        if in_vain and not self._taken:
            places, bytes_free = min(1, places), _ANY_SIZE
        return JobClaimRequest(process=process, places=places, bytes_free=bytes_free, now_ms=now_ms)

    def answered(self) -> None:
        """Let go of what was held for a claim: its jobs are `take`n one by one."""
        self._asked = self._asked_bytes = 0

    @property
    def _is_idle(self) -> bool:
        return not self._taken and not self._asked
