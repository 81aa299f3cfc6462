"""Counters and histograms of Prometheus in which one thread alone counts: as those of its library,
without locks and checks, which took several times as long as counting."""

import time
from bisect import bisect_left
from typing import Any

from prometheus_client import Counter, Histogram


class _Cell:
    """A number, as the library reads it."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0.0

    def get(self) -> float:
        return self.n

    def get_exemplar(self) -> None:
        return None


class Count(Counter):
    """A counter."""

    _value: Any

    def _metric_init(self) -> None:
        self._created = time.time()
        self._value = _Cell()

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Count so many more, a number that is not negative."""
        self._value.n += amount


class Spread(Histogram):
    """A histogram."""

    _sum: Any
    _buckets: list[Any]

    def _metric_init(self) -> None:
        self._created = time.time()
        self._sum = _Cell()
        self._buckets = [_Cell() for _ in self._upper_bounds]

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count a value in its bucket."""
        self._sum.n += amount
        self._buckets[bisect_left(self._upper_bounds, amount)].n += 1
