"""How fast long things are written while others commit: they give way to them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

_LOOK_S: Final = 0.25
_OTHERS: Final = 40.0  # operations a second, of which a few are the long things' own
# Beside 50 submits a second on PostgreSQL (`tests.bench.outputs`) their p99 is 36 times that alone
# where nothing rests, 40 times with as long a rest as the write took, twice with four times that.
_REST: Final = 4.0
_REST_S_MAX: Final = 0.25


class Throttle:
    """Lets the parts of all long things that a process writes go as fast as they can while hardly
    anybody commits, and else one after another, each followed by a rest."""

    def __init__(
        self, commits: Callable[[], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Of `commits`, how many operations have been committed, by anybody."""
        self._commits = commits
        self._clock = clock
        self._turn = asyncio.Lock()
        self._seen = 0
        self._looked_s = 0.0
        self._gives_way = False

    async def write(self, write: Callable[[bool], Awaitable[None]]) -> None:
        """Do `write`; it is told whether it is to be on disk when it returns: what is not stands
        before the next commit of somebody else."""
        if not self._is_busy():
            await write(False)
            return
        async with self._turn:
            begun_s = self._clock()
            await write(True)
            took_s = self._clock() - begun_s
            await asyncio.sleep(min(took_s * _REST, _REST_S_MAX))

    def _is_busy(self) -> bool:
        now_s = self._clock()
        past_s = now_s - self._looked_s
        if past_s >= _LOOK_S:
            commits = self._commits()
            self._gives_way = (commits - self._seen) / past_s >= _OTHERS
            self._seen, self._looked_s = commits, now_s
        return self._gives_way
