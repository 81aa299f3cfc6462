"""Part 1: how much goes through at saturation, beside the bare relay, and while the dispatcher
has other things to do."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final

from tests.bench import figures
from tests.bench.bench import Bench
from tests.bench.bustle import Bustle, prepared
from tests.bench.closed import Window
from tests.bench.figures import Figures

# For the busy one: everything delivered is due for retention a second later.
_RETENTION: Final[dict[str, Any]] = {
    "keep_delivered_payload": 1,
    "keep_delivered": 1,
    "keep_keys": 1,
    "sweep_interval": 0.5,
}


async def measure(bench: Bench) -> Figures:
    """Rounds of durable, relay and busy in turn: all three run all the time, one has work."""
    windows: dict[str, list[Window]] = {"durable": [], "relay": [], "busy": []}
    async with AsyncExitStack() as stack:
        durable = await stack.enter_async_context(bench.running("durable"))
        relay = await stack.enter_async_context(bench.running("relay", store="relay"))
        busy = await stack.enter_async_context(bench.running("busy", **_RETENTION))
        bustle = await stack.enter_async_context(prepared(bench, busy))
        for _ in range(bench.options.rounds):
            windows["durable"].append(await bench.saturate(durable))
            windows["relay"].append(await bench.saturate(relay))
            async with bustle.going_on():
                windows["busy"].append(await bench.saturate(busy))
        return _figures(windows, bustle)


def _figures(windows: dict[str, list[Window]], bustle: Bustle) -> Figures:
    found = {name: figures.saturation(rounds) for name, rounds in windows.items()}
    base = found["relay"]["deliveredPerSecond"]
    return {
        **found,
        "durableToRelay": figures.ratio(found["durable"]["deliveredPerSecond"], base),
        "busyToRelay": figures.ratio(found["busy"]["deliveredPerSecond"], base),
        "beside": bustle.figures(),
    }
