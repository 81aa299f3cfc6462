"""Work that nobody waits for, cut into slices between everyone else's commits.

Who wants to commit waits for the slice that is being written. So, while others commit, a slice is
short, and it is followed by a rest several times as long: few of the others meet one, and those not
for long. While there are none, slices are long, and follow each other at once. What never ends has
to go as fast as it comes: once there was more of it for some time, it takes half of the time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

ROWS_MIN: Final = 25
"""So few rows a slice takes at least, however long that takes: else what waits would never end."""
ENDLESS_ROWS_MIN: Final = 100
"""So few of what never ends."""
BEHIND_S: Final = 10.0
"""What never ends, and had more to do for so long, has fallen behind."""
_SLICE_S: Final = 0.002
_RESTS: Final = 4  # the writer is free for four fifths of the time
_RESTS_BEHIND: Final = 1
_REST_S_MAX: Final = 0.025
_ALONE_S: Final = 1.0  # after the last commit of others


class Slices:
    """How much of one kind of work is done at once, and how much room it leaves to others.
    `committed` counts the operations that were committed until now, each slice as one of them. What
    is `endless` says by `end` that nothing is left for now."""

    def __init__(
        self,
        committed: Callable[[], int],
        *,
        rows_max: int,
        endless: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._committed = committed
        self._rows_max = rows_max
        self._endless = endless
        self._rows_min = min(ENDLESS_ROWS_MIN if endless else ROWS_MIN, rows_max)
        self._clock_s = clock_s
        self._sleep = sleep
        self._rows = self._rows_min
        self._counted: int | None = None  # with the last slice
        self._took_s = 0.0
        self._ended_s = 0.0
        self._others_s = clock_s()  # when they were last seen: until a slice has shown, just now
        self._more_since_s: float | None = None

    @property
    def rows(self) -> int:
        """How many rows the next slice is to take."""
        return self._rows

    async def do(self, one: Callable[[int], Awaitable[T]]) -> T:
        """Return what a slice of so many rows did. Raises what it raises."""
        counted = self._committed() if self._counted is None else self._counted
        begun_s = self._clock_s()
        done = await one(self._rows)
        self._ended_s = self._clock_s()
        self._took_s = self._ended_s - begun_s
        self._counted = self._committed()
        if self._counted - counted > 1:
            self._others_s = self._ended_s
        if self._is_alone() or self._is_behind():
            self._rows = self._rows_max
        elif self._took_s > _SLICE_S:
            self._rows = max(self._rows_min, self._rows // 2)
        elif self._took_s < _SLICE_S / 2:
            self._rows = min(self._rows_max, self._rows + ROWS_MIN)
        return done

    async def rest(self) -> None:
        """Leave the writer to others, if there are any, before the next slice."""
        if self._more_since_s is None:
            self._more_since_s = self._ended_s
        if not self._is_alone():
            rests = _RESTS_BEHIND if self._is_behind() else _RESTS
            await self._sleep(min(_REST_S_MAX, rests * self._took_s))

    def end(self) -> None:
        """Note that nothing is left: what comes next begins anew."""
        self._more_since_s = None

    def _is_behind(self) -> bool:
        since_s = self._more_since_s
        return self._endless and since_s is not None and self._ended_s - since_s > BEHIND_S

    def _is_alone(self) -> bool:
        return self._ended_s - self._others_s > _ALONE_S
