"""Part 3: what silent destinations cost the others: none, one and thirty of a hundred."""

from collections.abc import Sequence
from typing import Final

from dispatcher.policy import DEFAULT, PRESETS
from tests.bench import figures
from tests.bench.bench import Bench
from tests.bench.figures import Figures
from tests.bench.paced import Paced, Sample
from tests.bench.process import Dispatcher
from tests.bench.sink import SILENT

DESTINATIONS: Final = 100
RATE_PER_S: Final = 500
SILENT_COUNTS: Final = {"none": 0, "one": 1, "thirty": 30}
# The same destinations are looked at in every run, so that only the silence differs.
WATCHED: Final = range(max(SILENT_COUNTS.values()), DESTINATIONS)
# By then every attempt that met the silence while the lanes' windows were open has timed out.
FIRST_S: Final = PRESETS[DEFAULT].timeout + 1
# What p99 is taken of, and what its ratio's name ends with. The median of the seconds' own p99
# tells a steady cost from a stall, ours or one of the machine's other work.
SPANS: Final = {"": "arrival", "First": "first", "Later": "later", "Seconds": "seconds"}


async def measure(bench: Bench, store: str) -> Figures:
    """Rounds of none, one and thirty, each on a fresh dispatcher with a fresh database."""
    rounds: dict[str, list[Figures]] = {name: [] for name in SILENT_COUNTS}
    for number in range(bench.options.rounds):
        for name, silent in SILENT_COUNTS.items():
            async with bench.running(f"silence-{name}-{number}", store) as dispatcher:
                rounds[name].append(_seen(await _run(bench, dispatcher, silent)))
    found = {name: figures.medians(seen) for name, seen in rounds.items()}
    return {
        "destinations": DESTINATIONS,
        "ratePerSecond": RATE_PER_S,
        "watched": len(WATCHED),
        "timeoutSeconds": PRESETS[DEFAULT].timeout,
        **found,
        **{
            f"{name}ToNone{span}": figures.ratio(
                found[name][f"{key}P99Ms"], found["none"][f"{key}P99Ms"]
            )
            for name in ("one", "thirty")
            for span, key in SPANS.items()
        },
    }


async def _run(bench: Bench, dispatcher: Dispatcher, silent: int) -> list[Sample]:
    """The warm-up knows no silence; the measured run begins with the first silent delivery."""
    healthy = bench.sink.urls(DESTINATIONS)
    urls = bench.sink.urls(silent, SILENT) + healthy[silent:]
    warm_up = Paced(bench.submits(dispatcher, healthy[WATCHED.start :]), bench.sink, bench.numbers)
    await warm_up.run(rate=RATE_PER_S, seconds=bench.options.warm_up)
    paced = Paced(bench.submits(dispatcher, urls), bench.sink, bench.numbers, silent=range(silent))
    return await paced.run(rate=RATE_PER_S, seconds=bench.options.silence_seconds)


def _seen(samples: Sequence[Sample]) -> Figures:
    watched = [sample for sample in samples if sample.destination in WATCHED]
    first = [sample.arrival_s for sample in watched if sample.due_s < FIRST_S]
    later = [sample.arrival_s for sample in watched if sample.due_s >= FIRST_S]
    seconds: dict[int, list[float | None]] = {}
    for sample in watched:
        seconds.setdefault(int(sample.due_s), []).append(sample.arrival_s)
    return {
        **figures.latency(watched),
        "secondsP99Ms": figures.middle(
            (figures.quantile_ms(arrivals, 0.99) for arrivals in seconds.values()), 3
        ),
        "firstP99Ms": figures.quantile_ms(first, 0.99),
        "laterP99Ms": figures.quantile_ms(later, 0.99),
    }
