"""Part 2: how long a submit and its delivery take at a steady rate."""

from __future__ import annotations

from typing import Final

from tests.bench import figures
from tests.bench.bench import Bench
from tests.bench.figures import Figures
from tests.bench.paced import Paced, Sample
from tests.bench.payload import Submits

RATE_PER_S: Final = 500


async def measure(bench: Bench) -> Figures:
    """Each round warms up, then measures twice as long as a round at saturation: a hundredth of
    the samples is what p99 stands on."""
    rounds, cpu_us = [], []
    async with bench.running("steady") as dispatcher:
        submits = bench.submits(dispatcher)
        for _ in range(bench.options.rounds):
            await _run(bench, submits, bench.options.warm_up)
            before = dispatcher.cpu_s()
            samples = await _run(bench, submits, 2 * bench.options.seconds)
            rounds.append(figures.latency(samples))
            cpu_us.append(_per_delivery(before, dispatcher.cpu_s(), len(samples)))
    return {
        "ratePerSecond": RATE_PER_S,
        "cpuUsPerDelivery": figures.middle(cpu_us),
        **figures.medians(rounds),
    }


async def _run(bench: Bench, submits: Submits, seconds: float) -> list[Sample]:
    return await Paced(submits, bench.sink, bench.numbers).run(rate=RATE_PER_S, seconds=seconds)


def _per_delivery(before_s: float | None, after_s: float | None, count: int) -> float | None:
    return None if before_s is None or after_s is None else (after_s - before_s) / count * 1e6
