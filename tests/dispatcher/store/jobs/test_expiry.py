"""What ends with time, with its process, or is handed back; purges."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dispatcher.jobs.judge import INTERRUPTIONS_MAX
from dispatcher.store.errors import NotFound, NotYet
from dispatcher.store.jobs import purge
from dispatcher.store.tenants import HEARD_MS
from tests.dispatcher.store.builders import DAY_MS, LOOKERS, TENANT, raises, secret
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target


async def test_what_waits_for_too_long_expires(jobs: Jobs) -> None:
    """Past its queue timeout or its own time to live, held or not: it has its callback and can be
    found."""
    await jobs.endpoint()
    await jobs.store.set_paused(EP, paused=True, now_ms=jobs.world.now_ms)
    late = await jobs.submit(callback=target(), queue_s=10.0)
    short = await jobs.submit(callback=target(), ttl_s=20.0)
    other = await jobs.submit()
    jobs.world.tick(9_999)
    assert await jobs.store.expire(now_ms=jobs.world.now_ms, limit=10) == 0
    jobs.world.tick(1)
    assert await jobs.store.expire(now_ms=jobs.world.now_ms, limit=10) == 1
    jobs.world.tick(10_000)
    assert await jobs.store.expire(now_ms=jobs.world.now_ms, limit=10) == 1
    assert await jobs.states([late.id, short.id, other.id]) == ["timeout", "timeout", "queued"]
    assert (await jobs.get(late.id)).reason == "expired"
    assert [one.job_status for one in await jobs.callbacks()] == ["timeout", "timeout"]


async def test_why_it_expired(jobs: Jobs) -> None:
    """`expired`: it waited past its queue timeout, or past its time to live without ever having
    begun; `ttl`: that passed after it had begun."""
    await jobs.endpoint(queue_timeout=30.0)
    never = await jobs.submit(ttl_s=20.0, queue_s=30.0)
    lived = await jobs.submit(ttl_s=20.0, queue_s=30.0)
    waited = await jobs.submit(queue_s=30.0)
    claimed = {one.id: one for one in await jobs.claim()}
    await jobs.store.release([claimed[lived.id], claimed[waited.id]], now_ms=jobs.world.now_ms)
    await jobs.cancel(claimed[never.id].id)
    await jobs.store.freed([claimed[never.id]])
    await jobs.retry(never.id)
    now_ms = jobs.world.tick(30_000)
    assert await jobs.store.expire(now_ms=now_ms, limit=10) == 3
    reasons = [(await jobs.get(one.id)).reason for one in (never, lived, waited)]
    assert reasons == ["expired", "ttl", "expired"]


async def test_expiry_comes_in_slices(jobs: Jobs) -> None:
    await jobs.endpoint()
    await jobs.many(5, queue_s=1.0)
    now_ms = jobs.world.tick(1_000)
    assert [await jobs.store.expire(now_ms=now_ms, limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_what_runs_does_not_expire(jobs: Jobs) -> None:
    """Its queue timeout is for the wait before its first start."""
    await jobs.endpoint()
    await jobs.submit(queue_s=1.0)
    await jobs.one()
    assert await jobs.store.expire(now_ms=jobs.world.tick(DAY_MS), limit=10) == 0


async def test_what_is_handed_back_is_due_at_once_and_unspent(jobs: Jobs) -> None:
    """At its place, at least once; what is called at most once, or waited for, has failed."""
    await jobs.endpoint(concurrency=9)
    await jobs.endpoint("once", delivery="at-most-once")
    first, second = await jobs.many(2)
    waited = await jobs.submit(sync=True, callback=target())
    once = await jobs.submit(at="once", callback=target())
    claimed = {one.id: one for one in await jobs.claim()}
    later = await jobs.submit()
    assert await jobs.store.release(list(claimed.values()), now_ms=jobs.world.now_ms) == 4
    again = await jobs.claim()
    assert [one.id for one in again] == [first, second, later.id]
    assert (again[0].tries, again[0].interruptions) == (0, 0)
    assert again[0].claim > claimed[first].claim
    for id in (waited.id, once.id):
        job = await jobs.get(id)
        assert (job.state, job.reason) == ("failed", "interrupted")
    assert [one.job_status for one in await jobs.callbacks()] == ["failed", "failed"]
    assert await jobs.store.release(list(claimed.values()), now_ms=jobs.world.now_ms) == 0


# --- processes ---


async def test_beats_are_counted(jobs: Jobs) -> None:
    """Each counts its own up, and sees those of the others; who was called dead is told so."""
    store, now_ms = jobs.store, jobs.world.now_ms
    assert await store.beat("a", begins=True, now_ms=now_ms) == {}
    assert await store.beat("b", begins=True, now_ms=now_ms) == {"a": 1}
    assert await store.beat("a", begins=False, now_ms=now_ms) == {"b": 1}
    assert await store.beat("b", begins=False, now_ms=now_ms) == {"a": 2}
    await store.reclaim("a", 2, now_ms=now_ms)
    assert await store.beat("a", begins=False, now_ms=now_ms) is None
    assert await store.beat("b", begins=False, now_ms=now_ms) == {}
    await store.leave("b")
    assert await store.beat("a", begins=True, now_ms=now_ms) == {}


async def test_the_jobs_of_a_dead_process_go_on(jobs: Jobs) -> None:
    """At their places, one interruption more; the late result of the dead one changes nothing."""
    await jobs.endpoint(concurrency=2)
    await jobs.many(2)
    taken = await jobs.claim(process="dead")
    jobs.world.tick(3 * DAY_MS)
    assert await jobs.store.reclaim("dead", 7, now_ms=jobs.world.now_ms) == 0  # it beats again
    assert await jobs.store.reclaim("dead", 1, now_ms=jobs.world.now_ms) == 2
    assert await jobs.store.expire(now_ms=jobs.world.now_ms, limit=10) == 0
    again = await jobs.claim()
    assert [one.id for one in again] == [one.id for one in taken]
    assert {one.interruptions for one in again} == {1}
    assert not (await jobs.settle(taken[0])).recorded
    assert (await jobs.settle(again[0])).recorded


async def test_a_process_that_was_called_dead_starts_nothing(jobs: Jobs, store_name: str) -> None:
    """Also in a commit that was begun before it was stopped: nobody would know of its calls. A
    sole owner cannot be called dead."""
    await jobs.endpoint(concurrency=9)
    await jobs.many(1)
    await jobs.one(process="dead")
    await jobs.store.reclaim("dead", 1, now_ms=jobs.world.now_ms)
    jobs.process = "dead"
    submitted = await jobs.submit(handover=True)
    claimed = await jobs.claim()
    if store_name == "sqlite":
        assert claimed
    else:
        assert submitted.claimed is None
        assert claimed == []
        jobs.beating.clear()  # it begins anew
        assert len(await jobs.claim()) == 2


async def test_a_job_that_kills_processes_ends(jobs: Jobs) -> None:
    """Queued again so many times, then it has failed: `crash_loop`."""
    await jobs.endpoint()
    submitted = await jobs.submit(callback=target())
    for n in range(INTERRUPTIONS_MAX + 1):
        name = f"process-{n}"
        await jobs.one(process=name)
        assert await jobs.store.reclaim(name, 1, now_ms=jobs.world.now_ms) == 1
    job = await jobs.get(submitted.id)
    assert (job.state, job.reason) == ("failed", "crash_loop")
    assert len(await jobs.callbacks()) == 1


async def test_at_most_once_is_not_repeated_after_a_crash(jobs: Jobs) -> None:
    """It has failed, `interrupted`; so has a call that somebody waited for."""
    await jobs.endpoint(delivery="at-most-once")
    submitted = await jobs.submit(callback=target(), handover=True)
    await jobs.leaves(jobs.process)
    assert await jobs.store.reclaim_orphans(beside="me", now_ms=jobs.world.now_ms) == 1
    job = await jobs.get(submitted.id)
    assert (job.state, job.reason) == ("failed", "interrupted")
    assert len(await jobs.callbacks()) == 1


async def test_orphans_are_taken_in_slices_and_living_processes_keep_theirs(jobs: Jobs) -> None:
    """What no process runs that is known, nor this one."""
    await jobs.endpoint(concurrency=20)
    await jobs.many(9)
    for name in ("alive", "gone", "me"):
        assert len(await jobs.claim(3, process=name)) == 3
    for name in ("gone", "me"):
        await jobs.leaves(name)
    take = [
        await jobs.store.reclaim_orphans(beside="me", now_ms=jobs.world.now_ms, limit=2)
        for _ in range(3)
    ]
    assert take == [2, 1, 0]
    assert len(await jobs.claim()) == 3


async def test_the_places_of_a_dead_process_are_free(jobs: Jobs) -> None:
    """Those that cancelled calls took until their end, too."""
    await jobs.endpoint(concurrency=1)
    await jobs.many(2)
    await jobs.cancel((await jobs.one(process="gone")).id)
    await jobs.leaves("gone")
    assert await jobs.claim() == []
    assert await jobs.store.reclaim_orphans(beside="me", now_ms=jobs.world.now_ms) == 1
    assert len(await jobs.claim()) == 1


async def test_a_restart_keeps_everything(jobs: Jobs) -> None:
    """Accepted is on disk (I1): endpoints, what waits, what ran and what ended."""
    await jobs.endpoint(concurrency=1)
    first, second = await jobs.many(2, callback=target())
    await jobs.settle(await jobs.one())
    await jobs.one()
    await jobs.world.reopen()
    await jobs.leaves(jobs.process)
    assert await jobs.states([first, second]) == ["completed", "running"]
    assert await jobs.store.reclaim_orphans(beside="new", now_ms=jobs.world.now_ms) == 1
    assert (await jobs.one()).id == second


# --- purges ---


async def test_a_purge_is_one_row(jobs: Jobs, tmp_path: Any, store_name: str) -> None:
    """Whatever waits: nothing of it starts any more, and what comes now does; slices end it, each
    with its callback."""
    await jobs.endpoint(concurrency=9)
    running = (await jobs.submit(handover=True)).claimed
    ids = await jobs.many(25, callback=target())
    others = await jobs.many(2, tenant="other")
    look = LOOKERS[store_name]
    sql = "SELECT id, state, claim, epoch FROM jobs ORDER BY id"
    before = look(tmp_path / "0", sql)
    now_ms = jobs.world.now_ms
    assert await jobs.store.purge(EP, tenant="acme", now_ms=now_ms) == 25
    assert look(tmp_path / "0", sql) == before
    new = await jobs.submit()
    assert {one.id for one in await jobs.claim()} == {*others, new.id}
    assert await jobs.purged(limit=10) == [10, 10, 5, 0]
    assert Counter(await jobs.states(ids)) == {"cancelled": 25}
    assert (await jobs.get(ids[0])).reason == "purged"
    assert Counter(one.job_status for one in await jobs.callbacks()) == {"cancelled": 25}
    assert await jobs.purged() == [0]
    assert running is not None
    assert (await jobs.settle(running)).recorded


async def test_a_purge_of_all_tenants_without_callbacks(jobs: Jobs) -> None:
    """Nobody is told where that is not wanted."""
    await jobs.endpoint(concurrency=1)
    ids = await jobs.many(3, callback=target())
    other = await jobs.submit(tenant="other", callback=target())
    now_ms = jobs.world.now_ms
    assert await jobs.store.purge(EP, tenant=None, callbacks=False, now_ms=now_ms) == 4
    assert await jobs.claim() == []
    await jobs.purged()
    assert await jobs.states(ids) == ["cancelled"] * 3
    assert await jobs.states([other.id], "other") == ["cancelled"]
    assert await jobs.callbacks() == []
    await raises(NotFound, jobs.store.purge("none", tenant=None, now_ms=now_ms))


async def test_what_ran_during_a_purge_goes_back_to_the_new_queue(jobs: Jobs) -> None:
    """It was not in the queue when that was purged."""
    await jobs.endpoint(concurrency=1)
    await jobs.many(2)
    running = await jobs.one()
    now_ms = jobs.world.now_ms
    assert await jobs.store.purge(EP, tenant=None, now_ms=now_ms) == 1
    await jobs.settle(running, outcome(kind="interrupted"))
    assert (await jobs.one()).id == running.id


async def test_a_purged_job_can_be_cancelled_before_its_slice_comes(jobs: Jobs) -> None:
    """It is counted once."""
    await jobs.endpoint(queue_max_tenant=2)
    first, _ = await jobs.many(2)
    now_ms = jobs.world.now_ms
    await jobs.store.purge(EP, tenant=None, now_ms=now_ms)
    assert (await jobs.cancel(first)).changed
    assert await jobs.purged() == [1, 0]
    (sweep,) = await jobs.store.sweeps(TENANT)
    assert (sweep.matched, sweep.done, sweep.skipped) == (2, 1, 1)
    assert len(await jobs.many(2)) == 2


async def test_one_slice_ends_what_many_customers_had(jobs: Jobs) -> None:
    """Not a commit for each; what was purged without callbacks is not told."""
    await jobs.endpoint()
    for n in range(30):
        await jobs.submit(tenant=f"t{n}", callback=target(tenant=f"t{n}"))
    assert await jobs.store.purge(EP, tenant="t7", callbacks=False, now_ms=jobs.world.now_ms) == 1
    assert await jobs.store.purge(EP, tenant=None, now_ms=jobs.world.now_ms) == 29
    assert await jobs.purged(limit=20) == [20, 10, 0]
    told = [len(await jobs.callbacks(f"t{n}")) for n in range(30)]
    assert told == [0 if n == 7 else 1 for n in range(30)]


async def test_two_purges_of_a_queue_end_each_job_once(jobs: Jobs) -> None:
    """Where one slice is about both: each counts what had waited for it alone, and a customer's
    figures are what there is."""
    await jobs.endpoint()
    for _ in range(2):
        await jobs.many(3, callback=target())
        assert await jobs.store.purge(EP, tenant=TENANT, now_ms=jobs.world.now_ms) == 3
        jobs.world.tick(1)
    assert await jobs.purged(limit=5) == [5, 1, 0]
    assert [(one.matched, one.done) for one in await jobs.store.sweeps(TENANT)] == [(3, 3)] * 2
    assert len(await jobs.callbacks()) == 6
    counts = await jobs.store.counts(TENANT)
    assert counts["cancelled"] == 6, counts


# --- purges of very many queues ---


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit purges two queues."""
    monkeypatch.setattr(purge, "QUEUES_MAX", 2)


