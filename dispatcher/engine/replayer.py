"""Feeding filtered replays: their fixed sets walked in small slices, at the rate asked for."""

import asyncio
from collections.abc import Callable
from typing import Final

from dispatcher.settings import Settings
from dispatcher.store.errors import StoreError
from dispatcher.store.store import Store
from dispatcher.values import Replay
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.replayer")
# One slice of 200 rows holds a commit up for a few milliseconds (measured: about 20 µs a row).
SLICE: Final = 200
_TICK_S: Final = 0.1
_RETRY_S: Final = 1.0


class Replayer:
    """Feeds every running replay until it is done or cancelled; a fault is logged and retried.

    Call `wake` when a replay was made. What a stop interrupts goes on at the next start.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        # One that another process left, or that a fault broke off, is found after this long.
        self._interval_s = settings.sweep_interval
        self._store = store
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._awake = asyncio.Event()
        self._feeding: dict[str, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with the replays that a stop interrupted."""
        self._awake.set()
        self._looking = asyncio.create_task(self._run(), name="replayer")

    async def stop(self) -> None:
        """Stop where it is; every slice is whole."""
        tasks = {*self._feeding.values(), *([self._looking] if self._looking else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def wake(self) -> None:
        """Look for replays to feed."""
        self._awake.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._awake.wait()
            except TimeoutError:
                pass
            self._awake.clear()
            try:
                await self._feed_all()
            except StoreError as error:
                _LOG.warning("will try again", reason=str(error))
            except Exception:
                _LOG.exception("looking for replays failed")

    async def _feed_all(self) -> None:
        for replay in await self._store.running_replays():
            if replay.id not in self._feeding:
                task = asyncio.create_task(self._feed(replay), name=replay.id)
                self._feeding[replay.id] = task
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._feeding.pop(task.get_name(), None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a replay was broken off", id=task.get_name(), error=repr(error))

    async def _feed(self, replay: Replay) -> None:
        pace = Pace(replay.rate_per_second, self._monotonic_ms())
        while replay.state == "running":
            limit = pace.allows(self._monotonic_ms(), rows_max=SLICE)
            if not limit:
                await asyncio.sleep(_TICK_S)
                continue
            walked = replay.replayed + replay.skipped
            try:
                replay = await self._store.feed_replay(
                    replay.id, limit=limit, now_ms=self._clock(), tenant=replay.tenant
                )
            except StoreError as error:
                _LOG.warning("a replay waits", id=replay.id, reason=str(error))
                await asyncio.sleep(_RETRY_S)
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
    """How many rows a replay may feed by now, by a clock that nobody sets; without a rate, as many
    as requested."""

    def __init__(self, rate_per_second: float | None, started_ms: int) -> None:
        self._rate = rate_per_second
        self._started_ms = started_ms
        self._used = 0

    def allows(self, at_ms: int, *, rows_max: int) -> int:
        """Return how many rows may be fed now, at most `rows_max`; the first goes at once."""
        if self._rate is None:
            return rows_max
        earned = 1 + int((at_ms - self._started_ms) / 1000 * self._rate)
        return max(0, min(rows_max, earned - self._used))

    def used(self, rows: int) -> None:
        """Count rows that were fed."""
        self._used += rows
