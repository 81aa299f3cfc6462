"""Bulk cancels and bulk retries: a fixed set, a slice at a time, whatever happens meanwhile."""

from collections.abc import Sequence
from typing import Any

import pytest

from dispatcher.audit import EntryFilter, new_entry
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.looks import JobSweep
from dispatcher.store import search as looks
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.store.jobs import sweeps
from tests.dispatcher.store.builders import TENANT, raises, secret
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target


async def made(jobs: Jobs, what: sweeps.Bulk, **wanted: Any) -> JobSweep:
    return await jobs.store.make_sweep(TENANT, what, JobFilter(**wanted), now_ms=jobs.world.now_ms)


async def done(jobs: Jobs, sweep: JobSweep, *, limit: int = 2) -> JobSweep:
    """What a sweep comes to, slice by slice."""
    for _ in range(100):
        sweep, _ = await jobs.store.step_sweep(
            TENANT, sweep.id, now_ms=jobs.world.tick(), limit=limit
        )
        if sweep.state != "running":
            return sweep
    raise AssertionError("it has no end")


async def step(jobs: Jobs, sweep: JobSweep) -> tuple[int, int, bool]:
    """How far it is after one more slice, and whether that came anywhere."""
    now_ms = jobs.world.tick()
    now, moved = await jobs.store.step_sweep(TENANT, sweep.id, now_ms=now_ms, limit=10)
    return now.done, now.skipped, moved


async def failed(jobs: Jobs, count: int, **more: Any) -> Sequence[str]:
    """Jobs that failed."""
    ids = []
    for _ in range(count):
        ids.append((await jobs.submit(**more)).id)
        await jobs.settle(await jobs.one(), outcome(500, body=b"no"))
    return ids


async def test_a_bulk_cancel_ends_what_waits_and_what_runs(jobs: Jobs) -> None:
    """Each with its callback; what was submitted later is not in the set."""
    await jobs.endpoint(concurrency=2)
    await jobs.endpoint("other")
    ids = await jobs.many(5, callback=target())
    running = await jobs.claim(2)
    theirs = (await jobs.submit(at="other")).id
    somebody = (await jobs.submit(tenant="somebody")).id
    sweep = await made(jobs, "cancel", endpoint=EP)
    assert (sweep.matched, sweep.matched_exactly, sweep.state) == (5, True, "running")
    jobs.world.tick()
    later = (await jobs.submit()).id
    ended = await done(jobs, sweep)
    assert (ended.done, ended.skipped, ended.state) == (5, 0, "completed")
    assert await jobs.states(ids) == ["cancelled"] * 5
    assert {(await jobs.get(one)).reason for one in ids} == {"user"}
    assert await jobs.states([theirs, later]) == ["queued", "queued"]
    assert await jobs.states([somebody], "somebody") == ["queued"]
    assert len(await jobs.callbacks(status="pending")) == 5
    load = await jobs.store.load(EP)
    assert (load.running, load.releasing, load.queued) == (0, 2, 2)
    await jobs.store.freed(running)


async def test_a_bulk_retry_queues_what_had_failed(jobs: Jobs) -> None:
    """What failed later is not in the set; what was retried meanwhile is counted as skipped."""
    await jobs.endpoint(concurrency=9)
    ids = await failed(jobs, 5)
    cancelled = (await jobs.submit()).id
    await jobs.cancel(cancelled)
    completed = (await jobs.submit()).id
    await jobs.settle(await jobs.one())
    sweep = await made(jobs, "retry", status="failed")
    assert sweep.matched == 5
    jobs.world.tick()
    (later,) = await failed(jobs, 1)
    await jobs.retry(ids[1])
    ended = await done(jobs, sweep)
    assert (ended.matched, ended.done, ended.skipped) == (5, 4, 1)
    assert [(await jobs.get(one)).run for one in ids] == [2] * 5
    assert await jobs.states([*ids, cancelled, completed, later]) == [
        *["queued"] * 5, "cancelled", "completed", "failed",
    ]  # fmt: skip


