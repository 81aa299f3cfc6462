"""Part 8: jobs: how many go through the gateway beside a bare asynchronous proxy that stores
nothing, how long each stretch of one takes, and what calls cost that are open for long.

A job is submitted, its upstream answers 1 KiB at once, its callback is acknowledged. Model and sink
run in the load generator's process, on one clock with it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.bench import figures, held, jobs, process, waits
from tests.bench.bench import Bench
from tests.bench.closed import ClosedLoop, Window, since
from tests.bench.figures import Figures
from tests.bench.jobs import Callbacks, JobSubmits, Model
from tests.bench.paced import Paced
from tests.bench.process import Child, Dispatcher

RATE_PER_S: Final = 200
_CREATED: Final = 201
_OPENED_S: Final = 60.0
_SETTLE_S: Final = 1.0
_CLIENTS: Final = 32


@dataclass(slots=True, kw_only=True)
class _Seen:
    """Of all rounds."""

    gateway: list[Window] = field(default_factory=list)
    proxy: list[Window] = field(default_factory=list)
    steady: list[Figures] = field(default_factory=list)


async def measure(bench: Bench, store: str) -> Figures:
    """Rounds of the gateway and of the proxy in turn: both run all the time, one has work. Then a
    steady rate, and calls that nobody answers."""
    seen = _Seen()
    async with AsyncExitStack() as stack:
        model, sink = await stack.enter_async_context(jobs.listening())
        dispatcher = await stack.enter_async_context(
            bench.running("gateway", store, job_places=jobs.PLACES)
        )
        proxy = await stack.enter_async_context(_proxy(bench, model))
        await _register(dispatcher, model, bench.options.open_calls)
        for _ in range(bench.options.rounds):
            seen.gateway.append(await _saturated(bench, store, dispatcher, sink))
            seen.proxy.append(await _saturated(bench, store, proxy, sink))
        for _ in range(bench.options.rounds):
            seen.steady.append(await _steady(bench, dispatcher, model, sink))
        waited = await waits.measure(dispatcher, model, bench.options.looks)
        opened = await _opened(bench, dispatcher, model)
        held_back = await held.measure(bench, store, model, sink)
    gateway, bare = figures.saturation(seen.gateway), figures.saturation(seen.proxy)
    return {
        "gateway": gateway,
        "proxy": bare,
        "gatewayToProxy": figures.ratio(gateway["deliveredPerSecond"], bare["deliveredPerSecond"]),
        "ratePerSecond": RATE_PER_S,
        "steady": figures.medians(seen.steady),
        "waited": waited,
        "open": opened,
        "held": held_back,
    }


def _proxy(bench: Bench, model: Model) -> AbstractAsyncContextManager[Child]:
    log_path = bench.directory / "proxy.log"
    return process.proxying(model.url, log_path, cores=bench.cores.dispatcher)


async def _register(dispatcher: Dispatcher, model: Model, open_calls: int) -> None:
    """Make the endpoints: one with room for all, and one that is never answered."""
    async with dispatcher.client() as client:
        for name, url, concurrency in (
            (jobs.ENDPOINT, model.url, jobs.PLACES),
            (jobs.SILENT, model.silent_url, open_calls),
        ):
            rules = {"name": name, "url": url, "concurrency": concurrency, "timeout": "1h"}
            answer = await client.post("/v1/endpoints", json=rules)
            if answer.status_code != _CREATED:
                raise RuntimeError(f"an endpoint was not made: {answer.text}")


async def _saturated(bench: Bench, store: str, child: Child, sink: Callbacks) -> Window:
    loop = ClosedLoop(
        [JobSubmits(child.url, sink.url)], sink, bench.numbers, in_flight=jobs.IN_FLIGHT
    )
    return await loop.measure(
        child.cpu_s,
        server_cpu_s=lambda: bench.server_cpu_s(store),
        warm_up_s=bench.options.warm_up,
        seconds=bench.options.seconds,
    )


async def _steady(bench: Bench, dispatcher: Dispatcher, model: Model, sink: Callbacks) -> Figures:
    """Times of each stretch: to the answer, to the upstream, and from its answer to the callback's
    arrival."""
    model.called.clear()
    submits = JobSubmits(dispatcher.url, sink.url)
    await Paced(submits, sink, bench.numbers).run(rate=RATE_PER_S, seconds=bench.options.warm_up)
    paced = Paced(submits, sink, bench.numbers)
    samples = await paced.run(rate=RATE_PER_S, seconds=2 * bench.options.seconds)
    return figures.latency(samples) | _stretches(paced, model)


def _stretches(paced: Paced, model: Model) -> Figures:
    called, told = [], []
    for number, due_s, sample in paced.seen:
        at_s = model.called.get(number)
        if at_s is None or sample.arrival_s is None:
            raise RuntimeError("a job was told of without a call")
        called.append(at_s - due_s)
        told.append(due_s + sample.arrival_s - at_s)
    return {
        "calledP50Ms": figures.quantile_ms(called, 0.5),
        "calledP99Ms": figures.quantile_ms(called, 0.99),
        "toldP50Ms": figures.quantile_ms(told, 0.5),
        "toldP99Ms": figures.quantile_ms(told, 0.99),
    }


async def _opened(bench: Bench, dispatcher: Dispatcher, model: Model) -> Figures:
    """What calls cost that wait for hours: memory each, and CPU while nothing comes."""
    count = bench.options.open_calls
    before_bytes = dispatcher.memory().rss
    submits = JobSubmits(dispatcher.url, None, endpoint=jobs.SILENT)
    async with dispatcher.client() as client:
        numbers = [next(bench.numbers) for _ in range(count)]
        await asyncio.gather(
            *(_submit(client, submits, numbers[n::_CLIENTS]) for n in range(_CLIENTS))
        )
    async with asyncio.timeout(_OPENED_S):
        while model.unanswered < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(min(_SETTLE_S, bench.options.seconds))
    taken = since(before_bytes, dispatcher.memory().rss)
    cpu_s = dispatcher.cpu_s()
    await asyncio.sleep(bench.options.seconds)
    used_s = since(cpu_s, dispatcher.cpu_s())
    return {
        "calls": count,
        "bytesEach": None if taken is None else round(taken / count),
        "idleCpuShare": None if used_s is None else round(used_s / bench.options.seconds, 4),
    }


async def _submit(client: httpx.AsyncClient, submits: JobSubmits, numbers: Sequence[int]) -> None:
    for number in numbers:
        answer = await client.post(
            f"/v1/endpoints/{jobs.SILENT}/jobs",
            content=submits.body(number),
            headers={"Content-Type": "application/json"},
        )
        answer.raise_for_status()
