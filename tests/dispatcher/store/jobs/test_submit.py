"""Submits: stored once, in order, within the limits of their endpoint."""

import asyncio
from dataclasses import fields
from typing import Any

from dispatcher.store.errors import JobQueueFull, KeyReused, NotFound
from tests.dispatcher.store.builders import DAY_MS, raises
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.jobs.builders import EP, Jobs, job, target


async def test_what_was_submitted_is_what_a_claim_brings(jobs: Jobs) -> None:
    """Body, type, options and tags, as they came."""
    await jobs.endpoint()
    new = job(
        b"\x00\xff",
        priority="high",
        dialect="runpod",
        callback=target(),
        tags=(("team", "a"), ("env", "b")),
        function="run",
        headers=(("X-Trace", "1"),),
        sync=True,
        limit_s=30.5,
        ttl_s=60.0,
    )
    submitted = await jobs.store.submit(new)
    assert (submitted.id, submitted.state, submitted.run) == (new.id, "queued", 1)
    claimed = await jobs.one()
    for name in ("id", "tenant", "endpoint", "dialect", "priority", "body", "content_type",
                 "options", "tags", "created_ms"):  # fmt: skip
        assert getattr(claimed, name) == getattr(new, name), name
    assert (claimed.run, claimed.claim, claimed.calls, claimed.tries) == (1, 1, 0, 0)
    assert claimed.ends_ms == new.created_ms + 60_000
    assert claimed.expires_ms == new.created_ms + 60_000


async def test_a_handed_over_job_is_the_same_as_a_claimed_one(jobs: Jobs) -> None:
    """But for the order in which they came."""
    await jobs.endpoint()
    more: dict[str, Any] = {"callback": target(), "tags": (("a", "b"),), "ttl_s": 20.0}
    claimed = (await jobs.submit(handover=True, **more)).claimed
    await jobs.submit(**more)
    looked_up = await jobs.one()
    assert claimed is not None
    for name in (one.name for one in fields(claimed)):
        if name != "id":
            assert getattr(claimed, name) == getattr(looked_up, name), name


async def test_an_unknown_endpoint_is_refused_at_submit(jobs: Jobs) -> None:
    """Never a 202 for what nobody will run."""
    await raises(NotFound, jobs.submit())


async def test_the_same_key_is_the_same_job(jobs: Jobs) -> None:
    """Attached, in its present state; other content is told whose key it is. Keys belong to a
    tenant, and stand beside the job in one commit."""
    await jobs.endpoint()
    first = await jobs.submit(key="k")
    again = await jobs.submit(key="k")
    assert (again.id, again.duplicate, again.state) == (first.id, True, "queued")
    await jobs.one()
    assert (await jobs.submit(key="k", handover=True)).state == "running"
    error = await raises(KeyReused, jobs.submit(b"other", key="k"))
    assert isinstance(error, KeyReused)
    assert error.first_id == first.id
    assert not (await jobs.submit(key="k", tenant="other")).duplicate


async def test_the_same_key_at_one_moment_is_one_job(jobs: Jobs) -> None:
    """However many submits of it share a commit."""
    await jobs.endpoint()
    taken = await asyncio.gather(*(jobs.submit(key="k") for _ in range(10)))
    assert len({one.id for one in taken}) == 1
    assert sum(not one.duplicate for one in taken) == 1
    assert len(await jobs.claim()) == 1


async def test_a_key_holds_for_a_stated_time(build: Build) -> None:
    """Then the same key is another job."""
    jobs = Jobs(await build(keep_keys=float(DAY_MS // 1000)))
    await jobs.endpoint()
    first = await jobs.submit(key="k")
    jobs.world.tick(DAY_MS)
    assert (await jobs.submit(key="k")).id == first.id
    jobs.world.tick(1)
    again = await jobs.submit(key="k")
    assert not again.duplicate
    assert again.id != first.id


async def test_a_tenants_queue_is_limited_exactly(jobs: Jobs) -> None:
    """By what waits, however many come at one moment; what runs does not count, nor what other
    tenants have."""
    await jobs.endpoint(queue_max_tenant=3, concurrency=1)
    await jobs.submit(handover=True)
    results = await asyncio.gather(*(jobs.submit() for _ in range(8)), return_exceptions=True)
    full = [one for one in results if isinstance(one, JobQueueFull)]
    assert len(full) == 5
    assert (full[0].endpoint, full[0].queued, full[0].max, full[0].of_tenant) == (EP, 3, 3, True)
    await jobs.submit(tenant="other")


async def test_an_endpoints_queue_is_limited_exactly(jobs: Jobs) -> None:
    """By what waits of all tenants."""
    await jobs.endpoint(queue_max=4)
    tenants = [f"tenant-{n % 3}" for n in range(9)]
    results = await asyncio.gather(
        *(jobs.submit(tenant=one) for one in tenants), return_exceptions=True
    )
    full = [one for one in results if isinstance(one, JobQueueFull)]
    assert len(full) == 5
    assert (full[0].queued, full[0].max, full[0].of_tenant) == (4, 4, False)
    await jobs.claim(1)
    await jobs.submit()
    await raises(JobQueueFull, jobs.submit())


async def test_a_full_queue_still_knows_its_keys(jobs: Jobs) -> None:
    """Who asks for what is there already is told so."""
    await jobs.endpoint(queue_max_tenant=1)
    first = await jobs.submit(key="k")
    assert (await jobs.submit(key="k")).id == first.id


async def test_nothing_is_handed_over_past_what_waits(jobs: Jobs) -> None:
    """First in, first out: a job that waits for its turn goes before one that comes now; one that
    waits for its time does not hold up others."""
    await jobs.endpoint(concurrency=2)
    later = await jobs.submit(not_before_ms=jobs.world.now_ms + 1_000)
    assert later.state == "queued"
    assert (await jobs.submit(handover=True)).claimed is not None
    waiting = await jobs.submit()
    assert (await jobs.submit(handover=True)).claimed is None
    assert (await jobs.one()).id == waiting.id
    assert (await jobs.get(later.id)).state == "queued"


async def test_a_hand_over_never_takes_more_than_there_is(jobs: Jobs) -> None:
    """However many share a commit."""
    await jobs.endpoint(concurrency=3)
    await jobs.known(jobs.process)
    taken = await asyncio.gather(*(jobs.submit(handover=True) for _ in range(7)))
    assert sum(one.claimed is not None for one in taken) == 3
    assert [one.claimed is not None for one in taken] == [True] * 3 + [False] * 4


async def test_not_before(jobs: Jobs) -> None:
    """A job waits for its time, and when that has come goes before what came later."""
    await jobs.endpoint(concurrency=10)
    later = await jobs.submit(not_before_ms=jobs.world.now_ms + 1_000)
    await jobs.many(2)
    assert later.id not in {one.id for one in await jobs.claim()}
    await jobs.many(2)
    jobs.world.tick(1_000)
    assert (await jobs.one()).id == later.id
