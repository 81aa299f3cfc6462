"""Retention of jobs by what their endpoints say, and the end of a tenant's."""

from pathlib import Path
from typing import Any

import pytest

from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.filters import JobFilter
from dispatcher.store.errors import InputGone, NotFound, PayloadGone
from dispatcher.store.jobs import retention
from dispatcher.store.jobs.rows import STORED_BYTES
from receiver.base.db.readers import SERVICE
from tests.dispatcher.store.builders import DAY_MS, LOOKERS, TENANT, World, raises, secret
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target

HOUR_MS = 3_600_000
PARTS = ("inputs", "outputs", "job_attempts", "job_tags")


async def pruned(jobs: Jobs, *, limit: int = 10) -> int:
    """How many jobs lose something now."""
    total = 0
    while count := await jobs.store.prune(now_ms=jobs.world.now_ms, limit=limit):
        assert count <= limit
        total += count
    return total


async def ended(jobs: Jobs, **more: Any) -> str:
    """A job that completed."""
    submitted = await jobs.submit(tags=(("a", "b"),), **more)
    await jobs.settle(await jobs.one())
    return submitted.id


def counted(folder: Path, store_name: str) -> dict[str, int]:
    look = LOOKERS[store_name]
    return {
        table: look(folder, f"SELECT count(*) FROM {table}")[0][0] for table in ("jobs", *PARTS)
    }


def bytes_agree(world: World, folder: Path, store_name: str) -> None:
    """What is kept of what a tenant's jobs take up is what the rows come to."""
    look = LOOKERS[store_name]
    rows = dict(look(folder, f"SELECT tenant, {STORED_BYTES} FROM jobs GROUP BY tenant"))
    kept = dict(look(folder, "SELECT tenant, sum(bytes) FROM counts GROUP BY tenant"))
    assert {tenant: size for tenant, size in kept.items() if size} == rows
    for tenant, size in rows.items():
        assert world.store.stored_bytes(tenant) == size


async def test_each_part_goes_after_its_own_time(
    jobs: Jobs, store_name: str, tmp_path: Path
) -> None:
    """First what is said to go first; the job last, with its calls and tags. Nothing goes early."""
    folder = tmp_path / "0"
    await jobs.endpoint(keep=Keep(input=3_600, output=7_200, job=10_800))
    id = await ended(jobs)
    assert await pruned(jobs) == 0
    jobs.world.tick(HOUR_MS)
    assert await pruned(jobs) == 0
    jobs.world.tick(1)
    assert await pruned(jobs) == 1
    await raises(InputGone, jobs.store.input(TENANT, id))
    await raises(InputGone, jobs.retry(id, force=True))
    assert (await jobs.store.output(TENANT, id)).body
    bytes_agree(jobs.world, folder, store_name)
    jobs.world.tick(HOUR_MS)
    assert await pruned(jobs) == 1
    await raises(PayloadGone, jobs.store.output(TENANT, id))
    shown = await jobs.get(id)
    assert (shown.output_bytes, shown.output_type) == (None, "application/json")
    bytes_agree(jobs.world, folder, store_name)
    jobs.world.tick(HOUR_MS)
    assert await pruned(jobs) == 1
    await raises(NotFound, jobs.get(id))
    assert counted(folder, store_name) == dict.fromkeys(("jobs", *PARTS), 0)
    assert (await jobs.store.counts(TENANT))["completed"] == 0
    bytes_agree(jobs.world, folder, store_name)


async def test_a_change_of_what_is_kept_acts_on_what_there_is(jobs: Jobs) -> None:
    """Each endpoint's own; what waits or runs is never touched."""
    await jobs.endpoint(concurrency=5)
    await jobs.endpoint("other")
    ids = [await ended(jobs) for _ in range(3)]
    theirs = await ended(jobs, at="other")
    running = (await jobs.submit(handover=True)).id
    await jobs.store.set_paused(EP, paused=True, now_ms=jobs.world.now_ms)
    waiting = (await jobs.submit()).id
    jobs.world.tick(HOUR_MS)
    assert await pruned(jobs) == 0
    await jobs.change(keep=Keep(input=60, output=60, job=60))
    assert await pruned(jobs, limit=2) == 3
    for one in ids:
        await raises(NotFound, jobs.get(one))
    assert await jobs.states([theirs, running, waiting]) == ["completed", "running", "queued"]


