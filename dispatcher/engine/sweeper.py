"""What is due to nobody's request: leases and maximum ages end, lanes are checked, old rows go.
All in small slices between everyone else's commits."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.store.clocks import SLACK_MS, START, Place
from dispatcher.store.errors import StoreError
from dispatcher.store.requests import Retention
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.sweeper")
# One slice of 200 rows holds a commit up for a few milliseconds (measured: about 20 µs a row).
SLICE: Final = 200
_SHRINK_PAGES: Final = 256
_WALKED: Final = 1_000  # rows read at once, of which hardly any is written
_LOOK_MS: Final = 1_000  # how often it looks whether the clock was set


class Sweeper:
    """Runs until it is stopped; a failing step is logged and tried again the next time."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        *,
        held: Callable[[], Collection[tuple[str, int]]] = frozenset,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._interval_s = settings.sweep_interval
        self._retention = _retention(settings)
        self._store = store
        self._metrics = metrics
        self._held = held
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._offset_ms = clock() - monotonic_ms()
        self._hasten = True  # at the start, too: a clock may have been set while we were down
        self._trusted = True
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
                self._correct,
                self._reclaim,
                self._expire,
                self._repair_lanes,
                self._prune,
                self._shrink,
            ):
                await self._try(step)
            await self._pause()

    async def _pause(self) -> None:
        """Wait for the interval; not longer than a moment once the clock was set back."""
        until_ms = self._monotonic_ms() + round(self._interval_s * 1000)
        left_ms = until_ms - self._monotonic_ms()
        while left_ms > 0 and not self._set_back():
            await asyncio.sleep(min(_LOOK_MS, left_ms) / 1000)  # no event tells of it
            left_ms = until_ms - self._monotonic_ms()

    def _set_back(self) -> bool:
        """Whether the clock has been, since this was last asked."""
        before_ms, self._offset_ms = self._offset_ms, self._clock() - self._monotonic_ms()
        if self._offset_ms >= before_ms - SLACK_MS:
            return False
        self._hasten, self._trusted = True, False
        return True

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except StoreError as error:
            _LOG.warning("will try again", reason=str(error))
        except Exception:
            _LOG.exception("a sweep failed")

    async def _correct(self) -> None:
        """Bring back what a clock that ran ahead has put off (D20)."""
        total = 0
        while found := await self._store.bring_back(now_ms=self._clock(), limit=SLICE):
            total += found
            self._hasten, self._trusted = True, False
            if found < SLICE:
                break
        place: Place | None = START if self._hasten else None
        while place is not None:
            found, place = await self._store.hasten(
                place, now_ms=self._clock(), trusted=self._trusted, limit=_WALKED
            )
            total += found
        self._hasten, self._trusted = False, True
        if total:
            _LOG.warning("the clock was set back: what it had put off goes on", corrected=total)

    async def _reclaim(self) -> None:
        reclaimed = await self._store.reclaim(now_ms=self._clock(), held=self._held())
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
