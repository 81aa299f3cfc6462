"""Part 1: how much goes through at saturation, beside the bare relay, and while the dispatcher
has other things to do."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from tests.bench import figures
from tests.bench.bench import Bench
from tests.bench.bustle import Bustle, prepared
from tests.bench.closed import Window
from tests.bench.figures import Figures
from tests.bench.process import Dispatcher

# For the busy one: everything delivered is due for retention a second later.
_RETENTION: Final[dict[str, Any]] = {
    "keep_delivered_payload": 1,
    "keep_delivered": 1,
    "keep_keys": 1,
    "sweep_interval": 0.5,
}


@dataclass(slots=True, kw_only=True)
class _Side:
    """Two dispatchers on one store, and what was seen of them."""

    durable: Dispatcher
    busy: Dispatcher
    bustle: Bustle
    windows: dict[str, list[Window]] = field(default_factory=lambda: {"durable": [], "busy": []})


async def measure(bench: Bench) -> Figures:
    """Rounds of durable, relay and busy in turn, over all stores: all run all the time, one has
    work."""
    relayed: list[Window] = []
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(bench.running("relay", "relay"))
        sides = {store: await _side(bench, stack, store) for store in bench.options.stores}
        for _ in range(bench.options.rounds):
            for side in sides.values():
                side.windows["durable"].append(await bench.saturate(side.durable))
            relayed.append(await bench.saturate(relay))
            for side in sides.values():
                async with side.bustle.going_on():
                    window = await bench.saturate(side.busy, others=True)
                    side.windows["busy"].append(window)
    base = figures.saturation(relayed)
    return {store: _figures(side, base) for store, side in sides.items()}


async def _side(bench: Bench, stack: AsyncExitStack, store: str) -> _Side:
    durable = await stack.enter_async_context(bench.running("durable", store))
    busy = await stack.enter_async_context(bench.running("busy", store, **_RETENTION))
    bustle = await stack.enter_async_context(prepared(bench, busy))
    return _Side(durable=durable, busy=busy, bustle=bustle)


def _figures(side: _Side, relay: Mapping[str, object]) -> Figures:
    found = {name: figures.saturation(rounds) for name, rounds in side.windows.items()}
    base = relay["deliveredPerSecond"]
    return {
        "durable": found["durable"],
        "relay": relay,
        "busy": found["busy"],
        "durableToRelay": figures.ratio(found["durable"]["deliveredPerSecond"], base),
        "busyToRelay": figures.ratio(found["busy"]["deliveredPerSecond"], base),
        "beside": side.bustle.figures(),
    }