async def test_jobs_of_an_endpoint_that_is_gone_go_after_the_usual_time(jobs: Jobs) -> None:
    await jobs.endpoint(keep=Keep(job=100 * 86_400))
    id = await ended(jobs)
    await jobs.store.remove_endpoint(EP, now_ms=jobs.world.now_ms)
    await jobs.purged()
    jobs.world.tick(8 * DAY_MS)
    await pruned(jobs)
    await raises(PayloadGone, jobs.store.output(TENANT, id))
    assert (await jobs.get(id)).state == "completed"
    jobs.world.tick(23 * DAY_MS)
    await pruned(jobs)
    await raises(NotFound, jobs.get(id))


async def test_a_key_holds_for_two_weeks_whatever_is_kept(jobs: Jobs) -> None:
    """Of a job that is past its retention nothing else stays; the same submit finds it, with its
    state."""
    await jobs.endpoint(keep=Keep(input=60, output=60, job=60))
    submitted = await jobs.submit(key="k", tags=(("a", "b"),), callback=target())
    await jobs.settle(await jobs.one())
    jobs.world.tick(120_000)
    assert await pruned(jobs) == 1
    assert await pruned(jobs) == 0
    again = await jobs.submit(key="k", tags=(("a", "b"),), callback=target())
    assert (again.id, again.duplicate, again.state) == (submitted.id, True, "completed")
    assert (await jobs.get(submitted.id)).tags == ()
    await raises(PayloadGone, jobs.store.output(TENANT, submitted.id))
    jobs.world.tick(14 * DAY_MS)
    assert await pruned(jobs) == 1 + 3  # what was measured of its wait, its call and its output
    await raises(NotFound, jobs.get(submitted.id))


async def test_a_job_that_was_retried_keeps_what_it_needs(jobs: Jobs) -> None:
    """Its time counts from the end of its last run."""
    await jobs.endpoint(keep=Keep(input=3_600, output=60, job=7_200))
    submitted = await jobs.submit()
    await jobs.settle(await jobs.one(), outcome(500, body=b"why"))
    jobs.world.tick(120_000)
    assert await pruned(jobs) == 1  # its output
    await jobs.retry(submitted.id)
    jobs.world.tick(HOUR_MS)
    assert await pruned(jobs) == 0
    await jobs.settle(await jobs.one(), outcome(body=b"better"))
    assert (await jobs.store.output(TENANT, submitted.id)).body == b"better"
    jobs.world.tick(61_000)
    assert await pruned(jobs) == 1
    await raises(PayloadGone, jobs.store.output(TENANT, submitted.id))


async def test_an_earlier_output_counts_until_the_next_one_is_there(
    jobs: Jobs, store_name: str, tmp_path: Path
) -> None:
    """Also while the next run is called again and again, and when it ends without one."""
    folder = tmp_path / "0"
    await jobs.endpoint(concurrency=1)
    submitted = await jobs.submit()
    await jobs.settle(await jobs.one(), outcome(500, body=b"x" * 1_000))
    await jobs.retry(submitted.id)
    bytes_agree(jobs.world, folder, store_name)
    await jobs.settle(await jobs.one(), outcome(429))
    bytes_agree(jobs.world, folder, store_name)
    assert (await jobs.store.output(TENANT, submitted.id)).body == b"x" * 1_000
    jobs.world.tick(60_000)
    await jobs.settle(await jobs.one(), outcome(kind="timeout"))
    bytes_agree(jobs.world, folder, store_name)
    await raises(NotFound, jobs.store.output(TENANT, submitted.id))
    await jobs.retry(submitted.id)
    await jobs.settle(await jobs.one(), outcome(body=b"y" * 10))
    await jobs.cancel(submitted.id)
    bytes_agree(jobs.world, folder, store_name)
    await jobs.world.reopen()
    bytes_agree(jobs.world, folder, store_name)


