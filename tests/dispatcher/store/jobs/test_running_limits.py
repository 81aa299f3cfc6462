"""How many of a tenant's jobs run at once: over all endpoints, exact, and nobody else's matter."""

import random
from collections import Counter

from dispatcher.jobs.values import ClaimedJob, RunningLimits
from dispatcher.store.jobs import claim
from tests.dispatcher.store.builders import TENANT
from tests.dispatcher.store.jobs.builders import EP, Jobs

THREE = RunningLimits(default=3)


async def test_no_more_run_than_may_over_all_endpoints(jobs: Jobs) -> None:
    """In one claim as in several, and in the order of turns and tickets; what ends makes room."""
    await jobs.endpoint(concurrency=9)
    await jobs.endpoint("other", concurrency=9)
    ids = [*await jobs.many(3), *await jobs.many(3, at="other")]
    claimed = await jobs.claim(limits=THREE)
    assert len(claimed) == 3
    assert {one.endpoint for one in claimed} == {EP, "other"}
    assert await jobs.claim(limits=THREE) == []
    await jobs.settle(claimed[0])
    assert len(await jobs.claim(limits=THREE)) == 1
    assert await jobs.claim(limits=THREE) == []
    assert len(await jobs.claim()) == 2  # without a limit all
    assert sorted(await jobs.states(ids)) == ["completed", *["running"] * 5]


async def test_one_tenants_limit_is_no_others(jobs: Jobs) -> None:
    """Its own wins over everybody's; of a tenant that may run none, none is started."""
    await jobs.endpoint(concurrency=99)
    for tenant in ("own", "default", "none", "many"):
        await jobs.many(6, tenant=tenant)
    limits = RunningLimits(default=3, own={"own": 2, "none": 0, "many": 100})
    running = Counter(one.tenant for one in await jobs.claim(limits=limits))
    assert running == {"own": 2, "default": 3, "many": 6}


async def test_a_tenant_at_its_limit_takes_nobodys_turn(jobs: Jobs) -> None:
    """Its queue, however long not served, is passed over: with one place the next customer goes."""
    await jobs.endpoint(concurrency=9)
    await jobs.many(3)
    assert len(await jobs.claim(limits=THREE)) == 3
    await jobs.change(concurrency=4)
    for n in range(5):
        await jobs.many(2, tenant=f"full-{n}")
    full = RunningLimits(default=3, own={f"full-{n}": 0 for n in range(5)})
    await jobs.many(4)
    late = await jobs.submit(tenant="late")
    assert [one.id for one in await jobs.claim(1, limits=full)] == [late.id]
    assert await jobs.claim(limits=full) == []


async def test_turns_go_on_where_one_reaches_its_limit(jobs: Jobs) -> None:
    """In the middle of a claim, at whichever endpoint; priority across customers too."""
    await jobs.endpoint(concurrency=9, priority_scope="endpoint")
    await jobs.many(5, tenant="flood", priority="high")
    await jobs.many(4, tenant="quiet")
    limits = RunningLimits(own={"flood": 2})
    started = [one.tenant for one in await jobs.claim(limits=limits)]
    assert Counter(started) == {"flood": 2, "quiet": 4}
    assert started[:2] == ["flood", "flood"]


async def test_many_endpoints_with_nothing_that_may_start_keep_no_other_waiting(jobs: Jobs) -> None:
    """However many there are at which only tenants at their limits wait: they go behind."""
    limits = RunningLimits(own={"full": 0})
    for n in range(claim._ENDPOINTS_MAX + 5):
        await jobs.endpoint(f"full-{n:03}")
        await jobs.submit(at=f"full-{n:03}", tenant="full")
    jobs.world.tick()
    await jobs.endpoint("zlast")
    waiting = await jobs.submit(at="zlast")
    claimed = []
    for _ in range(2):
        jobs.world.tick()
        claimed += await jobs.claim(limits=limits)
    assert [one.id for one in claimed] == [waiting.id]


async def test_what_is_handed_over_counts(jobs: Jobs) -> None:
    """A submit starts its job only if its tenant may run one more."""
    await jobs.endpoint(concurrency=9)
    await jobs.endpoint("other", concurrency=9)
    started = [
        (await jobs.submit(handover=True, running_max=2, at=at)).claimed is not None
        for at in (EP, "other", EP, "other")
    ]
    assert started == [True, True, False, False]
    assert (await jobs.submit(handover=True, running_max=2, tenant="b", at="other")).claimed is None
    limits = RunningLimits(default=2)
    assert [one.tenant for one in await jobs.claim(limits=limits)] == ["b"]


async def test_a_call_that_is_being_closed_counts_until_it_has_ended(jobs: Jobs) -> None:
    """As for its endpoint's capacity."""
    await jobs.endpoint(concurrency=9)
    await jobs.many(2)
    limits = RunningLimits(default=1)
    (running,) = await jobs.claim(limits=limits)
    await jobs.cancel(running.id)
    assert await jobs.claim(limits=limits) == []
    await jobs.store.freed([running])
    assert len(await jobs.claim(limits=limits)) == 1


async def test_its_jobs_say_that_they_wait_for_it(jobs: Jobs) -> None:
    """And not for capacity, of which there is some; what waits for something else says that."""
    await jobs.endpoint(concurrency=9)
    await jobs.many(2)
    await jobs.claim()
    waiting = (await jobs.submit()).id

    async def reason(running_max: int | None) -> str:
        found = await jobs.store.waiting(
            TENANT, waiting, running_max=running_max, now_ms=jobs.world.now_ms
        )
        assert found is not None
        return found.reason

    assert await reason(2) == "tenant_limit"
    assert await reason(3) == "capacity"
    assert await reason(None) == "capacity"
    await jobs.store.set_paused(EP, paused=True, now_ms=jobs.world.now_ms)
    assert await reason(2) == "paused"


async def test_whatever_happens_no_more_run_than_may(jobs: Jobs) -> None:
    """Random submits, claims, ends, cancels and changes of the limit."""
    chance = random.Random(7)
    names = (EP, "b", "c")
    for name in names:
        await jobs.endpoint(name, concurrency=6)
    running: dict[str, ClaimedJob] = {}
    for _ in range(150):
        tenant = chance.choice(("acme", "other"))
        limits = RunningLimits(own={"acme": chance.choice((1, 2, 4)), "other": 3})
        before = Counter(one.tenant for one in running.values())
        match chance.randrange(4):
            case 0 | 1:
                at, handover = chance.choice(names), chance.random() < 0.5
                taken = await jobs.submit(
                    tenant=tenant, at=at, handover=handover, running_max=limits.of(tenant)
                )
                started = [] if taken.claimed is None else [taken.claimed]
            case 2:
                started = await jobs.claim(chance.randrange(1, 9), limits=limits)
            case _:
                started = []
                if running:
                    ended = running.pop(chance.choice(list(running)))
                    await jobs.settle(ended)
        running |= {one.id: one for one in started}
        after = Counter(one.tenant for one in running.values())
        for one in ("acme", "other"):
            if after[one] > before[one]:
                assert after[one] <= (limits.of(one) or 0)
