"""What is due to nobody's request: leases and maximum ages end, lanes are checked, old rows go.
All in small slices between everyone else's commits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.store.errors import StoreError
from dispatcher.store.requests import Retention
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.clock import now_ms

_LOG: Final = log.get("dispatcher.sweeper")
# One slice of 200 rows holds a commit up for a few milliseconds (measured: about 20 µs a row).
SLICE: Final = 200
_SHRINK_PAGES: Final = 256


class Sweeper:
    """Runs until it is stopped; a failing step is logged and tried again the next time."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        *,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._interval_s = settings.sweep_interval
        self._retention = _retention(settings)
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._lane_after = ""
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sweep."""
        self._sweeping = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self) -> None:
        """Stop where it is; every slice is whole."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})

    async def _run(self) -> None:
        while True:
            for step in (
                self._reclaim,
                self._expire,
                self._repair_lanes,
                self._prune,
                self._shrink,
            ):
                await self._try(step)
            await asyncio.sleep(self._interval_s)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except StoreError as error:
            _LOG.warning("will try again", reason=str(error))
        except Exception:
            _LOG.exception("a sweep failed")

    async def _reclaim(self) -> None:
        reclaimed = await self._store.reclaim(now_ms=self._clock())
        if reclaimed:
            self._metrics.reclaimed(reclaimed)
            _LOG.warning("leases ended without a result", deliveries=reclaimed)

    async def _expire(self) -> None:
        while expired := await self._store.expire(now_ms=self._clock(), limit=SLICE):
            self._metrics.expired(expired)
            if expired < SLICE:
                return

    async def _repair_lanes(self) -> None:
        """One slice of lanes a sweep, so that a million of them cost no more than a few."""
        repaired, after = await self._store.repair_lanes(
            now_ms=self._clock(), after=self._lane_after, limit=SLICE
        )
        self._lane_after = after or ""
        if repaired:
            self._metrics.lane_repaired(repaired)
            _LOG.error("lanes disagreed with their deliveries and were repaired", lanes=repaired)

    async def _prune(self) -> None:
        while pruned := await self._store.prune(self._retention, now_ms=self._clock(), limit=SLICE):
            self._metrics.pruned(pruned)

    async def _shrink(self) -> None:
        while await self._store.shrink(pages=_SHRINK_PAGES) >= _SHRINK_PAGES:
            pass


def _retention(settings: Settings) -> Retention:
    return Retention(
        delivered_payload_ms=round(settings.keep_delivered_payload * 1000),
        delivered_ms=round(settings.keep_delivered * 1000),
        dead_ms=round(settings.keep_dead * 1000),
    )
