"""Waking the claimer exactly when work is ready: an event with a clock, and no polling."""

import asyncio
from typing import Final

# After a claim that came back empty although work looked ready (a tenant at its share, say), the
# next one waits for a slot to be given back, or this long.
EMPTY_CLAIM_WAIT_MS: Final = 20


class Alarm:
    """Ring at the time it is set to; who waits is woken once."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float | None) -> None:
        """Ring in `delay_s` seconds (at once if not positive), or not at all (None)."""
        self.stop()
        if delay_s is None:
            return
        if delay_s <= 0:
            self._rung.set()
        else:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._rung.set)

    def ring(self) -> None:
        """Ring now."""
        self._rung.set()

    def stop(self) -> None:
        """Forget the time it was set to; a ring that nobody waited for yet stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self) -> None:
        """Wait until it rings; that ends the ring."""
        await self._rung.wait()
        self._rung.clear()
