"""What happens on its own: leases and maximum ages end, lanes are checked, old rows go, and
filtered replays are fed. All in small slices between everyone else's commits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from dispatcher import logs
from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.store.base import Keep, Store, StoreError
from dispatcher.values import Replay
from receiver.base.clock import now_ms

_LOG: Final = logs.get("housekeeping")
# One slice of 200 rows holds a commit up for a few milliseconds (measured: about 20 µs a row).
SLICE: Final = 200
_SHRINK_PAGES: Final = 256
_REPLAY_TICK_S: Final = 0.1
_REPLAY_RETRY_S: Final = 1.0


class Housekeeping:
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
        self._keep = _keep(settings)
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._lane_after = ""
        self._replays = asyncio.Event()
        self._feeding: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, with the replays that a stop interrupted."""
        self._replays.set()
        self._tasks = [
            asyncio.create_task(self._sweep_on(), name="sweeper"),
            asyncio.create_task(self._find_replays(), name="replays"),
        ]

    async def stop(self) -> None:
        """Stop where it is; every slice is whole."""
        tasks = {*self._tasks, *self._feeding.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def wake_replays(self) -> None:
        """Return a replay was made: feed it."""
        self._replays.set()

    # --- sweeping ---

    async def _sweep_on(self) -> None:
        while True:
            for step in (self._reclaim, self._expire, self._mend, self._prune, self._shrink):
                await self._try(step)
            self._replays.set()  # in case one could not be begun, or was broken off
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

    async def _mend(self) -> None:
        """One slice of lanes a sweep, so that a million of them cost no more than a few."""
        mended, after = await self._store.mend_lanes(
            now_ms=self._clock(), after=self._lane_after, limit=SLICE
        )
        self._lane_after = after or ""
        if mended:
            self._metrics.lane_mended(mended)
            _LOG.error("lanes disagreed with their deliveries and were mended", lanes=mended)

    async def _prune(self) -> None:
        while pruned := await self._store.prune(self._keep, now_ms=self._clock(), limit=SLICE):
            self._metrics.pruned(pruned)

    async def _shrink(self) -> None:
        while await self._store.shrink(pages=_SHRINK_PAGES) >= _SHRINK_PAGES:
            pass

    # --- replays ---

    async def _find_replays(self) -> None:
        while True:
            await self._replays.wait()
            self._replays.clear()
            await self._try(self._feed_all)

    async def _feed_all(self) -> None:
        for replay in await self._store.running_replays():
            if replay.id not in self._feeding:
                task = asyncio.create_task(self._feed(replay), name=replay.id)
                self._feeding[replay.id] = task
                task.add_done_callback(lambda ended: self._feeding.pop(ended.get_name(), None))

    async def _feed(self, replay: Replay) -> None:
        pace = Pace(replay.rate_per_second, self._clock())
        while replay.state == "running":
            limit = pace.allows(self._clock(), most=SLICE)
            if not limit:
                await asyncio.sleep(_REPLAY_TICK_S)
                continue
            walked = replay.replayed + replay.skipped
            try:
                replay = await self._store.feed_replay(replay.id, limit=limit, now_ms=self._clock())
            except StoreError as error:
                _LOG.warning("a replay waits", id=replay.id, reason=str(error))
                await asyncio.sleep(_REPLAY_RETRY_S)
                continue
            pace.used(replay.replayed + replay.skipped - walked)
        _LOG.info(
            "replay ended",
            id=replay.id,
            state=replay.state,
            replayed=replay.replayed,
            skipped=replay.skipped,
        )


class Pace:
    """How many rows a replay may feed by now; without a rate, as many as asked for."""

    def __init__(self, rate_per_second: float | None, started_ms: int) -> None:
        self._rate = rate_per_second
        self._started_ms = started_ms
        self._used = 0

    def allows(self, at_ms: int, *, most: int) -> int:
        """Return the first row goes at once."""
        if self._rate is None:
            return most
        earned = 1 + int((at_ms - self._started_ms) / 1000 * self._rate)
        return max(0, min(most, earned - self._used))

    def used(self, rows: int) -> None:
        """So many were fed."""
        self._used += rows


def _keep(settings: Settings) -> Keep:
    return Keep(
        delivered_payload_ms=round(settings.keep_delivered_payload * 1000),
        delivered_ms=round(settings.keep_delivered * 1000),
        dead_ms=round(settings.keep_dead * 1000),
    )