async def purge_on(jobs: Jobs) -> bool:
    """Whether a purge of all goes on."""
    (name,) = await jobs.store.purging()
    more = await jobs.store.purge_on(name, now_ms=jobs.world.now_ms)
    assert list(await jobs.store.purging()) == [EP] * more
    return more


async def shown(jobs: Jobs) -> dict[str, int]:
    def look(tx: Any) -> Any:
        return tx.all("SELECT tenant, queued FROM queues WHERE endpoint = ? ORDER BY tenant", EP)

    return dict(await jobs.store._write(look))


async def all_agrees(jobs: Jobs) -> None:
    """What is shown of queues is what is there."""
    assert await jobs.store.repair(after="", limit=100) == (0, None)


@pytest.mark.usefixtures("few")
async def test_a_purge_of_very_many_customers_is_bounded(jobs: Jobs) -> None:
    """No commit touches more queues than it may; meanwhile nothing is started there, and what is
    submitted after the purge is none of its."""
    await jobs.endpoint(concurrency=99, queue_max_tenant=99)
    tenants = ["a", "b", "c", "d", "e"]
    for tenant in tenants:
        await jobs.many(2, tenant=tenant)
    await jobs.endpoint("other")
    other = await jobs.submit(at="other", tenant="e")
    assert await jobs.store.purge(EP, tenant=None, now_ms=jobs.world.now_ms) == 10
    assert await shown(jobs) == {"a": 0, "b": 0, "c": 2, "d": 2, "e": 2}
    await raises(NotYet, jobs.store.purge(EP, tenant=None, now_ms=jobs.world.now_ms))
    new = [(await jobs.submit(tenant=tenant, handover=True)).id for tenant in (*tenants, "f")]
    assert [one.id for one in await jobs.claim()] == [other.id]
    await all_agrees(jobs)
    assert await purge_on(jobs)
    await all_agrees(jobs)
    assert [one.id for one in await jobs.claim()] == []
    newer = await jobs.submit(tenant="e")
    while await purge_on(jobs):
        pass
    await all_agrees(jobs)
    assert await shown(jobs) == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 2, "f": 1}
    assert {one.id for one in await jobs.claim()} == {*new, newer.id}
    assert sum(await jobs.purged()) == 10
    assert [len(await jobs.store.sweeps(one)) for one in (*tenants, "f")] == [1] * 5 + [0]
    assert list(await jobs.store.purging()) == []


