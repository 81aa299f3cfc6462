"""What a scrape tells of the database: looked up when somebody asks, at most once in a few seconds
whoever asks, and within a bound. While the database does not answer these figures are absent, and
the others are there."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from dispatcher.metrics import Metrics
from dispatcher.store.errors import StoreError
from dispatcher.store.figures import DeliveryFigures
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.clock import monotonic_ms

_LOG: Final = log.get("dispatcher.metrics")
KEPT_MS: Final = 5_000
_LOOK_S: Final = 2.0
# Of all that a destination may be held for, those which are none are 0 in the sum, not absent.
_REASONS: Final = ("circuit", "disabled", "paused", "retry-after", "turned-away")


class Gauges(Collector):
    """The figures of deliveries and destinations, as they were last looked up. Registered
    destinations have series of their own, under their ids, so many at most, the oldest first."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        destinations_max: int,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._store = store
        self._destinations_max = destinations_max
        self._monotonic_ms = monotonic_ms
        self._figures: DeliveryFigures | None = None
        self._looked_ms: int | None = None
        self._looking: asyncio.Task[None] | None = None
        metrics.register(self)

    async def look(self) -> None:
        """See to it that the figures are not older than some seconds; whoever asks while somebody
        looks waits with them."""
        if self._looking is None:
            if self._looked_ms is not None and self._monotonic_ms() - self._looked_ms < KEPT_MS:
                return
            self._looking = asyncio.create_task(self._look(), name="figures")
        await asyncio.wait({self._looking})

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                self._figures = await self._store.figures(destinations_max=self._destinations_max)
        except (StoreError, TimeoutError) as error:
            self._figures = None
            _LOG.warning("figures of the database are missing", reason=str(error) or "too slow")
        except Exception as error:  # a scrape tells what it can
            self._figures = None
            _LOG.exception("figures of the database are missing", error)
        finally:
            self._looked_ms = self._monotonic_ms()
            self._looking = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield self._callbacks()
        yield from self._waiting()
        yield from self._destinations()

    def _callbacks(self) -> GaugeMetricFamily:
        family = _family("callbacks", "Callbacks that are kept, by state.", "state")
        for state, count in self._store.states().items():
            family.add_metric([state], count)
        return family

    def _waiting(self) -> Iterable[GaugeMetricFamily]:
        due = _family("due", "Deliveries that may go out now, counted up to 20,000 a class.")
        due_s = _family("due_seconds", "For how long the oldest of these might have gone.")
        held = _family("destinations_held", "Destinations that are held back, by reason.", "reason")
        replays = _family("replays_running", "Filtered replays that run.")
        left = _family("replays_left", "Callbacks that running replays have yet to feed.")
        figures = self._figures
        if figures is not None:
            due.add_metric([], figures.due)
            due_s.add_metric([], _age_s(figures.due_since_ms, figures.now_ms))
            for reason in _REASONS:
                held.add_metric([reason], figures.held.get(reason, 0))
            replays.add_metric([], figures.replays)
            left.add_metric([], figures.replays_left)
        return due, due_s, held, replays, left

    def _destinations(self) -> Iterable[GaugeMetricFamily]:
        waiting = _family(
            "destination_waiting", "Deliveries that wait for it, counted up to 1,000.", *_ONE
        )
        due_s = _family(
            "destination_due_seconds", "For how long its oldest one is due, held or not.", *_ONE
        )
        held = _family("destination_held", "1 while it is held back for that.", *_ONE, "reason")
        figures = self._figures
        if figures is not None:
            for one in figures.destinations:
                waiting.add_metric([one.id], one.waiting)
                due_s.add_metric([one.id], _age_s(one.due_since_ms, figures.now_ms))
                for reason in sorted(one.reasons):
                    held.add_metric([one.id, reason], 1)
        return waiting, due_s, held

    def names(self) -> bytes:
        """Return what the destinations are called that have series of their own, in the text
        format: for the platform's eyes alone."""
        registry = CollectorRegistry()
        registry.register(_Names(self._figures))
        return generate_latest(registry)


class _Names(Collector):
    def __init__(self, figures: DeliveryFigures | None) -> None:
        self._figures = figures

    def collect(self) -> Iterable[GaugeMetricFamily]:
        about = "The name of a registered destination, for platform keys."
        info = _family("destination_info", about, *_ONE, "name")
        for one in () if self._figures is None else self._figures.destinations:
            info.add_metric([one.id, one.name], 1)
        yield info


_ONE: Final = ("destination",)


def _family(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dispatcher_{name}", about, labels=labels)


def _age_s(since_ms: int | None, now_ms: int) -> float:
    return 0.0 if since_ms is None else max(0, now_ms - since_ms) / 1000