async def test_a_retry_goes_on_when_there_is_room(jobs: Jobs) -> None:
    """A full queue refuses nothing of it; it waits."""
    await jobs.endpoint(concurrency=9, queue_max_tenant=3)
    ids = await failed(jobs, 5)
    sweep = await made(jobs, "retry")
    assert await step(jobs, sweep) == (3, 0, True)
    assert await step(jobs, sweep) == (3, 0, False)
    for claimed in await jobs.claim():
        await jobs.settle(claimed)
    ended = await done(jobs, sweep)
    assert (ended.done, ended.skipped, ended.state) == (5, 0, "completed")
    assert await jobs.states(ids) == ["completed"] * 3 + ["queued"] * 2


async def test_a_retry_of_one_full_queue_goes_on_at_another(jobs: Jobs) -> None:
    await jobs.endpoint(concurrency=9, queue_max_tenant=1)
    await jobs.endpoint("other", concurrency=9)
    ids = [one for at in (EP, EP, "other", EP, "other") for one in await failed(jobs, 1, at=at)]
    sweep = await made(jobs, "retry")
    assert [await step(jobs, sweep) for _ in range(3)] == [
        (3, 0, True), (3, 0, False), (3, 0, False),
    ]  # fmt: skip
    assert await jobs.states(ids) == ["queued", "failed", "queued", "failed", "queued"]
    for _ in range(3):
        for claimed in await jobs.claim():
            await jobs.settle(claimed)
        await step(jobs, sweep)
    ended = await jobs.store.get_sweep(TENANT, sweep.id)
    assert (ended.done, ended.skipped, ended.state) == (5, 0, "completed")


async def test_a_sweep_survives_a_restart(jobs: Jobs) -> None:
    """It goes on where it was."""
    await jobs.endpoint()
    ids = await jobs.many(6)
    sweep = await made(jobs, "cancel")
    await jobs.store.step_sweep(TENANT, sweep.id, now_ms=jobs.world.now_ms, limit=2)
    await jobs.world.reopen()
    (running,) = await jobs.store.running_sweeps()
    assert (running.id, running.done) == (sweep.id, 2)
    ended = await done(jobs, running)
    assert (ended.done, ended.skipped) == (6, 0)
    assert await jobs.store.running_sweeps() == []
    assert await jobs.states(ids) == ["cancelled"] * 6


async def test_a_sweep_that_is_cancelled_changes_no_more(jobs: Jobs) -> None:
    """What was changed stays. One that is done, and a purge, cannot be."""
    await jobs.endpoint()
    ids = await jobs.many(4)
    sweep = await made(jobs, "cancel")
    await jobs.store.step_sweep(TENANT, sweep.id, now_ms=jobs.world.now_ms, limit=1)
    now_ms = jobs.world.tick()
    await jobs.store.cancel_sweep(TENANT, sweep.id, now_ms=now_ms)
    stopped = await jobs.store.cancel_sweep(TENANT, sweep.id, now_ms=now_ms)
    assert (stopped.state, stopped.done, stopped.ended_ms) == ("cancelled", 1, now_ms)
    stepped, _ = await jobs.store.step_sweep(TENANT, sweep.id, now_ms=now_ms, limit=9)
    assert stepped == stopped
    assert await jobs.states(ids) == ["cancelled", *["queued"] * 3]
    ended = await done(jobs, await made(jobs, "cancel"))
    await raises(Conflict, jobs.store.cancel_sweep(TENANT, ended.id, now_ms=now_ms))
    await jobs.submit()
    await jobs.store.purge(EP, tenant=TENANT, now_ms=jobs.world.tick())
    purge, *_ = await jobs.store.sweeps(TENANT)
    assert (purge.what, purge.matched, purge.filter) == ("purge", 1, {})
    await raises(Conflict, jobs.store.cancel_sweep(TENANT, purge.id, now_ms=now_ms))