@pytest.mark.usefixtures("few")
async def test_what_comes_back_during_a_purge_was_not_in_the_queue(jobs: Jobs) -> None:
    """Handed back, turned away, taken over or retried: it belongs to the next epoch."""
    await jobs.endpoint(concurrency=4)
    ids = [(await jobs.submit(tenant="z")).id for _ in range(4)]
    back, away, over, again = await jobs.claim()
    for tenant in ("a", "b", "c", "z"):
        await jobs.submit(tenant=tenant)
    assert await jobs.store.purge(EP, tenant=None, now_ms=jobs.world.now_ms) == 4
    assert await jobs.store.release([back], now_ms=jobs.world.now_ms) == 1
    await jobs.settle(away, outcome(429, now_ms=jobs.world.now_ms))
    await jobs.settle(again, outcome(400, now_ms=jobs.world.now_ms))
    await jobs.retry(again.id, "z")
    await jobs.leaves(jobs.process)
    assert await jobs.store.reclaim_orphans(beside="me", now_ms=jobs.world.now_ms) == 1
    assert over.id == ids[2]
    await all_agrees(jobs)
    while await purge_on(jobs):
        pass
    await all_agrees(jobs)
    jobs.world.tick(10_000)
    await jobs.store.set_paused(EP, paused=False, now_ms=jobs.world.now_ms)
    assert {one.id for one in await jobs.claim()} == set(ids)
    assert sum(await jobs.purged()) == 4


