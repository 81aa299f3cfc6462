"""What is known of endpoints now: what they have to do, and what is to be expected of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from dispatcher.jobs.endpoint import Endpoint, EndpointLoad
from dispatcher.jobs.estimates import Estimates, Histogram, What
from dispatcher.store.jobs.store import JobStore
from receiver.base.clock import monotonic_ms, now_ms

_KEPT_MS: Final = 5_000  # days of measurements do not change in a moment
_KEPT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Figures:
    """An endpoint's load, what is to be expected by it, and what was measured."""

    load: EndpointLoad
    estimates: Estimates
    measured: Mapping[What, Histogram]


class FigureBook:
    """Reads figures; measurements are kept for some seconds."""

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._kept: dict[str, tuple[Mapping[What, Histogram], int]] = {}

    async def of(self, endpoint: Endpoint) -> Figures:
        """Raise NotFound."""
        load = await self._store.load(endpoint.name)
        measured = await self._measured(endpoint.name)
        estimates = Estimates.of(endpoint.rules, load.window, measured["run"])
        return Figures(load, estimates, measured)

    async def estimates(self, endpoint: Endpoint) -> Estimates:
        """Return what is to be expected of an endpoint whose calls are all that it may have."""
        measured = await self._measured(endpoint.name)
        return Estimates.of(endpoint.rules, endpoint.rules.concurrency, measured["run"])

    async def _measured(self, endpoint: str) -> Mapping[What, Histogram]:
        kept = self._kept.get(endpoint)
        if kept is not None and self._monotonic_ms() < kept[1]:
            return kept[0]
        measured = await self._store.measured(endpoint, now_ms=self._clock())
        if len(self._kept) >= _KEPT_MAX:
            self._kept.clear()
        self._kept[endpoint] = measured, self._monotonic_ms() + _KEPT_MS
        return measured
