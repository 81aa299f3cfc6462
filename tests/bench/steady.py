"""Part 2: how long a submit and its delivery take at a steady rate."""

from collections.abc import Sequence
from typing import Final

from tests.bench import figures
from tests.bench.bench import Bench
from tests.bench.closed import since
from tests.bench.figures import Figures
from tests.bench.paced import Paced, Sample
from tests.bench.payload import Submits

RATE_PER_S: Final = 500


async def measure(bench: Bench, store: str) -> Figures:
    """Each round warms up, then measures twice as long as a round at saturation: a hundredth of
    the samples is what p99 stands on."""
    rounds, cpu_us, server_us = [], [], []
    async with bench.running("steady", store) as dispatcher:
        submits = bench.submits(dispatcher)
        for _ in range(bench.options.rounds):
            await _run(bench, submits, bench.options.warm_up)
            before_s, server_before_s = dispatcher.cpu_s(), bench.server_cpu_s(store)
            samples = await _run(bench, submits, 2 * bench.options.seconds)
            rounds.append(figures.latency(samples))
            cpu_us.append(_each_us(since(before_s, dispatcher.cpu_s()), samples))
            server_us.append(_each_us(since(server_before_s, bench.server_cpu_s(store)), samples))
    return {
        "ratePerSecond": RATE_PER_S,
        "cpuUsPerDelivery": figures.middle(cpu_us),
        "serverCpuUsPerDelivery": figures.middle(server_us),
        **figures.medians(rounds),
    }


async def _run(bench: Bench, submits: Submits, seconds: float) -> list[Sample]:
    return await Paced(submits, bench.sink, bench.numbers).run(rate=RATE_PER_S, seconds=seconds)


def _each_us(cpu_s: float | None, samples: Sequence[Sample]) -> float | None:
    return None if cpu_s is None else cpu_s / len(samples) * 1e6
