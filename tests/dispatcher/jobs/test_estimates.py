"""jobs/estimates.py: quantiles without samples, waits, and what a scaler asks for."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.jobs.estimates import (
    BUCKETS,
    DURATION_S,
    NONE,
    Estimates,
    Histogram,
    bounds,
    bucket_of,
    wanted,
)
from dispatcher.quotas import queue_full
from tests.dispatcher.jobs.made import NOW_MS, rules

amounts = st.floats(0, 2.0**31, exclude_max=True)


def histogram(*values: float) -> Histogram:
    return Histogram.of((bucket_of(value), 1) for value in values)


# --- buckets ---


@given(amounts)
def test_a_value_is_in_the_bounds_of_its_bucket(value: float) -> None:
    """64 log-scaled buckets."""
    low, high = bounds(bucket_of(value))
    assert low * (1 - 1e-12) <= value < high * (1 + 1e-12)


def test_buckets_follow_each_other_and_the_last_takes_the_rest() -> None:
    all_bounds = [bounds(bucket) for bucket in range(BUCKETS)]
    assert all(one[1] == pytest.approx(two[0]) for one, two in pairwise(all_bounds))
    assert bucket_of(0) == 0
    assert bucket_of(1) == 1
    assert bucket_of(2.0**31) == BUCKETS - 1
    assert bucket_of(10**18) == BUCKETS - 1
    assert all_bounds[-1][1] > 24 * 86_400_000, "more than three weeks in milliseconds"


# --- quantiles ---


@given(st.lists(st.floats(1, 2.0**31), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_known_to_a_bucket(values: list[float], part: float) -> None:
    """p50/p95 without samples."""
    found = histogram(*values).quantile(part)
    rank = max(1, math.ceil(part * len(values)))
    assert found is not None
    assert abs(bucket_of(found) - bucket_of(sorted(values)[rank - 1])) <= 1


@given(st.lists(amounts, min_size=1, max_size=50))
def test_quantiles_grow_with_their_part(values: list[float]) -> None:
    made = histogram(*values)
    found = [made.quantile(part / 20) for part in range(21)]
    assert all(one is not None and two is not None and one <= two for one, two in pairwise(found))


@given(st.lists(st.floats(1, 2.0**31), min_size=1, max_size=50))
def test_a_mean_is_known_to_a_bucket(values: list[float]) -> None:
    mean = histogram(*values).mean
    assert mean is not None
    assert 0.8 <= mean / (sum(values) / len(values)) <= 1.25


def test_a_thousand_equal_runs_have_one_median() -> None:
    half = histogram(*[287_500.0] * 1_000).quantile(0.5)
    assert half == pytest.approx(287_500, rel=0.2)


def test_days_are_added() -> None:
    both = Histogram.of([(3, 1), (4, 2), (3, 5)])
    assert both == Histogram({3: 6, 4: 2})
    assert both.n == 8


def test_nothing_measured_says_nothing() -> None:
    assert (NONE.n, NONE.mean, NONE.quantile(0.5)) == (0, None, None)


# --- estimates ---


def test_a_duration_is_the_median_else_what_was_written() -> None:
    """`estimatedDuration` = p50 (else `expected_duration`)."""
    written = rules(expected_duration=60.0)
    assert Estimates.of(written, 4, NONE).duration_s == 60
    measured = Estimates.of(written, 4, histogram(*[10_000] * 9))
    assert measured.duration_s == pytest.approx(10, rel=0.2)
    assert Estimates.of(rules(), 4, NONE).duration_s is None


def test_a_wait_is_what_is_ahead_times_the_mean_by_capacity() -> None:
    """`estimatedWait` = ahead × mean / capacity."""
    known = Estimates.of(rules(expected_duration=60.0), 4, NONE)
    assert known.wait_s(100) == 100 * 60 / 4
    assert known.wait_s(3) == 0, "a place is free"
    assert Estimates.of(rules(), 1, NONE).wait_s(2) == 2 * DURATION_S
    assert Estimates.of(rules(expected_duration=60.0), 0, NONE).wait_s(1) == 60


def test_a_wait_is_no_shorter_than_the_rate_allows() -> None:
    slow = Estimates.of(rules(expected_duration=1.0, rate=0.5), 100, NONE)
    assert slow.wait_s(10) == 20


def test_a_start_is_not_before_a_hold_ends() -> None:
    known = Estimates.of(rules(expected_duration=60.0), 1, NONE)
    assert known.start_ms(2, now_ms=NOW_MS) == NOW_MS + 120_000
    assert known.start_ms(0, now_ms=NOW_MS, not_before_ms=NOW_MS + 5) == NOW_MS + 5


def test_a_completion_is_never_in_the_past() -> None:
    """`estimatedCompletion`: started + measured p50, never in the past."""
    known = Estimates.of(rules(expected_duration=60.0), 1, NONE)
    assert known.completion_ms(NOW_MS - 10_000, now_ms=NOW_MS) == NOW_MS + 50_000
    assert known.completion_ms(NOW_MS - 100_000, now_ms=NOW_MS) == NOW_MS
    assert Estimates.of(rules(), 1, NONE).completion_ms(NOW_MS, now_ms=NOW_MS) is None


def test_a_full_queue_is_told_from_the_same_numbers() -> None:
    """`QUEUE_FULL` from the same numbers: queueSize, estimatedWait, retryAfter (T40)."""
    known = Estimates.of(rules(expected_duration=1.2), 4, NONE)
    full = queue_full(1_000, over=1, drain_rate=known.drain_rate)
    assert (full.queue_size, full.estimated_wait_s, full.retry_after_s) == (1_000, 300, 1)


def test_what_is_wanted_counts_what_runs() -> None:
    """`wanted` counts **running too**: scaling on the queue alone kills working pods."""
    assert wanted(0, 4) == 4
    assert wanted(10, 4, 1) == 15


@given(
    st.lists(amounts, max_size=20),
    st.integers(0, 100),
    st.none() | st.floats(0.001, 10_000),
    st.integers(0, 10**6),
)
def test_estimates_are_times(
    values: list[float], capacity: int, rate: float | None, ahead: int
) -> None:
    known = Estimates.of(rules(rate=rate), capacity, histogram(*values))
    assert known.drain_rate > 0
    start_ms = known.start_ms(ahead, now_ms=NOW_MS)
    assert start_ms >= NOW_MS
    assert (known.completion_ms(start_ms, now_ms=NOW_MS) or start_ms) >= start_ms
    assert known.wait_s(ahead) <= known.wait_s(ahead + 1)