async def test_a_slice_frees_no_more_than_so_many_bytes(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long bodies take time to free: a commit is held up by few of them."""
    monkeypatch.setattr(retention, "_SLICE_BYTES", 1_000)
    await jobs.endpoint(keep=Keep(input=1, output=10**9, job=10**9))
    for _ in range(4):
        await ended(jobs, body=b"x" * 600)
    jobs.world.tick(2_000)
    assert await jobs.store.prune(now_ms=jobs.world.now_ms, limit=100) == 2
    assert await jobs.store.prune(now_ms=jobs.world.now_ms, limit=100) == 2
    assert await jobs.store.prune(now_ms=jobs.world.now_ms, limit=100) == 0


async def test_an_erasure_frees_no_more_in_a_slice_either(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SLICE_BYTES", 1_000)
    world = jobs.world
    await world.store.ensure_tenant(TENANT, secret(now_ms=world.now_ms))
    await jobs.endpoint()
    for _ in range(5):
        await ended(jobs, body=b"x" * 600)
    await world.store.begin_erasing(TENANT, now_ms=world.now_ms)
    left = []
    while (await jobs.store.counts(TENANT))["completed"]:
        assert await world.store.erase(TENANT, now_ms=world.now_ms, limit=100) == "going on"
        left.append((await jobs.store.counts(TENANT))["completed"])
    assert left == [3, 1, 0]


async def test_a_job_whose_call_is_open_stays_and_holds_nothing_up(jobs: Jobs) -> None:
    """A call that does not end takes its place, however long ago its job was cancelled."""
    await jobs.endpoint(concurrency=9, keep=Keep(input=1, output=1, job=1))
    open_one = (await jobs.submit(handover=True)).claimed
    assert open_one is not None
    await jobs.cancel(open_one.id)
    jobs.world.tick()
    other = await ended(jobs)
    jobs.world.tick(2_000)
    assert await jobs.store.prune(now_ms=jobs.world.now_ms, limit=1) == 1
    await raises(NotFound, jobs.get(other))
    assert await pruned(jobs) == 0
    assert (await jobs.get(open_one.id)).releasing
    await jobs.store.freed([open_one])
    assert await pruned(jobs) == 1


async def test_what_ends_again_meanwhile_is_left_alone(jobs: Jobs) -> None:
    """What was due when it was looked up, and has been retried since."""
    await jobs.endpoint(keep=Keep(input=60, output=60, job=60))
    submitted = await jobs.submit()
    await jobs.settle(await jobs.one(), outcome(500, body=b"why"))
    jobs.world.tick(120_000)
    key_ms, now_ms = 0, jobs.world.now_ms
    due = await jobs.store._read(
        lambda tx: retention.due(tx, now_ms=now_ms, key_ms=key_ms, limit=9), SERVICE
    )
    await jobs.retry(submitted.id)
    assert not await jobs.store._write(
        lambda tx: retention.prune(tx, due, now_ms=now_ms, key_ms=key_ms), lanes=due.touched
    )
    await jobs.settle(await jobs.one())
    assert not await jobs.store._write(
        lambda tx: retention.prune(tx, due, now_ms=now_ms, key_ms=key_ms), lanes=due.touched
    )
    assert (await jobs.get(submitted.id)).state == "completed"


# --- the end of a tenant ---


async def erased(world: World) -> str:
    """What the slices of an erasure come to."""
    came_to = "going on"
    for _ in range(50):
        came_to = await world.store.erase(TENANT, now_ms=world.now_ms, limit=2)
        if came_to != "going on":
            break
    return came_to


async def test_a_tenant_that_is_erased_leaves_no_job_behind(
    jobs: Jobs, store_name: str, tmp_path: Path
) -> None:
    """What runs is cancelled, and its place is free when its call has ended; nobody is told. Others
    keep all they have."""
    folder = tmp_path / "0"
    world = jobs.world
    await world.store.ensure_tenant(TENANT, secret())
    await jobs.endpoint(concurrency=2)
    theirs = (await jobs.submit(tenant="other")).id
    done = await jobs.one()
    await jobs.settle(done)
    for _ in range(3):
        await ended(jobs, callback=target(), key=f"k{world.tick()}")
    handed = (await jobs.submit(handover=True, callback=target())).claimed
    assert handed is not None
    await jobs.many(5, callback=target())
    (running,) = await jobs.claim(1)
    await jobs.store.make_sweep(TENANT, "cancel", JobFilter(status="queued"), now_ms=world.now_ms)
    told = len(await jobs.callbacks())
    await world.store.begin_erasing(TENANT, now_ms=world.now_ms)
    assert await jobs.store.running_sweeps() == []
    assert await erased(world) == "waiting"
    left = LOOKERS[store_name](folder, f"SELECT state FROM jobs WHERE tenant = '{TENANT}'")
    assert left == [("cancelled",)] * 2
    assert len(await jobs.callbacks()) <= told
    held = {one.id for one in await jobs.store.held(jobs.process)}
    assert held == {running.id, handed.id}
    await jobs.store.freed([running, handed])
    world.tick(10_000)
    assert await erased(world) == "done"
    for table in ("jobs", "queues", "job_usage", "job_sweeps", "job_tags", "counts"):
        sql = f"SELECT count(*) FROM {table} WHERE tenant = '{TENANT}'"
        assert LOOKERS[store_name](folder, sql) == [(0,)], table
    assert (await jobs.store.load(EP)).queued == 0
    assert (await jobs.get(theirs, "other")).state == "completed"
    assert {part: n for part, n in counted(folder, store_name).items() if n} == {
        "jobs": 1, "inputs": 1, "outputs": 1, "job_attempts": 1,
    }  # fmt: skip
