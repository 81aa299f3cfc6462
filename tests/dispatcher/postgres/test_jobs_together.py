"""Several processes run the jobs of one database: limits are exact over all of them, nobody waits
in a circle (the fixture asks the server), and each run that ends is told once."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import psycopg
import pytest

from dispatcher.jobs.values import ClaimedJob, RunningLimits
from dispatcher.store.errors import JobQueueFull, KeyReused, StoreError
from receiver.base.clock import now_ms
from tests.dispatcher.postgres.test_together import HOUR_MS, Together, together, until
from tests.dispatcher.store.builders import TENANT
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target

__all__ = ("together",)  # a fixture


async def processes(together: Together, count: int, **rules: Any) -> list[Jobs]:
    """So many of them, and an endpoint that they share."""
    found = [Jobs(await together.join(), process=f"process-{n}") for n in range(count)]
    made = await found[0].endpoint(**rules)
    for one in found:
        one.rules[EP] = made.rules
        await one.known(one.process)
    return found


def look(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def told(url: str) -> Counter[tuple[str, int]]:
    """How often each run was told."""
    return Counter(look(url, "SELECT job_id, run FROM callbacks"))


async def test_capacity_is_exact_over_processes(together: Together) -> None:
    """However they claim, hand over, settle and cancel at the same moment: never more calls open
    than the endpoint may have, and each job runs once."""
    jobs = await processes(together, 3, concurrency=4)
    open_calls: set[str] = set()
    most, done = 0, Counter[str]()
    chance = random.Random(1)

    async def call(one: Jobs, claimed: ClaimedJob) -> None:
        nonlocal most
        open_calls.add(claimed.id)
        most = max(most, len(open_calls))
        await asyncio.sleep(chance.random() / 100)
        if chance.random() < 0.2:
            await jobs[chance.randrange(3)].cancel(claimed.id, claimed.tenant)
            open_calls.remove(claimed.id)
            await one.store.freed([claimed])
        else:
            open_calls.remove(claimed.id)
            assert (await one.settle(claimed)).recorded
        done[claimed.id] += 1

    async def work(one: Jobs) -> None:
        for n in range(20):
            submitted = await one.submit(
                tenant=f"tenant-{n % 2}",
                handover=n % 3 == 0,
                callback=target(tenant=f"tenant-{n % 2}"),
            )
            if submitted.claimed is not None:
                await call(one, submitted.claimed)
            await asyncio.gather(*(call(one, found) for found in await one.claim(3)))
        while sum(done.values()) < 60:
            await asyncio.gather(*(call(one, found) for found in await one.claim(3)))
            await asyncio.sleep(0.002)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(one) for one in jobs))
    assert 1 < most <= 4
    assert len(done) == 60
    assert set(done.values()) == {1}
    runs = told(together.url)
    assert len(runs) == 60
    assert set(runs.values()) == {1}


async def test_a_tenants_limit_is_exact_over_processes(together: Together) -> None:
    """However they claim and hand over at the same moment, at however many endpoints: never more
    of a tenant's calls open than may be, and all its jobs are run."""
    jobs = await processes(together, 3, concurrency=20)
    for name in ("other", "third"):
        made = await jobs[0].endpoint(name, concurrency=20)
        for one in jobs:
            one.rules[name] = made.rules
    limits = RunningLimits(own={"limited": 3})
    open_calls, most, done = Counter[str](), Counter[str](), Counter[str]()
    chance = random.Random(1)

    async def call(one: Jobs, claimed: ClaimedJob) -> None:
        tenant = claimed.tenant
        open_calls[tenant] += 1
        most[tenant] = max(most[tenant], open_calls[tenant])
        await asyncio.sleep(chance.random() / 50)
        open_calls[tenant] -= 1
        assert (await one.settle(claimed)).recorded
        done[claimed.id] += 1

    async def work(one: Jobs) -> None:
        for n in range(24):
            tenant = ("limited", "free")[n % 2]
            submitted = await one.submit(
                tenant=tenant,
                at=(EP, "other", "third")[n % 3],
                handover=n % 4 < 2,
                running_max=limits.of(tenant),
            )
            if submitted.claimed is not None:
                await call(one, submitted.claimed)
            await asyncio.gather(*(call(one, found) for found in await one.claim(5, limits=limits)))
        while sum(done.values()) < 72:
            await asyncio.gather(*(call(one, found) for found in await one.claim(5, limits=limits)))
            await asyncio.sleep(0.002)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(one) for one in jobs))
    assert most["limited"] <= 3
    assert set(done.values()) == {1}


