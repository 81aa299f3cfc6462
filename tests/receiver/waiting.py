"""Waiting for what happens on its own time, without guessing how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

ENDS_WITHIN_S = 60.0


async def until(happened: Callable[[], bool | Awaitable[bool]]) -> None:
    """Until it has happened. AssertionError when it does not in a long time."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while True:
        found = happened()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


def wait_until(happened: Callable[[], bool]) -> None:
    """As `until`, without a loop."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
