"""Claims: capacity per endpoint, turns per customer, classes, tickets, rate, bytes."""

import asyncio
from collections import Counter

from tests.dispatcher.store.jobs.builders import Jobs, outcome


async def test_jobs_start_in_the_order_of_their_tickets(jobs: Jobs) -> None:
    """First in, first out, and never more at once than the endpoint may have."""
    await jobs.endpoint(concurrency=3)
    ids = await jobs.many(5)
    assert [one.id for one in await jobs.claim()] == ids[:3]
    assert await jobs.claim() == []
    assert await jobs.states(ids) == ["running"] * 3 + ["queued"] * 2


async def test_a_place_that_is_free_is_taken_in_the_same_commit(jobs: Jobs) -> None:
    """What a settlement frees a claim beside it takes."""
    await jobs.endpoint(concurrency=1)
    ids = await jobs.many(2)
    first = await jobs.one()
    _, claimed = await asyncio.gather(jobs.settle(first), jobs.claim())
    assert [one.id for one in claimed] == ids[1:]


async def test_no_more_than_there_are_places(jobs: Jobs) -> None:
    """Of the process, however much its endpoints could have."""
    await jobs.endpoint(concurrency=10)
    await jobs.many(5)
    assert len(await jobs.claim(2)) == 2
    assert await jobs.claim(0) == []


async def test_customers_take_turns(jobs: Jobs) -> None:
    """One job a turn, the least recently served first: a flood of one delays another's job by one
    place at most, whatever their classes."""
    await jobs.endpoint(concurrency=1)
    await jobs.many(20, tenant="flood", priority="high")
    running = await jobs.one()
    late = await jobs.submit(tenant="quiet")
    await jobs.settle(running)
    assert (await jobs.one()).id == late.id


async def test_turns_go_round(jobs: Jobs) -> None:
    """One each, in one claim as in many."""
    await jobs.endpoint(concurrency=6)
    for tenant in ("a", "b", "c"):
        await jobs.many(5, tenant=tenant)
    started = [one.tenant for one in await jobs.claim()]
    assert started == ["a", "b", "c"] * 2
    await jobs.change(concurrency=7)
    assert (await jobs.one()).tenant == "a"
    await jobs.change(concurrency=9)
    assert [one.tenant for one in await jobs.claim()] == ["b", "c"]


async def test_high_goes_before_normal_before_low(jobs: Jobs) -> None:
    """Strictly, inside a customer's own queue; first in first out within."""
    await jobs.endpoint(concurrency=9)
    ids = {
        priority: await jobs.many(2, priority=priority) for priority in ("low", "normal", "high")
    }
    started = [one.id for one in await jobs.claim()]
    assert started == ids["high"] + ids["normal"] + ids["low"]


async def test_priority_across_customers(jobs: Jobs) -> None:
    """Where the endpoint says so, class goes first over all queues; one start in five is kept for
    the rest."""
    await jobs.endpoint(concurrency=1, priority_scope="endpoint")
    await jobs.many(20, tenant="flood", priority="high")
    await jobs.many(2, tenant="quiet")
    await jobs.many(1, tenant="low", priority="low")
    started = []
    for _ in range(12):
        claimed = await jobs.one()
        started.append(claimed.tenant)
        await jobs.settle(claimed)
    assert started == ["flood"] * 4 + ["quiet"] + ["flood"] * 4 + ["quiet"] + ["flood"] * 2


async def test_priority_across_customers_in_one_claim(jobs: Jobs) -> None:
    """The same order, however many start at once; high ones of several customers in turn."""
    await jobs.endpoint(concurrency=10, priority_scope="endpoint")
    await jobs.many(4, tenant="a", priority="high")
    await jobs.many(4, tenant="b", priority="high")
    await jobs.many(4, tenant="c")
    started = [one.tenant for one in await jobs.claim()]
    assert started == ["a", "b", "a", "b", "c", "a", "b", "a", "b", "c"]