async def test_hand_overs_of_one_tenant_take_no_more_than_it_may(together: Together) -> None:
    """At one moment, in several processes, at different endpoints."""
    jobs = await processes(together, 3, concurrency=50)
    for name in ("other", "third"):
        await jobs[0].endpoint(name, concurrency=50)
    taken = await asyncio.gather(
        *(
            one.submit(handover=True, running_max=4, at=at)
            for one, at in zip(jobs, (EP, "other", "third"), strict=True)
            for _ in range(10)
        )
    )
    assert 1 <= sum(one.claimed is not None for one in taken) <= 4
    limits = RunningLimits(default=4)
    for one in jobs:
        await one.claim(limits=limits)
    running = look(together.url, "SELECT count(*) FROM jobs WHERE state = 'running'")
    assert running == [(4,)]


async def test_hand_overs_of_several_processes_take_no_more_than_there_is(
    together: Together,
) -> None:
    jobs = await processes(together, 3, concurrency=5)
    taken = await asyncio.gather(*(one.submit(handover=True) for one in jobs for _ in range(10)))
    assert sum(one.claimed is not None for one in taken) == 5


async def test_the_limits_of_queues_are_exact_over_processes(together: Together) -> None:
    jobs = await processes(together, 3, queue_max=20, queue_max_tenant=8)
    results = await asyncio.gather(
        *(one.submit(tenant=f"t{n % 3}") for one in jobs for n in range(30)),
        return_exceptions=True,
    )
    full = [one for one in results if isinstance(one, JobQueueFull)]
    assert len(results) - len(full) == 20
    waiting = look(together.url, "SELECT tenant, count(*) FROM jobs GROUP BY 1")
    assert max(n for _, n in waiting) <= 8


async def test_a_rate_is_exact_over_processes(together: Together) -> None:
    jobs = await processes(together, 3, concurrency=100, rate=20.0)
    await asyncio.gather(*(jobs[0].submit() for _ in range(60)))
    began_ms, started = now_ms(), 0

    async def claim(one: Jobs) -> None:
        nonlocal started
        while now_ms() < began_ms + 1_000:
            one.world.now_ms = now_ms()
            started += len(await one.claim())
            await asyncio.sleep(0.005)

    await asyncio.gather(*map(claim, jobs))
    elapsed_s = (now_ms() - began_ms) / 1000
    assert 1 <= started <= 20 * elapsed_s + 3


async def test_one_key_in_several_processes_is_one_job(together: Together) -> None:
    """Also where they submit it to different endpoints: then one of them is told whose it is."""
    jobs = await processes(together, 3, concurrency=20)
    await jobs[0].endpoint("other", concurrency=20)
    taken = await asyncio.gather(*(one.submit(key="k") for one in jobs for _ in range(4)))
    assert len({one.id for one in taken}) == 1
    assert sum(not one.duplicate for one in taken) == 1
    results = await asyncio.gather(
        *(
            one.submit(key=f"k{n}", at=name)
            for n in range(10)
            for one, name in zip(jobs, (EP, "other"), strict=False)
        ),
        return_exceptions=True,
    )
    assert Counter(type(one).__name__ for one in results) == {
        "SubmittedJob": 10,
        KeyReused.__name__: 10,
    }
    assert look(together.url, "SELECT sum(queued) FROM endpoint_load") == [(11,)]
    assert len(await jobs[0].claim()) == 11


async def test_a_cancel_and_an_end_at_one_moment(together: Together) -> None:
    """One conditional write decides; the other is told how it ended."""
    first, second = await processes(together, 2, concurrency=50)
    await asyncio.gather(*(first.submit(callback=target()) for _ in range(20)))
    claimed = await first.claim()
    results: list[Any] = await asyncio.gather(
        *(first.settle(one) for one in claimed), *(second.cancel(one.id) for one in claimed)
    )
    settled, cancelled = results[:20], results[20:]
    for end, cancel, one in zip(settled, cancelled, claimed, strict=True):
        assert end.recorded != cancel.changed
        state = (await first.get(one.id)).state
        assert state == ("completed" if end.recorded else "cancelled")
    assert set(told(together.url).values()) == {1}
    await first.store.freed(claimed)
    assert look(together.url, "SELECT count(*) FROM jobs WHERE releasing = 1") == [(0,)]


