"""Part 4: what a large backlog on a held destination costs everybody else."""

import asyncio
import time
from typing import Final

from tests.bench import figures, process
from tests.bench.bench import Bench
from tests.bench.closed import Window
from tests.bench.figures import Figures
from tests.bench.process import Dispatcher, Memory

_FIRST_S: Final = 120.0
EMPTY: Final = "empty"
FULL: Final = "full"


async def measure(bench: Bench, store: str) -> Figures:
    """Fill a database, start on it and on an empty one, then let both work in turn."""
    began_s = time.monotonic()
    held = bench.options.backlog_of(store)
    await _fill(bench, store, FULL, held)
    fill_s = time.monotonic() - began_s
    starts = await _starts(bench, store)
    windows: dict[str, list[Window]] = {EMPTY: [], FULL: []}
    async with bench.running(EMPTY, store) as empty, bench.running(FULL, store) as full:
        pending = await _pending(full)
        for _ in range(bench.options.rounds):
            windows[EMPTY].append(await bench.saturate(empty))
            windows[FULL].append(await bench.saturate(full))
        memory = {EMPTY: empty.memory(), FULL: full.memory()}
        pending_after = await _pending(full)
    found = {name: figures.saturation(rounds) for name, rounds in windows.items()}
    return {
        "backlog": held,
        "pendingBefore": pending,
        "pendingAfter": pending_after,
        "fillSeconds": round(fill_s, 1),
        **{
            name: found[name]
            | _memory(memory[name])
            | {"startToFirstSeconds": _times(starts[name])}
            for name in (EMPTY, FULL)
        },
        "fullToEmpty": figures.ratio(
            found[FULL]["deliveredPerSecond"], found[EMPTY]["deliveredPerSecond"]
        ),
    }


async def _starts(bench: Bench, store: str) -> dict[str, list[float]]:
    """Seconds from making the process to the arrival of a delivery that was due already."""
    starts: dict[str, list[float]] = {EMPTY: [], FULL: []}
    for _ in range(bench.options.rounds):
        for name, seconds in starts.items():
            seconds.append(await _start(bench, store, name))
    return starts


async def _start(bench: Bench, store: str, name: str) -> float:
    number = next(bench.numbers)
    await _fill(bench, store, name, 0, due=number)
    arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def hear(heard: int, at_s: float) -> None:
        if heard == number and not arrived.done():
            arrived.set_result(at_s)

    async with bench.sink.hearing(hear), bench.running(name, store) as dispatcher:
        async with asyncio.timeout(_FIRST_S):
            return await arrived - dispatcher.started_s


async def _fill(bench: Bench, store: str, name: str, held: int, due: int = -1) -> None:
    """Through the store's own submit, in a process of its own, while no dispatcher runs."""
    await process.run_module(
        "tests.bench.fill",
        str(held),
        str(due),
        bench.sink.url,
        settings={
            **process.SETTINGS,
            "database_url": bench.database_url(name, store),
            "commit_rows_max": 4_096,
        },
    )


async def _pending(dispatcher: Dispatcher) -> int:
    async with dispatcher.client() as client:
        stats = (await client.get("/v1/stats")).raise_for_status().json()
        return int(stats["counts"]["pending"])


def _memory(memory: Memory) -> Figures:
    return {"rssBytes": memory.rss, "pssBytes": memory.pss, "peakRssBytes": memory.peak_rss}


def _times(seconds: list[float]) -> float | None:
    return figures.middle(seconds, 3)
