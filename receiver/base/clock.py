"""The time of day, as everything here takes it: a function that gives Unix milliseconds."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

NowMs: TypeAlias = Callable[[], int]

# Nothing sleeps longer: a clock that was set, or a laptop that slept, is noticed by then.
_NAP_MAX_S: Final = 30.0


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


async def wait_until(wake: asyncio.Event, due_ms: int | None, now_ms: int) -> None:
    """Until `wake` is set (it is cleared), or the time has come, or for a short while."""
    nap_s = _NAP_MAX_S if due_ms is None else min(_NAP_MAX_S, max(0, due_ms - now_ms) / 1000)
    with suppress(TimeoutError):
        async with asyncio.timeout(nap_s):
            await wake.wait()
    wake.clear()