async def test_a_storm_leaves_everything_exact(together: Together) -> None:
    """Everything at once, on few endpoints and few destinations, in three processes."""
    jobs = await processes(together, 3, concurrency=6)
    other = await jobs[0].endpoint("other", concurrency=2)
    for one in jobs:
        one.rules["other"] = other.rules
    chance = random.Random(2)

    async def storm(one: Jobs) -> None:
        store, at = one.store, one.world
        held: list[ClaimedJob] = []
        ids: list[tuple[str, str]] = []
        for n in range(60):
            at.now_ms = now_ms()
            tenant = f"t{n % 2}"
            submits = [
                one.submit(
                    tenant=tenant,
                    at=chance.choice((EP, "other")),
                    handover=chance.random() < 0.5,
                    callback=target(f"http://127.0.0.1:9/{n % 5}", tenant=tenant),
                    queue_s=0.3,
                )
                for _ in range(2)
            ]
            acts: list[Any] = [*submits, one.claim(3), at.claim(5)]
            acts += [_ended(one, found, chance) for found in held[:3]]
            held = held[3:]
            if ids:
                id, owner = chance.choice(ids)
                change = one.cancel if chance.random() < 0.6 else one.retry
                acts.append(change(id, owner))
            if n % 7 == 0:
                acts.append(store.expire(now_ms=at.now_ms, limit=5))
                acts.append(store.end_purged(now_ms=at.now_ms, limit=5))
            if n % 20 == 19:
                acts.append(store.purge(EP, tenant="t1", now_ms=at.now_ms))
            results: list[Any] = await asyncio.gather(*acts, return_exceptions=True)
            for result in results:
                assert not isinstance(result, Exception) or isinstance(result, StoreError), result
            for submitted in results[:2]:
                ids.append((submitted.id, tenant))
                if submitted.claimed is not None:
                    held.append(submitted.claimed)
            held += results[2]
            for delivery in results[3]:
                await at.settle(delivery)
        await store.release(held, now_ms=now_ms())
        await store.freed(held)

    async with asyncio.timeout(120):
        await asyncio.gather(*(storm(one) for one in jobs))
    await _exact(together, jobs[0])


async def _ended(one: Jobs, claimed: ClaimedJob, chance: random.Random) -> None:
    """A call ends: it is settled, or it was cancelled meanwhile and its place is free."""
    met = outcome(chance.choice((200, 200, 500, 429)), now_ms=now_ms())
    settled = await one.settle(claimed, met)
    if not settled.recorded:
        await one.store.freed([claimed])


async def _exact(together: Together, one: Jobs) -> None:
    """What is counted is what there is, and each run that ended was told once."""
    url = together.url
    queued = (
        "SELECT q.id, q.queued, (SELECT count(*) FROM jobs WHERE queue = q.id AND epoch = q.epoch "
        "AND state = 'queued') FROM queues q"
    )
    for id, shown, counted in look(url, queued):
        assert shown == counted, id
    sums = look(
        url,
        "SELECT l.queued, (SELECT sum(queued) FROM queues WHERE endpoint = l.endpoint), l.ready_ms,"
        " (SELECT count(*) FROM jobs WHERE endpoint = l.endpoint"
        "  AND (state = 'running' OR releasing = 1)) FROM endpoint_load l",
    )
    for shown, summed, _, busy in sums:
        assert shown == summed
        assert busy == 0
    ends = look(
        url,
        "SELECT count(*) FROM jobs WHERE state IN ('completed', 'failed', 'cancelled', 'timeout')",
    )
    last = look(
        url,
        "SELECT count(*) FROM jobs j WHERE ended_ms IS NOT NULL AND EXISTS "
        "(SELECT 1 FROM callbacks c WHERE c.id = j.callback AND c.run = j.run)",
    )
    assert ends == last
    assert set(told(url).values()) == {1}
    assert one.process


# --- what they tell each other ---


async def test_others_hear_of_work_of_ends_and_of_endpoints(together: Together) -> None:
    """Soon, so that nobody has to ask; who missed it looks anyway."""
    first, second = await processes(together, 2, concurrency=1)
    await first.change(concurrency=2)
    await until(lambda: second.world.endpoints_changed > 0)
    second.world.jobs_ready.clear()
    first.world.now_ms = now_ms()
    submitted = await first.submit()
    await until(lambda: any(at is not None for at in second.world.jobs_ready))
    second.world.now_ms = now_ms()
    assert (await second.one()).id == submitted.id
    await first.cancel(submitted.id)
    await until(lambda: submitted.id in second.world.jobs_ended)
    assert submitted.tenant == TENANT


@pytest.mark.parametrize("ahead_ms", [-HOUR_MS, HOUR_MS])
async def test_an_end_is_told_by_one_clock(together: Together, ahead_ms: int) -> None:
    """Of a host whose clock is wrong, too: how long a job that was cancelled had waited and run is
    what it was, and what a look at it shows."""
    jobs = Jobs(await together.join(ahead_ms=ahead_ms))
    jobs.world.now_ms = now_ms() + ahead_ms
    await jobs.endpoint()
    taken = await jobs.submit(dialect="runpod", callback=target())
    jobs.world.now_ms = now_ms() + ahead_ms
    await jobs.one()
    await jobs.cancel(taken.id)
    [(body,)] = look(together.url, "SELECT body FROM payloads")
    said, shown = json.loads(body), await jobs.get(taken.id)
    assert shown.started_ms is not None
    assert shown.ended_ms is not None
    # What a millisecond is by two clocks may differ by the one in which they were compared.
    assert abs(said["delayTime"] - (shown.started_ms - shown.queued_ms)) <= 50
    assert abs(said["executionTime"] - (shown.ended_ms - shown.started_ms)) <= 50
