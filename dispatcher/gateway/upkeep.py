"""What is due of jobs to nobody's request: done in slices by the sweeper, and at the start."""

from collections.abc import Callable
from typing import Final

from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.store.clocks import HOLD_MS, SLACK_MS
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.slices import Slices

_LOG: Final = log.get("dispatcher.gateway")
# One slice of 200 rows holds a commit up for a few milliseconds, as of callbacks.
SLICE: Final = 200
_SHOW_MS: Final = 5_000


class Upkeep:
    """Keeps jobs in order: what clocks put off, what nobody runs, what has expired, what was
    purged, what could not be told, what was kept for long enough. Each does one slice, and returns
    whether there is more. `process` is who we are."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        metrics: Metrics,
        process: str,
        clock: Callable[[], int],
        monotonic_ms: Callable[[], int],
    ) -> None:
        self._jobs = store.jobs
        self._metrics = metrics
        self._process = process
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._queue_after = ""
        self._purges = Slices(lambda: store.committed, rows_max=SLICE)
        self._prunes = Slices(lambda: store.committed, rows_max=SLICE, endless=True)
        self._show_ms = 0  # when loads are read next, for the metrics
        self._offset_ms = clock() - monotonic_ms()
        self._retry_after_ms = round(settings.retry_after_max * 1000)
        # What waits to be run again waits for no longer than this; None where there is no doubt.
        self._put_off_ms: int | None = self._retry_after_ms + HOLD_MS

    async def correct(self) -> bool:
        """Bring back what a clock that ran ahead has put off (D20): also one that was set while
        this service was down, as far as that can be told from what upstreams ask for."""
        offset_ms = self._clock() - self._monotonic_ms()
        set_back, self._offset_ms = offset_ms < self._offset_ms - SLACK_MS, offset_ms
        at_ms = self._clock()
        ahead = await self._jobs.bring_back(
            now_ms=at_ms, retry_after_ms=self._retry_after_ms, limit=SLICE
        )
        if set_back or ahead:
            self._put_off_ms = HOLD_MS
        is_doubtful = self._put_off_ms is not None
        calls = await self._jobs.bring_calls_back(now_ms=at_ms, signs=is_doubtful, limit=SLICE)
        if calls:
            self._put_off_ms = HOLD_MS
        late = 0
        if self._put_off_ms is not None:
            late = await self._jobs.hasten(now_ms=at_ms, wait_ms=self._put_off_ms, limit=SLICE)
        if ahead or calls or late:
            message = "the clock was set back: what it had put off goes on"
            _LOG.warning(message, endpoints=ahead, jobs=late + calls)
        if max(calls, late) < SLICE:
            self._put_off_ms = None
        return max(ahead, calls, late) >= SLICE

    async def orphans(self) -> bool:
        """Take over what processes left behind that nobody watches: they left, or were already
        called dead when the last of their claims was stored."""
        taken = await self._jobs.reclaim_orphans(
            beside=self._process, now_ms=self._clock(), limit=SLICE
        )
        if taken:
            self._metrics.jobs_taken_over(taken)
            _LOG.warning("jobs that no process runs go on", jobs=taken)
        return taken >= SLICE

    async def expire(self) -> bool:
        """End what waited for longer than it may."""
        expired = await self._jobs.expire(now_ms=self._clock(), limit=SLICE)
        self._metrics.jobs_expired(expired)
        return expired >= SLICE

    async def end_purged(self) -> bool:
        """End what waited in queues that were purged."""
        ended, more = await self._purges.do(
            lambda rows: self._jobs.end_purged(now_ms=self._clock(), limit=rows)
        )
        self._metrics.jobs_purged(ended)
        if more:  # a million may follow
            await self._purges.rest()
        return more

    async def tell(self) -> bool:
        """Tell the ends of jobs that a key was missing for, which is there now."""
        told = await self._jobs.tell_untold(now_ms=self._clock(), limit=SLICE)
        if told:
            _LOG.warning("ends of jobs are told that no key had opened", jobs=told)
        return told >= SLICE

    async def repair(self) -> bool:
        """Repair one slice of queues a sweep, as of lanes."""
        repaired, after = await self._jobs.repair(after=self._queue_after, limit=SLICE)
        self._queue_after = after or ""
        if repaired:
            self._metrics.queues_repaired(repaired)
            _LOG.error("queues disagreed with their jobs and were repaired", queues=repaired)
        return False

    async def prune(self) -> bool:
        """Remove what is past what its endpoint keeps, and old figures."""
        pruned = await self._prunes.do(
            lambda rows: self._jobs.prune(now_ms=self._clock(), limit=rows)
        )
        self._metrics.jobs_pruned(pruned)
        if pruned:
            await self._prunes.rest()
        else:
            self._prunes.end()
        return pruned > 0

    async def show_loads(self) -> bool:
        """Have the metrics show what endpoints have to do, of all processes."""
        at_ms = self._monotonic_ms()
        if at_ms >= self._show_ms:
            self._show_ms = at_ms + _SHOW_MS
            now_ms = self._clock()
            self._metrics.show_loads(await self._jobs.loads(now_ms=now_ms), now_ms)
        return False
