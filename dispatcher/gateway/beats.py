"""Which of the processes on a database live. Each counts its own beat up; the others watch it by
their own clocks, and no time is compared between machines (D20). A lease belongs to a process, not
to a job, so that thousands of calls that last for hours cost one row.

What follows from it: a process that could not beat for three quarters of a lease starts nothing new
(`Pulse`), and one is called dead by whoever has seen its beat unchanged for a whole lease, with the
database reachable throughout (`Watch`). So nobody's jobs are taken over while it may still start
some. A call that is open goes on whatever happens to the database: it is closed only once another
process is known to have taken its job over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from dispatcher.store.errors import StoreError
from receiver.base import log
from receiver.base.clock import monotonic_ms

_LOG: Final = log.get("dispatcher.beats")
BEATS: Final = 12  # in a lease
_START_PART: Final = 0.75
# Without a look for so long the database counts as away: what happened meanwhile nobody saw.
_CONTACT_PART: Final = 0.25
_RETRY_MS: Final = 1_000


class Pulse:
    """Our own beats, as the others may have seen them."""

    def __init__(self, lease_ms: int) -> None:
        self._start_ms = round(lease_ms * _START_PART)
        self._beaten_ms: int | None = None

    def beaten(self, began_ms: int) -> None:
        """Note that a beat is on disk which was begun then: nobody saw it earlier."""
        self._beaten_ms = began_ms

    def lost(self) -> None:
        """Note that others have called us dead."""
        self._beaten_ms = None

    def may_start(self, at_ms: int) -> bool:
        """Whether something new may be started now: nobody takes it over for a while."""
        return self._beaten_ms is not None and at_ms - self._beaten_ms < self._start_ms


class Watch:
    """The others' beats, as one process saw them."""

    def __init__(self, lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self._gap_ms = round(lease_ms * _CONTACT_PART)
        self._looked_ms: int | None = None  # when the last look ended; None: it failed
        self._seen: dict[str, tuple[int, int]] = {}  # beats, and since when they are unchanged

    def away(self) -> None:
        """Note that the database was not reached: what was seen before counts for nothing."""
        self._looked_ms = None

    def dead(self, beats: Mapping[str, int], *, began_ms: int, ended_ms: int) -> dict[str, int]:
        """Return who is dead, each with the beat it died at, by a look at `beats` that began and
        ended then. A beat that is new was there when the look ended at the latest; one that is
        not was still there when it began."""
        last_ms, self._looked_ms = self._looked_ms, ended_ms
        if last_ms is None or began_ms - last_ms > self._gap_ms:
            self._seen = {}
        before = self._seen
        self._seen = {
            id: before[id] if id in before and before[id][0] == beat else (beat, ended_ms)
            for id, beat in beats.items()
        }
        return {
            id: beat
            for id, (beat, since_ms) in self._seen.items()
            if began_ms - since_ms >= self._lease_ms
        }


class Beats:
    """Beats and watches until it is stopped.

    `beat` counts our own up and returns all others'; None where ours is gone, since somebody has
    called us dead and taken over what we ran: the next one begins anew. `take_over` is given who is
    dead, and its last beat, and does nothing where that one beats again.
    """

    def __init__(
        self,
        lease_s: float,
        beat: Callable[[], Awaitable[Mapping[str, int] | None]],
        take_over: Callable[[str, int], Awaitable[object]],
        *,
        monotonic_ms: Callable[[], int] = monotonic_ms,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        lease_ms = round(lease_s * 1000)
        self._every_ms = lease_ms // BEATS
        self._beat = beat
        self._take_over = take_over
        self._monotonic_ms = monotonic_ms
        self._sleep = sleep
        self._pulse = Pulse(lease_ms)
        self._watch = Watch(lease_ms)
        self._beating: asyncio.Task[None] | None = None

    def may_start(self) -> bool:
        """Whether something new may be started now."""
        return self._pulse.may_start(self._monotonic_ms())

    def start(self) -> None:
        """Begin to beat."""
        self._beating = asyncio.create_task(self._run(), name="beats")

    async def stop(self) -> None:
        """Beat no more."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})

    async def _run(self) -> None:
        while True:
            began_ms = self._monotonic_ms()
            wait_ms = self._every_ms if await self._try() else min(_RETRY_MS, self._every_ms)
            await self._sleep(max(0, began_ms + wait_ms - self._monotonic_ms()) / 1000)

    async def _try(self) -> bool:
        try:
            await self.step()
        except StoreError as error:
            _LOG.warning("cannot beat", reason=str(error))
        except Exception as error:
            _LOG.exception("beating failed", error)
        else:
            return True
        return False

    async def step(self) -> None:
        """Beat once, look at the others, and take over from who is dead. Raises what the database
        does; then nothing counts as seen."""
        began_ms = self._monotonic_ms()
        try:
            beats = await self._beat()
        except BaseException:
            self._watch.away()
            raise
        ended_ms = self._monotonic_ms()
        if beats is None:
            self._pulse.lost()
            self._watch.away()
            _LOG.error("others took us for dead: what we ran goes on elsewhere")
            return
        self._pulse.beaten(began_ms)
        for id, beat in self._watch.dead(beats, began_ms=began_ms, ended_ms=ended_ms).items():
            _LOG.warning("a process is dead: its jobs are taken over", process=id)
            await self._take_over(id, beat)