async def test_a_dry_run_counts_to_a_bound_and_shows_some(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest, and changes nothing."""
    await jobs.endpoint(concurrency=1)
    ids = await jobs.many(4)
    running = await jobs.one()
    for chosen, matched, sample in (
        (JobFilter(), 4, ids[3:1:-1]),
        (JobFilter(status="queued"), 3, ids[3:1:-1]),
        (JobFilter(status="running"), 1, ids[:1]),
    ):
        found = await jobs.store.preview_sweep(
            TENANT, "cancel", chosen, sample=2, now_ms=jobs.world.now_ms
        )
        assert (found.matched, found.exact) == (matched, True)
        assert [one.id for one in found.sample] == sample
    assert running.id == ids[0]
    assert await jobs.store.running_sweeps() == []
    monkeypatch.setattr(sweeps, "COUNTED_MAX", 2)
    more = await jobs.store.preview_sweep(
        TENANT, "cancel", JobFilter(), sample=0, now_ms=jobs.world.now_ms
    )
    assert (more.matched, more.exact) == (2, False)
    sweep = await made(jobs, "cancel")
    assert (sweep.matched, sweep.matched_exactly) == (2, False)
    ended = await done(jobs, sweep)
    assert (ended.matched, ended.matched_exactly, ended.done) == (4, True, 4)


@pytest.mark.parametrize("what", ["cancel", "retry"])
async def test_a_look_that_ends_early_is_gone_on_with(
    jobs: Jobs, what: sweeps.Bulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little one look is about, the whole set is walked."""
    await jobs.endpoint(concurrency=99)
    ids = await failed(jobs, 7, tags=(("a", "b"),))
    others = [(await jobs.submit()).id for _ in range(7)]
    monkeypatch.setattr(looks, "SCAN_MAX", 2)
    sweep = await made(jobs, what, endpoint=EP)
    ended = await done(jobs, sweep)
    assert ended.done == 7
    assert await jobs.states(ids) == (["failed"] if what == "cancel" else ["queued"]) * 7
    assert await jobs.states(others) == (["cancelled"] if what == "cancel" else ["queued"]) * 7


async def test_what_a_sweep_cannot_change_it_is_not_about(jobs: Jobs) -> None:
    await raises(Conflict, made(jobs, "cancel", status="completed"))
    await raises(Conflict, made(jobs, "retry", status="queued"))
    await raises(Conflict, made(jobs, "retry", status="completed"))
    nothing = await made(jobs, "retry")
    assert (nothing.state, nothing.matched) == ("completed", 0)
    await raises(NotFound, jobs.store.get_sweep("other", nothing.id))
    await raises(NotFound, jobs.store.cancel_sweep("other", nothing.id, now_ms=0))
    assert await jobs.store.get_sweep(TENANT, nothing.id) == nothing


async def test_a_tenant_has_so_many_that_run(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "RUNNING_MAX", 2)
    await jobs.endpoint()
    await jobs.many(1)
    first = await made(jobs, "cancel")
    jobs.world.tick()
    second = await made(jobs, "cancel")
    jobs.world.tick()
    await raises(Conflict, made(jobs, "cancel"))
    found = await jobs.store.sweeps(TENANT)
    assert [one.id for one in found] == [second.id, first.id]
    assert list(await jobs.store.sweeps(TENANT, after=second.id)) == [first]


async def test_what_was_done_in_bulk_stands_in_the_audit_trail(jobs: Jobs) -> None:
    await jobs.world.store.ensure_tenant(TENANT, secret())
    await jobs.endpoint()
    await jobs.many(2)
    entry = new_entry("job.cancel", at_ms=jobs.world.now_ms, actor="key_1", tenant=TENANT)
    sweep = await jobs.store.make_sweep(
        TENANT, "cancel", JobFilter(endpoint=EP), now_ms=jobs.world.now_ms, entry=entry
    )
    trail = await jobs.world.store.audit_trail(EntryFilter(tenant=TENANT), after=None, limit=5)
    assert [(one.action, one.target) for one in trail.entries] == [("job.cancel", sweep.id)]


async def test_of_very_many_sweeps_the_newest_are_kept(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purges count, too: whoever purges again and again fills nothing."""
    monkeypatch.setattr(sweeps, "KEPT", 3)
    await jobs.endpoint()
    for _ in range(9):
        await jobs.submit()
        await jobs.store.purge(EP, tenant=TENANT, now_ms=jobs.world.tick())
        await jobs.purged()
    assert len(await jobs.store.sweeps(TENANT)) == 3
    await jobs.submit()
    jobs.world.tick()
    await made(jobs, "cancel", endpoint=EP)
    assert [one.what for one in await jobs.store.sweeps(TENANT)] == ["cancel", "purge", "purge"]