@pytest.mark.usefixtures("few")
async def test_one_customers_purge_during_that_of_all(jobs: Jobs) -> None:
    """Purges what came since, too; what comes after both is none of theirs."""
    await jobs.endpoint(concurrency=9)
    for tenant in ("a", "b", "z"):
        await jobs.submit(tenant=tenant)
    await jobs.store.purge(EP, tenant=None, now_ms=jobs.world.now_ms)
    await jobs.submit(tenant="z")
    assert await jobs.store.purge(EP, tenant="z", now_ms=jobs.world.now_ms) == 2
    last = await jobs.submit(tenant="z")
    cancelled = await jobs.submit(tenant="z")
    await jobs.cancel(cancelled.id, "z")
    while await purge_on(jobs):
        pass
    await all_agrees(jobs)
    assert await shown(jobs) == {"a": 0, "b": 0, "z": 1}
    assert sum(await jobs.purged()) == 4
    assert [one.matched for one in await jobs.store.sweeps("z")] == [2]
    assert [one.id for one in await jobs.claim()] == [last.id]


@pytest.mark.usefixtures("few")
async def test_a_removed_endpoint_of_very_many_customers_goes_in_slices(jobs: Jobs) -> None:
    """Its queues, a few in a commit; also while all of it is being purged."""
    await jobs.endpoint()
    for tenant in ("a", "b", "c", "d", "e"):
        await jobs.submit(tenant=tenant)
    await jobs.store.purge(EP, tenant=None, now_ms=jobs.world.now_ms)
    await jobs.store.remove_endpoint(EP, now_ms=jobs.world.now_ms)
    assert await purge_on(jobs)
    assert await jobs.purged(limit=5) == [5, 0, 0, 0, 0]
    assert await shown(jobs) == {}
    assert list(await jobs.store.purging()) == []
    await jobs.endpoint()
    assert await jobs.purged() == [0]


