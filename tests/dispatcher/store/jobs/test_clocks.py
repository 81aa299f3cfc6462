"""Clocks that were wrong (D20): one that ran ahead and was put right stops no endpoint, and puts no
job off."""

from typing import cast

import pytest

from dispatcher.engine.engine import Engine
from dispatcher.gateway.gateway import Gateway
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.values import CallOutcome, ClaimedJob, JobByUrl, JobVerdict, Report
from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.signing import SecretCache
from tests.dispatcher.store.builders import T0
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome

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


@pytest.mark.parametrize("asked_ms", [5_000, HOUR_MS])
async def test_a_hold_of_the_future_lasts_for_as_long_as_was_asked_for(
    jobs: Jobs, asked_ms: int
) -> None:
    """From when the clock is right again: neither until that time nor for the longest that one may
    ask for."""
    await jobs.endpoint(concurrency=3)
    jobs.world.tick(6 * HOUR_MS)
    await jobs.many(1)
    turned_away = outcome(429, now_ms=jobs.world.now_ms, retry_after_ms=asked_ms)
    await jobs.settle(await jobs.one(), turned_away)
    jobs.world.tick(-6 * HOUR_MS)
    (waiting,) = await jobs.many(1)
    assert (await corrected(jobs))[0] == 1
    assert (await corrected(jobs))[0] == 0
    held = await jobs.store.load(EP)
    assert (held.held_until_ms, held.held_reason) == (jobs.world.now_ms + asked_ms, "retry-after")
    jobs.world.tick(asked_ms - 1)
    assert await jobs.claim() == []
    jobs.world.tick(1)
    assert waiting in [one.id for one in await jobs.claim()]


async def test_a_hold_of_before_the_correction_is_kept(jobs: Jobs) -> None:
    """One that was made by the right clock ends when it was to end."""
    await jobs.endpoint()
    await jobs.many(2)
    asked = outcome(429, now_ms=jobs.world.now_ms, retry_after_ms=HOUR_MS)
    await jobs.settle(await jobs.one(), asked)
    until_ms = jobs.world.now_ms + HOUR_MS
    jobs.world.tick(60_000)
    assert await corrected(jobs) == (0, 1)  # the job itself waits for no longer than its wait
    assert (await jobs.store.load(EP)).held_until_ms == until_ms


async def test_a_start_brings_back_what_a_clock_had_put_off(jobs: Jobs) -> None:
    """One that was put right while the service was down: before anything is started, endpoints and
    the jobs that wait to be run again are as if it had been right all along."""
    await jobs.endpoint("held", concurrency=9)
    await jobs.endpoint("paced", rate=1.0)
    jobs.world.tick(24 * HOUR_MS)
    await jobs.submit(at="held")
    turned_away = outcome(429, now_ms=jobs.world.now_ms, retry_after_ms=5_000)
    await jobs.settle(await jobs.one(), turned_away)
    lost = await jobs.submit(at="paced")
    await jobs.settle(await jobs.one(), outcome(kind="unknown", now_ms=jobs.world.now_ms))
    await jobs.endpoint(concurrency=9)
    called = await out(jobs)
    await jobs.leaves(jobs.process)
    jobs.world.tick(-24 * HOUR_MS)
    now_ms = jobs.world.now_ms

    def clock() -> int:
        return jobs.world.now_ms

    store, metrics, deliveries = jobs.world.store, Metrics(), cast(Engine, None)
    secrets = SecretCache(store.secrets, store.stored_values)
    gateway = Gateway(
        Settings(), store, secrets, deliveries, metrics, clock=clock, monotonic_ms=clock
    )
    await gateway.open()
    await gateway.close()
    assert (await jobs.store.load("held")).held_until_ms == now_ms + 5_000
    assert await jobs.store.hasten(now_ms=now_ms, wait_ms=HOLD_MS, limit=9) == 0
    assert (await jobs.get(lost.id)).due_ms <= now_ms + HOLD_MS
    assert (await late(jobs))[called.id].called_ms == now_ms
    waiting = await jobs.submit(at="paced")
    jobs.world.tick(2_000)
    assert [one.id for one in await jobs.claim()] == [waiting.id]


# --- jobs that no process holds ---


async def out(
    jobs: Jobs, *, limit_s: float = 900, look_s: float | None = None, met: CallOutcome | None = None
) -> ClaimedJob:
    """A job that is to be ended by URL, called now."""
    await jobs.submit()
    job, now_ms = await jobs.one(), jobs.world.now_ms
    look_ms = now_ms + round((look_s or limit_s) * 1000)
    limit_ms = now_ms + round(limit_s * 1000)
    verdict = JobVerdict(state="running", limit_ms=limit_ms, look_ms=look_ms)
    await jobs.settle(job, met or outcome(202, now_ms=now_ms), verdict=verdict)
    return job


