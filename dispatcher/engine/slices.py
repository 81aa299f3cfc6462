"""Work that nobody waits for, cut into slices between everyone else's commits.

Who wants to commit waits for the slice that is being written. So, while others commit, a slice is
short, and it is followed by a rest several times as long: few of the others meet one, and those not
for long. While there are none, slices are long, and follow each other at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

ROWS_MIN: Final = 25
"""So few rows a slice takes at least, however long that takes: else what waits would never end."""
ROWS_MIN_STEADY: Final = 100
"""So few of what never ends, and must go as fast as it comes."""
_SLICE_S: Final = 0.002
_RESTS: Final = 4  # the writer is free for four fifths of the time
_REST_S_MAX: Final = 0.025
_ALONE_S: Final = 1.0  # after the last commit of others


class Slices:
    """How much of one kind of work is done at once, and how much room it leaves to others.
    `committed` counts the operations that were committed until now, each slice as one of them."""

    def __init__(
        self,
        committed: Callable[[], int],
        *,
        rows_max: int,
        rows_min: int = ROWS_MIN,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._committed = committed
        self._rows_max = rows_max
        self._rows_min = min(rows_min, rows_max)
        self._clock_s = clock_s
        self._sleep = sleep
        self._rows = self._rows_min
        self._counted: int | None = None  # with the last slice
        self._took_s = 0.0
        self._ended_s = 0.0
        self._others_s = clock_s()  # when they were last seen: until a slice has shown, just now

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
        if self._is_alone():
            self._rows = self._rows_max
        elif self._took_s > _SLICE_S:
            self._rows = max(self._rows_min, self._rows // 2)
        elif self._took_s < _SLICE_S / 2:
            self._rows = min(self._rows_max, self._rows + ROWS_MIN)
        return done

    async def rest(self) -> None:
        """Leave the writer to others, if there are any, before the next slice."""
        if not self._is_alone():
            await self._sleep(min(_REST_S_MAX, _RESTS * self._took_s))

    def _is_alone(self) -> bool:
        return self._ended_s - self._others_s > _ALONE_S
