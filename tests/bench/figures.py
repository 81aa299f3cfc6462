"""From samples to figures: quantiles, medians, ratios. Pure."""

import math
from collections.abc import Iterable, Sequence
from statistics import median

from tests.bench.closed import Window
from tests.bench.paced import Sample

Figures = dict[str, object]


def quantile_ms(seconds: Iterable[float | None], q: float) -> float | None:
    """The nearest-rank quantile, in milliseconds; None of nothing."""
    found = sorted(value for value in seconds if value is not None)
    if not found:
        return None
    return round(found[max(0, math.ceil(q * len(found)) - 1)] * 1000, 3)


def middle(values: Iterable[float | None], digits: int = 1) -> float | None:
    """The median of what there is."""
    found = [value for value in values if value is not None]
    return round(median(found), digits) if found else None


def total(values: Iterable[float | None]) -> float | None:
    """The sum, where all of them are known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def ratio(value: object, base: object) -> float | None:
    """`value / base`, where both are there."""
    if not isinstance(value, int | float) or not isinstance(base, int | float) or not base:
        return None
    return round(value / base, 3)


def saturation(windows: Sequence[Window]) -> Figures:
    """Medians over rounds, and the rounds."""
    return {
        "acceptedPerSecond": middle(w.accepted_per_s for w in windows),
        "deliveredPerSecond": middle(w.delivered_per_s for w in windows),
        "cpuUsPerDelivery": middle(w.cpu_us for w in windows),
        "serverCpuUsPerDelivery": middle(w.server_cpu_us for w in windows),
        "cpuShare": middle((_share(w.dispatcher_cpu_s, w) for w in windows), 2),
        "serverCpuShare": middle((_share(w.server_cpu_s, w) for w in windows), 2),
        "loadCpuShare": middle((_share(w.load_cpu_s, w) for w in windows), 2),
        "accepted": sum(w.accepted for w in windows),
        "delivered": sum(w.delivered for w in windows),
        "others": sum(w.others for w in windows),
        "rounds": [
            {
                "seconds": round(w.seconds, 3),
                "accepted": w.accepted,
                "delivered": w.delivered,
                "others": w.others,
                "cpuUsPerDelivery": None if w.cpu_us is None else round(w.cpu_us, 1),
            }
            for w in windows
        ],
    }


def latency(samples: Sequence[Sample]) -> Figures:
    """One run's quantiles in milliseconds, from when each submit was to be sent."""
    accepts = [sample.accept_s for sample in samples]
    arrivals = [sample.arrival_s for sample in samples]
    return {
        "submitted": len(samples),
        "accepted": sum(value is not None for value in accepts),
        "arrived": sum(value is not None for value in arrivals),
        "acceptP50Ms": quantile_ms(accepts, 0.5),
        "acceptP99Ms": quantile_ms(accepts, 0.99),
        "arrivalP50Ms": quantile_ms(arrivals, 0.5),
        "arrivalP99Ms": quantile_ms(arrivals, 0.99),
        "arrivalMostMs": quantile_ms(arrivals, 1.0),
        "generatorLateP99Ms": quantile_ms((sample.late_s for sample in samples), 0.99),
    }


def medians(rounds: Sequence[Figures]) -> Figures:
    """Rounds of the same figures as one: times as medians, counts as sums."""
    merged: Figures = {}
    for name in rounds[0]:
        values = [figures[name] for figures in rounds]
        numbers = [value for value in values if isinstance(value, int | float)]
        merged[name] = middle(numbers, 3) if name.endswith("Ms") else sum(numbers)
    return merged | {"rounds": list(rounds)}


def _share(cpu_s: float | None, window: Window) -> float | None:
    return None if cpu_s is None else cpu_s / window.seconds