# --- a tenant's end ---


async def test_an_erased_tenant_leaves_no_job(jobs: Jobs, tmp_path: Path, store_name: str) -> None:
    """What runs is closed and waited for; of all else nothing is left, and others' stay."""
    world, store = jobs.world, jobs.world.store
    await store.ensure_tenant(TENANT, secret(now_ms=world.now_ms))
    await jobs.endpoint(concurrency=3)
    await jobs.submit(callback=target(), tags=(("a", "b"),))
    await jobs.settle(await jobs.one())
    await jobs.many(4, tags=(("a", "b"),))
    running = await jobs.one()
    other = await jobs.submit(tenant="other")
    await store.begin_erasing(TENANT, now_ms=world.now_ms)
    erased = [await store.erase(TENANT, now_ms=world.now_ms, limit=10) for _ in range(9)]
    assert erased[-1] == "waiting"
    assert not (await jobs.settle(running)).recorded
    await jobs.store.freed([running])
    world.tick(HEARD_MS)
    while await store.erase(TENANT, now_ms=world.now_ms, limit=2) != "done":
        pass
    look = LOOKERS[store_name]
    for table in ("jobs", "queues", "job_tags", "job_usage"):
        left = look(tmp_path / "0", f"SELECT tenant FROM {table}")
        assert TENANT not in {row[0] for row in left}
    for table in ("inputs", "outputs", "job_attempts"):
        left = look(tmp_path / "0", f"SELECT job FROM {table}")
        assert {row[0] for row in left} <= {other.id}
    assert len(await jobs.claim()) == 1
