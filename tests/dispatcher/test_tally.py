"""Counting without locks tells the same as the library's own does."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from dispatcher.tally import Count, Spread

BUCKETS = (0.5, 1, 2.5)


def told(counter: type[Counter], histogram: type[Histogram]) -> list[str]:
    registry = CollectorRegistry()
    plain = counter("plain", "Without labels.", registry=registry)
    labelled = counter("labelled", "With one.", ("kind",), registry=registry)
    spread = histogram("spread", "Values.", buckets=BUCKETS, registry=registry)
    by_kind = histogram("by_kind", "Values.", ("kind",), buckets=BUCKETS, registry=registry)
    plain.inc()
    plain.inc(2)
    labelled.labels("a").inc()
    labelled.labels("b").inc(0)
    for value in (0.0, 0.5, 0.6, 1, 2.5, 2.6, 100):
        spread.observe(value)
        by_kind.labels("a").observe(value)
    lines = generate_latest(registry).decode().splitlines()
    return [line.partition("_created")[0] if "_created" in line else line for line in lines]


def test_what_was_counted_is_told_as_the_library_tells_it() -> None:
    assert told(Count, Spread) == told(Counter, Histogram)
    assert 'spread_bucket{le="0.5"} 2.0' in told(Count, Spread)
