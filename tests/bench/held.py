"""The held half of part 8: what a backlog of jobs at one paused endpoint costs everybody else, how
long looking at it takes, and how long emptying it."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from tests.bench import figures, jobs, process
from tests.bench.asking import Asker, asking
from tests.bench.bench import Bench
from tests.bench.closed import ClosedLoop, Window
from tests.bench.figures import Figures
from tests.bench.jobs import Callbacks, JobSubmits, Model
from tests.bench.paced import Paced
from tests.bench.process import Dispatcher

NAMES: Final = ("nobody", "everybody")
_RATE_PER_S: Final = 100
_LOOKED_AT: Final = 20


async def measure(bench: Bench, store: str, model: Model, sink: Callbacks) -> Figures:
    """Two gateways in turn, one with the backlog; then looks at it, and a purge of all of it
    beside a steady rate."""
    held = bench.options.backlog_of(store)
    began_s = time.monotonic()
    for name, count in zip(NAMES, (0, held), strict=True):
        await _fill(bench, store, name, count, model)
    fill_s = time.monotonic() - began_s
    windows: dict[str, list[Window]] = {name: [] for name in NAMES}
    nobody, everybody = NAMES
    async with AsyncExitStack() as stack:
        empty, empty_s = await _started(bench, store, nobody, stack)
        full, full_s = await _started(bench, store, everybody, stack)
        for _ in range(bench.options.rounds):
            windows[nobody].append(await _saturated(bench, empty, sink))
            windows[everybody].append(await _saturated(bench, full, sink))
        memory = full.memory()
        looks = await _looks(full, bench.options.looks)
        before = await _paced(bench, full, sink)
        purge_ms, beside = await _purged(bench, full, sink)
    found = {name: figures.saturation(rounds) for name, rounds in windows.items()}
    return {
        "backlog": held,
        "fillSeconds": round(fill_s, 1),
        "withToWithout": figures.ratio(
            found[everybody]["deliveredPerSecond"], found[nobody]["deliveredPerSecond"]
        ),
        "startSeconds": round(full_s, 3),
        "startWithoutSeconds": round(empty_s, 3),
        "rssBytes": memory.rss,
        **looks,
        "purgeMs": purge_ms,
        "acceptP99Ms": before["acceptP99Ms"],
        "acceptBesidePurgeP99Ms": beside["acceptP99Ms"],
    }


async def _fill(bench: Bench, store: str, name: str, held: int, model: Model) -> None:
    """Through the store's own submit, in a process of its own, while no dispatcher runs."""
    await process.run_module(
        "tests.bench.fill_jobs",
        str(held),
        model.url,
        settings={
            **process.SETTINGS,
            "database_url": bench.database_url(name, store),
            "commit_rows_max": 4_096,
        },
    )


async def _started(
    bench: Bench, store: str, name: str, stack: AsyncExitStack
) -> tuple[Dispatcher, float]:
    """A dispatcher, and how many seconds after its process was made it was ready."""
    made = await stack.enter_async_context(bench.running(name, store, job_places=jobs.PLACES))
    async with asking(made.url) as asker:
        await asker.ask("GET", "/readyz")
    return made, time.monotonic() - made.started_s


async def _saturated(bench: Bench, dispatcher: Dispatcher, sink: Callbacks) -> Window:
    submits = [JobSubmits(dispatcher.url, sink.url)]
    loop = ClosedLoop(submits, sink, bench.numbers, in_flight=jobs.IN_FLIGHT)
    return await loop.measure(
        dispatcher.cpu_s, warm_up_s=bench.options.warm_up, seconds=bench.options.seconds
    )


async def _looks(dispatcher: Dispatcher, looks: int) -> Figures:
    """How long it takes to see the place in the queue of one of its last jobs, and what the
    endpoint has to do."""
    async with asking(dispatcher.url) as asker:
        ids = [await _submitted(asker, n) for n in range(_LOOKED_AT)]
        answers = [await asker.ask("GET", f"/v1/jobs/{ids[n % len(ids)]}") for n in range(looks)]
        loads = [await asker.ask("GET", f"/v1/endpoints/{jobs.HELD}/load") for _ in range(looks)]
    status, load = [one.seconds for one in answers], [one.seconds for one in loads]
    return {
        "statusHasPosition": all("position" in one.json() for one in answers),
        "statusP50Ms": figures.quantile_ms(status, 0.5),
        "statusP99Ms": figures.quantile_ms(status, 0.99),
        "loadQueued": loads[-1].json()["queued"],
        "loadP50Ms": figures.quantile_ms(load, 0.5),
        "loadP99Ms": figures.quantile_ms(load, 0.99),
    }


async def _submitted(asker: Asker, number: int) -> str:
    answer = await asker.ask("POST", f"/v1/endpoints/{jobs.HELD}/jobs", JobSubmits.body(number))
    return str(answer.json()["id"])


async def _paced(bench: Bench, dispatcher: Dispatcher, sink: Callbacks) -> Figures:
    paced = Paced(JobSubmits(dispatcher.url, sink.url), sink, bench.numbers)
    return figures.latency(await paced.run(rate=_RATE_PER_S, seconds=2 * bench.options.seconds))


async def _purged(
    bench: Bench, dispatcher: Dispatcher, sink: Callbacks
) -> tuple[float | None, Figures]:
    beside = asyncio.create_task(_paced(bench, dispatcher, sink))
    await asyncio.sleep(bench.options.seconds / 4)
    async with dispatcher.client() as client:
        await client.get("/v1/stats")  # it is connected
        began_s = time.monotonic()
        answer = await client.post(
            f"/v1/endpoints/{jobs.HELD}/purge", json={"allTenants": True, "callbacks": False}
        )
        purge_ms = round((time.monotonic() - began_s) * 1000, 1) if answer.is_success else None
    return purge_ms, await beside