async def brought_back(jobs: Jobs, *, signs: bool = False, limit: int = 200) -> int:
    now_ms = jobs.world.now_ms
    return await jobs.store.bring_calls_back(now_ms=now_ms, signs=signs, limit=limit)


async def late(jobs: Jobs) -> dict[str, JobByUrl]:
    """What is to be looked at now."""
    found = await jobs.store.late_by_url(now_ms=jobs.world.now_ms, limit=200)
    return {one.job.id: one for one in found}


async def reported(jobs: Jobs, job: ClaimedJob) -> None:
    at_ms = jobs.world.now_ms
    said = Progress(percent=5, since_ms=at_ms, at_ms=at_ms)
    report = Report(job=job.id, claim=job.claim, progress=said)
    assert await jobs.store.report([report]) == {(job.id, job.claim)}


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, WEEK_MS])
async def test_a_call_of_the_future_lasts_for_as_long_as_it_may(jobs: Jobs, ahead_ms: int) -> None:
    """From when the clock is right again: neither until that time, nor for ever. It is looked at,
    so that it is known again when a sign of life of it is due."""
    await jobs.endpoint(concurrency=9)
    jobs.world.tick(ahead_ms)
    ahead = await out(jobs, limit_s=900, look_s=60)
    jobs.world.tick(-ahead_ms)
    right = await out(jobs, limit_s=12 * 3_600)
    assert await brought_back(jobs) == 1
    assert await brought_back(jobs, signs=True) == 0
    now_ms = jobs.world.now_ms
    found = await late(jobs)
    assert found.keys() == {ahead.id}
    one = found[ahead.id]
    assert (one.called_ms, one.sign_ms) == (now_ms, now_ms)
    assert one.limit_ms is not None
    assert abs(one.limit_ms - now_ms - 900_000) < 100
    assert one.job.started_ms <= now_ms
    assert one.job.queued_ms <= now_ms
    kept = await jobs.store.running(right.id, right.claim, now_ms=now_ms)
    assert kept is not None
    assert kept.limit_ms == now_ms + 12 * HOUR_MS
    assert (await jobs.settle(one.job)).recorded, "its upstream's word counts as before"


async def test_they_are_brought_back_in_slices(jobs: Jobs) -> None:
    await jobs.endpoint(concurrency=9)
    jobs.world.tick(HOUR_MS)
    ids = {(await out(jobs)).id for _ in range(5)}
    jobs.world.tick(-HOUR_MS)
    assert [await brought_back(jobs, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert (await late(jobs)).keys() == ids


async def test_a_sign_of_life_of_the_future_keeps_no_job_from_being_looked_at(jobs: Jobs) -> None:
    """It was given by now, and the next one counts from there."""
    await jobs.endpoint(concurrency=9)
    job = await out(jobs, limit_s=86_400, look_s=60)
    jobs.world.tick(HOUR_MS)
    await reported(jobs, job)
    now_ms = jobs.world.now_ms
    look_ms = now_ms + 60_000
    await jobs.store.look_later(job.id, job.claim, look_ms=look_ms, now_ms=now_ms)
    jobs.world.tick(-HOUR_MS)
    assert await brought_back(jobs) == 0
    assert await brought_back(jobs, signs=True) == 1
    assert (await late(jobs))[job.id].sign_ms == jobs.world.now_ms
    assert await brought_back(jobs, signs=True) == 0


async def test_a_look_brings_a_sign_of_life_back(jobs: Jobs) -> None:
    """Also where nobody doubts the clock any more."""
    await jobs.endpoint()
    job = await out(jobs, limit_s=86_400, look_s=60)
    jobs.world.tick(HOUR_MS)
    await reported(jobs, job)
    jobs.world.tick(-HOUR_MS + 61_000)
    assert (await late(jobs))[job.id].sign_ms > jobs.world.now_ms
    now_ms = jobs.world.now_ms
    await jobs.store.look_later(job.id, job.claim, look_ms=now_ms + 60_000, now_ms=now_ms)
    jobs.world.tick(60_000)
    assert (await late(jobs))[job.id].sign_ms == now_ms


@pytest.mark.parametrize("stepped_ms", [HOUR_MS, -HOUR_MS])
async def test_a_clock_that_is_set_during_a_call_makes_it_no_longer_or_shorter(
    jobs: Jobs, stepped_ms: int
) -> None:
    """Since when it is out is known by how long it lasted, not by when it began."""
    await jobs.endpoint(completion="url", timeout=60.0)
    await jobs.submit()
    job = await jobs.one()
    met = outcome(202, now_ms=jobs.world.now_ms)
    jobs.world.tick(stepped_ms)
    await jobs.settle(job, met)
    now_ms = jobs.world.now_ms
    one = await jobs.store.running(job.id, job.claim, now_ms=now_ms)
    assert one is not None
    assert (one.called_ms, one.limit_ms) == (now_ms - 5, now_ms - 5 + 60_000)
