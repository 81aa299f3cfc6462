"""What is to be expected of an endpoint: how long its jobs take and wait, by what was measured.
Pure.

Measurements are counted in 64 buckets, each √2 times as wide as the one before it: so quantiles
of any number of them are known to some 20 %, without a sample.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dispatcher.jobs.endpoint import EndpointRules

What = Literal["wait", "run", "bytes"]
"""What is measured: milliseconds from queued to the first start, of the call that ended the job,
and bytes of outputs."""

BUCKETS: Final = 64
DAYS: Final = 7
"""From so many days, the present one included, figures are taken."""
DURATION_S: Final = 60.0
"""How long a job is taken to last of which nothing is known."""
_PER_OCTAVE: Final = 2


def bucket_of(value: float) -> int:
    """Return the bucket of milliseconds or bytes: 0 for less than 1, then two an octave, up to two
    thousand millions and more in the last."""
    if value < 1:
        return 0
    return min(BUCKETS - 1, 1 + math.floor(_PER_OCTAVE * math.log2(value)))


def bounds(bucket: int) -> tuple[float, float]:
    """Return the lowest value of a bucket, and the first above it; the last is taken to end as the
    others do."""
    if bucket == 0:
        return 0.0, 1.0
    return 2.0 ** ((bucket - 1) / _PER_OCTAVE), 2.0 ** (bucket / _PER_OCTAVE)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many measurements fell into each bucket."""

    counts: Mapping[int, int]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int]]) -> "Histogram":
        """Return the sum of rows of buckets and counts: of several days, for instance."""
        counts: dict[int, int] = {}
        for bucket, n in rows:
            counts[bucket] = counts.get(bucket, 0) + n
        return cls(counts)

    @property
    def n(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float | None:
        """Their mean, taken at the middle of each bucket; None without any."""
        n = self.n
        if not n:
            return None
        return sum(sum(bounds(bucket)) / 2 * count for bucket, count in self.counts.items()) / n

    def quantile(self, part: float) -> float | None:
        """Return what so large a part of them does not exceed, by steps of equal size within a
        bucket; None without any."""
        n = self.n
        if not n:
            return None
        before, rank = 0, min(max(part, 0.0), 1.0) * n
        for bucket in sorted(self.counts):
            count = self.counts[bucket]
            if before + count >= rank and count:
                low, high = bounds(bucket)
                within = (rank - before) / count
                return low + (high - low) * within if low == 0 else low * (high / low) ** within
            before += count
        return bounds(max(self.counts))[1]


NONE: Final = Histogram({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What is known of an endpoint: measurements, and its `capacity`: how many calls it may have
    open now."""

    run: Histogram = NONE
    wait: Histogram = NONE
    capacity: int = 1
    rate: float | None = None
    expected_s: float | None = None

    @classmethod
    def of(
        cls, rules: EndpointRules, capacity: int, run: Histogram, wait: Histogram = NONE
    ) -> "Estimates":
        """Return the estimates of an endpoint by its rules."""
        return cls(
            run=run,
            wait=wait,
            capacity=capacity,
            rate=rules.rate,
            expected_s=rules.expected_duration,
        )

    @property
    def duration_s(self) -> float | None:
        """`estimatedDuration`: half of the jobs take no longer; what was written, while none was
        measured; None where neither is known."""
        half_ms = self.run.quantile(0.5)
        return self.expected_s if half_ms is None else half_ms / 1000

    @property
    def drain_rate(self) -> float:
        """How many jobs a second the endpoint gets done, with all its capacity at work."""
        mean_ms = self.run.mean
        mean_s = (self.expected_s or DURATION_S) if mean_ms is None else mean_ms / 1000
        drained = max(1, self.capacity) / max(mean_s, 0.001)
        return drained if self.rate is None else min(drained, self.rate)

    def wait_s(self, ahead: int) -> float:
        """`estimatedWait` of a job with so many ahead of it, those that run included: ahead × mean
        / capacity, or as its rate allows. None is waited for while there is a free place."""
        if ahead < self.capacity and self.rate is None:
            return 0.0
        return ahead / self.drain_rate

    def start_ms(self, ahead: int, *, now_ms: int, not_before_ms: int = 0) -> int:
        """`estimatedStart`: when the wait is over; not before a hold ends, nor the job's own
        time has come."""
        return max(now_ms + round(self.wait_s(ahead) * 1000), not_before_ms)

    def completion_ms(self, start_ms: int, *, now_ms: int) -> int | None:
        """`estimatedCompletion` of a job that started, or will start, at `start_ms`: never in the
        past; None where nothing is known."""
        duration_s = self.duration_s
        if duration_s is None:
            return None
        return max(now_ms, start_ms + round(duration_s * 1000))


RUNS_MIN: Final = 20
"""From so many outputs on, what one is likely to have is measured."""
SIZES_MAX: Final = 200


def output_size(sizes: Sequence[int], expected: int | None) -> int | None:
    """Return how many bytes the next output is likely to have: as 19 in 20 of the last ones had at
    most, where there are enough of them; else what was written; None where neither is known."""
    if len(sizes) < RUNS_MIN:
        return expected
    return sorted(sizes)[math.ceil(len(sizes) * 0.95) - 1]


def wanted(queued: int, running: int, releasing: int = 0) -> int:
    """Return how many calls an endpoint would have with room for all: those that run included, or
    whoever scales by it would end them."""
    return queued + running + releasing