async def test_endpoints_take_turns_for_places(jobs: Jobs) -> None:
    """One that has a backlog leaves places for the others."""
    for name in ("one", "two", "three"):
        await jobs.endpoint(name, concurrency=50)
        await jobs.many(20, at=name)
    started = Counter(one.endpoint for one in await jobs.claim(9))
    assert started == {"one": 3, "two": 3, "three": 3}
    served = []
    for _ in range(3):
        jobs.world.tick()
        served.append((await jobs.one()).endpoint)
    assert sorted(served) == ["one", "three", "two"]


async def test_a_rate_is_kept(jobs: Jobs) -> None:
    """Starts a second, whoever starts them; nothing goes past it, hand-overs neither."""
    await jobs.endpoint(concurrency=100, rate=10.0)
    ids = await jobs.many(30)
    assert (await jobs.submit(handover=True)).claimed is None
    started = 0
    for _ in range(200):
        started += len(await jobs.claim())
        jobs.world.tick(10)
    assert 18 <= started <= 21
    assert (await jobs.states(ids)).count("running") == started


async def test_a_claim_says_when_the_next_is_due(jobs: Jobs) -> None:
    """After each commit that touched jobs: now, in a while, or never."""
    await jobs.endpoint(concurrency=1)
    now_ms = jobs.world.now_ms
    told = [jobs.world.jobs_ready[-1]]
    for step in (jobs.submit(not_before_ms=now_ms + 500), jobs.submit(), jobs.one()):
        await step
        told.append(jobs.world.jobs_ready[-1])
    assert told == [None, now_ms + 500, 0, None]


async def test_a_body_that_does_not_fit_waits(jobs: Jobs) -> None:
    """With what is behind it in its queue; others' go on."""
    await jobs.endpoint(concurrency=9)
    await jobs.submit(b"x" * 1_000)
    await jobs.submit(b"x")
    small = await jobs.submit(b"x" * 10, tenant="other")
    assert [one.id for one in await jobs.claim(bytes_free=500)] == [small.id]
    assert len(await jobs.claim()) == 2


async def test_a_held_endpoint_starts_nothing_and_costs_others_nothing(jobs: Jobs) -> None:
    """Turned away: its queue waits for as long as was asked for."""
    await jobs.endpoint(concurrency=2)
    await jobs.endpoint("other", concurrency=2)
    await jobs.many(5)
    await jobs.settle((await jobs.claim(1))[0], outcome(429, retry_after_ms=30_000))
    other = await jobs.submit(at="other")
    assert [one.id for one in await jobs.claim()] == [other.id]
    jobs.world.tick(29_999)
    assert await jobs.claim() == []
    jobs.world.tick(2)
    assert len(await jobs.claim()) == 1  # with what is left of its window


async def test_what_was_turned_away_keeps_its_place(jobs: Jobs) -> None:
    """It has its own time, and when that has come goes by its ticket before later ones."""
    await jobs.endpoint(concurrency=1)
    first, second, third = await jobs.many(3)
    await jobs.settle(await jobs.one(), outcome(429, retry_after_ms=1_000))
    jobs.world.tick(1_001)
    started = []
    for _ in range(3):
        jobs.world.tick(1_000)
        claimed = await jobs.one()
        started.append(claimed.id)
        await jobs.settle(claimed)
    assert started == [first, second, third]


async def test_a_job_without_its_input_is_no_trap(jobs: Jobs) -> None:
    """A database that was repaired by hand: it is ended, and holds nobody up."""
    await jobs.endpoint(concurrency=1)
    lost = await jobs.submit()
    await jobs.world.store._write(lambda tx: tx.run("DELETE FROM inputs WHERE job = ?", lost.id))
    good = await jobs.submit()
    claimed = await jobs.claim() or await jobs.claim()
    assert [one.id for one in claimed] == [good.id]
    assert await jobs.store.expire(now_ms=jobs.world.now_ms, limit=10) == 1
    assert (await jobs.get(lost.id)).state == "timeout"
    assert await jobs.store.repair(after="", limit=9) == (0, None)
