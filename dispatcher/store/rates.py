"""How much happened a second, over the last minute: in memory, so a restart begins again."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

from dispatcher.store.tx import Event

WINDOW_S: Final = 60


class Rates:
    """Events per tenant, one bucket a second."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, Counter[tuple[str, Event]]]] = deque()
        self._first_s: int | None = None

    def add(self, events: Mapping[tuple[str, Event], int], *, now_ms: int) -> None:
        """Count events that were committed now."""
        second = now_ms // 1000
        self._first_s = second if self._first_s is None else self._first_s
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append((second, Counter()))
            self._forget(second)
        self._buckets[-1][1].update(events)

    def per_second(self, event: Event, tenant: str | None, *, now_ms: int) -> float:
        """Return the mean over the last minute, or over the time since the first event."""
        second = now_ms // 1000
        self._forget(second)
        if self._first_s is None:
            return 0.0
        total = sum(
            count
            for _, bucket in self._buckets
            for (owner, what), count in bucket.items()
            if what == event and tenant in (None, owner)
        )
        return total / max(1, min(WINDOW_S, second - self._first_s + 1))

    def _forget(self, second: int) -> None:
        while self._buckets and self._buckets[0][0] <= second - WINDOW_S:
            self._buckets.popleft()
