"""Clocks that were wrong (D20): one that ran ahead and was put right stops no endpoint, and puts no
job off."""

import pytest

from tests.dispatcher.store.builders import T0
from tests.dispatcher.store.jobs.builders import Jobs, outcome

HOUR_MS = 3_600_000
WEEK_MS = 7 * 24 * HOUR_MS
ASKED_MS = 24 * HOUR_MS
HOLD_MS = 360_000


async def corrected(jobs: Jobs, *, wait_ms: int = HOLD_MS) -> tuple[int, int]:
    """What a sweep corrects: endpoints, and jobs."""
    now_ms = jobs.world.now_ms
    ahead = await jobs.store.bring_back(now_ms=now_ms, retry_after_ms=ASKED_MS, limit=200)
    return ahead, await jobs.store.hasten(now_ms=now_ms, wait_ms=wait_ms, limit=200)


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, WEEK_MS])
async def test_an_endpoint_that_was_served_in_the_future_goes_on(jobs: Jobs, ahead_ms: int) -> None:
    """Its rate and its turn count from now on."""
    await jobs.endpoint(rate=10.0)
    jobs.world.tick(ahead_ms)
    await jobs.many(1)
    await jobs.settle(await jobs.one())
    jobs.world.tick(-ahead_ms)
    (waiting,) = await jobs.many(1)
    jobs.world.tick(101)
    assert await jobs.claim() == []
    assert await corrected(jobs) == (1, 0)
    jobs.world.tick(101)
    assert (await jobs.one()).id == waiting
    assert await corrected(jobs) == (0, 0)


async def test_a_hold_of_the_future_lasts_no_longer_than_one_may(jobs: Jobs) -> None:
    await jobs.endpoint()
    jobs.world.tick(WEEK_MS)
    await jobs.many(1)
    turned_away = outcome(429, now_ms=jobs.world.now_ms)
    await jobs.settle(await jobs.one(), turned_away)
    jobs.world.tick(-WEEK_MS)
    assert await corrected(jobs) == (1, 1)
    assert await jobs.claim() == []
    jobs.world.tick(HOLD_MS + 1)
    assert len(await jobs.claim()) == 1


async def test_a_job_that_waits_for_another_try_is_put_off_by_no_clock(jobs: Jobs) -> None:
    await jobs.endpoint()
    jobs.world.tick(HOUR_MS)
    (id,) = await jobs.many(1)
    lost = outcome(kind="unknown", now_ms=jobs.world.now_ms)
    await jobs.settle(await jobs.one(), lost)
    jobs.world.tick(-HOUR_MS)
    # The endpoint was served in the future; an upstream may have asked for the wait.
    assert await corrected(jobs, wait_ms=ASKED_MS) == (1, 0)
    assert await corrected(jobs) == (0, 1)
    jobs.world.tick(HOLD_MS)
    assert (await jobs.one()).id == id


async def test_what_was_asked_to_begin_later_does(jobs: Jobs) -> None:
    """`notBefore` is the caller's time."""
    await jobs.endpoint()
    later_ms = T0 + 2 * HOUR_MS
    await jobs.submit(not_before_ms=later_ms)
    assert await corrected(jobs, wait_ms=0) == (0, 0)
    assert await jobs.claim() == []
    jobs.world.tick(2 * HOUR_MS)
    assert len(await jobs.claim()) == 1
