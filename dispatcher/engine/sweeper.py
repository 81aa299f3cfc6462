"""What is due to nobody's request: leases and maximum ages end, lanes are checked, old rows go.
All in small slices between everyone else's commits, and of each kind a slice in turn: what there is
much of keeps nothing else waiting."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.store.clocks import SLACK_MS, START, Place
from dispatcher.store.errors import StoreError
from dispatcher.store.requests import Retention
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms
from receiver.base.slices import Slices

_LOG: Final = log.get("dispatcher.sweeper")
# One slice of 200 rows holds a commit up for a few milliseconds (measured: about 20 µs a row).
SLICE: Final = 200
_SHRINK_PAGES: Final = 256
_WALKED: Final = 1_000  # rows read at once, of which hardly any is written
_LOOK_MS: Final = 1_000  # how often it looks whether the clock was set


Step = Callable[[], Awaitable[bool]]
"""Does one slice; returns whether there is more to do."""


class Sweeper:
    """Runs until it is stopped; a failing step is logged and tried again the next time. `others`
    are steps of other parts of the service."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        *,
        held: Callable[[], Collection[tuple[str, int]]] = frozenset,
        others: Sequence[Step] = (),
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._interval_s = settings.sweep_interval
        self._retention = _retention(settings)
        self._store = store
        self._metrics = metrics
        self._held = held
        self._others = others
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._offset_ms = clock() - monotonic_ms()
        # From where on what waits is hastened: from the start, since a clock may have been set
        # while we were down.
        self._place: Place | None = START
        self._trusted = True
        self._corrected = 0
        self._lane_after = ""
        self._tenant_after = ""
        self._pruning = False
        self._ages = Slices(lambda: store.committed, rows_max=SLICE, endless=True)
        self._prunes = Slices(lambda: store.committed, rows_max=SLICE, endless=True)
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
            until_ms = self._monotonic_ms() + round(self._interval_s * 1000)
            if not await self._sweep(until_ms):
                await self._pause(until_ms)

    async def _sweep(self, until_ms: int) -> bool:
        """Do slices of all kinds in turn, until nothing is left to do or all are to begin again,
        whoever is not done. Returns whether that is at once: the clock was set back."""
        left: list[Step] = [
            self._correct,
            self._reclaim,
            self._expire,
            self._repair_lanes,
            self._forget_schedules,
            self._prune,
            self._shrink,
            *self._others,
        ]
        while left:
            left = [step for step in left if await self._try(step)]
            if self._set_back():
                return True
            if self._monotonic_ms() >= until_ms:
                break
        return False

    async def _pause(self, until_ms: int) -> None:
        """Wait until then; not longer than a moment once the clock was set back."""
        left_ms = until_ms - self._monotonic_ms()
        while left_ms > 0 and not self._set_back():
            await asyncio.sleep(min(_LOOK_MS, left_ms) / 1000)  # no event tells of it
            left_ms = until_ms - self._monotonic_ms()

    def _set_back(self) -> bool:
        """Whether the clock has been, since this was last asked."""
        before_ms, self._offset_ms = self._offset_ms, self._clock() - self._monotonic_ms()
        if self._offset_ms >= before_ms - SLACK_MS:
            return False
        self._place, self._trusted = START, False
        return True

    async def _try(self, step: Step) -> bool:
        try:
            return await step()
        except StoreError as error:
            _LOG.warning("will try again", reason=str(error))
        except Exception:
            _LOG.exception("a sweep failed")
        return False

    async def _correct(self) -> bool:
        """Bring back what a clock that ran ahead has put off (D20)."""
        if self._place in (None, START):
            found = await self._store.bring_back(now_ms=self._clock(), limit=SLICE)
            if found:
                self._place, self._trusted = START, False
                self._corrected += found
            if found >= SLICE:
                return True
        if self._place is not None:
            found, self._place = await self._store.hasten(
                self._place, now_ms=self._clock(), trusted=self._trusted, limit=_WALKED
            )
            self._corrected += found
        if self._place is not None:
            return True
        self._trusted = True
        if self._corrected:
            message = "the clock was set back: what it had put off goes on"
            _LOG.warning(message, corrected=self._corrected)
            self._corrected = 0
        return False

    async def _reclaim(self) -> bool:
        reclaimed = await self._store.reclaim(now_ms=self._clock(), held=self._held())
        if reclaimed:
            self._metrics.reclaimed(reclaimed)
            _LOG.warning("leases ended without a result", deliveries=reclaimed)
        return False

    async def _expire(self) -> bool:
        """End what is past its age, or goes nowhere any more: where a destination is disabled, a
        million may be."""
        rows = self._ages.rows
        expired = await self._ages.do(
            lambda limit: self._store.expire(now_ms=self._clock(), limit=limit)
        )
        self._metrics.expired(expired)
        if expired < rows:
            self._ages.end()
            return False
        await self._ages.rest()
        return True

    async def _repair_lanes(self) -> bool:
        """One slice of lanes a sweep, so that a million of them cost no more than a few."""
        repaired, after = await self._store.repair_lanes(
            now_ms=self._clock(), after=self._lane_after, limit=SLICE
        )
        self._lane_after = after or ""
        if repaired:
            self._metrics.lane_repaired(repaired)
            _LOG.error("lanes disagreed with their deliveries and were repaired", lanes=repaired)
        return False

    async def _forget_schedules(self) -> bool:
        """One slice of tenants a sweep, too."""
        after = await self._store.forget_schedules(
            now_ms=self._clock(), after=self._tenant_after, limit=SLICE
        )
        self._tenant_after = after or ""
        return False

    async def _prune(self) -> bool:
        pruned = await self._prunes.do(
            lambda rows: self._store.prune(self._retention, now_ms=self._clock(), limit=rows)
        )
        self._metrics.pruned(pruned)
        self._pruning = pruned > 0
        if pruned:
            await self._prunes.rest()
        else:
            self._prunes.end()
        return self._pruning

    async def _shrink(self) -> bool:
        """Give space back, once no more of it comes: else pages would be moved that go anyway."""
        if self._pruning:
            return True
        return await self._store.shrink(pages=_SHRINK_PAGES) >= _SHRINK_PAGES


def _retention(settings: Settings) -> Retention:
    return Retention(
        delivered_payload_ms=round(settings.keep_delivered_payload * 1000),
        delivered_ms=round(settings.keep_delivered * 1000),
        dead_ms=round(settings.keep_dead * 1000),
        audit_ms=round(settings.keep_audit * 1000),
    )
