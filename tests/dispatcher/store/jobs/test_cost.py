"""What the verbs of jobs cost (I10), told without a clock: by the plans of their statements, by how
many there are in a batch, and by the steps that SQLite's virtual machine takes."""

import asyncio
import re
import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final

from dispatcher.access import new_secret
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.states import STATES
from dispatcher.jobs.values import RunningLimits
from dispatcher.store.jobs import by_url
from dispatcher.store.jobs.sweeps import Bulk
from tests.dispatcher.store.builders import DAY_MS, TENANT, World
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target
from tests.dispatcher.store.sqlite_hooks import on_readers, on_writer, sqlite_world

# Small by what they hold: what runs now, processes, endpoints, a batch's own rows, one slice.
_SMALL: Final = re.compile(
    r"SCAN (jobs |j |c )?USING (COVERING )?INDEX jobs_busy"
    r"|SCAN (j VIRTUAL|counted|processes|endpoints|endpoint_load|l|json_each|e|k|q|looks|n|m)\b"
    r"|SCAN (at_once|again|ready_high|ready_normal|ready_low)\b"
    r"|SCAN (job_sweeps USING (COVERING )?INDEX job_sweeps_(running|bulk)|counts|lanes|turns)"
    r"|SCAN (waiting|due)"
    r"|SCAN (\d+ )?CONSTANT ROW|SCAN \(subquery|SCAN (ready|r|s|server|t)\b"
)


async def exercise(jobs: Jobs) -> None:
    """Every verb that there is."""
    store, world = jobs.store, jobs.world
    await jobs.endpoint(concurrency=6)
    await store.beat("p", begins=True, now_ms=world.now_ms)
    await asyncio.gather(
        *(jobs.submit(callback=target(), key=f"k{n}", tags=(("a", "b"),)) for n in range(9))
    )
    await jobs.submit(key="k1", callback=target())
    await jobs.submit(handover=True)
    claimed = await jobs.claim(4, process="p")
    await jobs.settle(claimed[0])
    await jobs.settle(claimed[1], outcome(kind="unknown"))
    await jobs.cancel(claimed[2].id)
    await store.freed([claimed[2]])
    await jobs.retry(claimed[2].id)
    await store.release([claimed[3]], now_ms=world.now_ms)
    await store.expire(now_ms=world.now_ms, limit=3)
    await store.bring_back(now_ms=world.now_ms, retry_after_ms=1_000, limit=3)
    await store.hasten(now_ms=world.now_ms, wait_ms=1_000, limit=3)
    limits = RunningLimits(default=2, own={"nobody": 0})
    await jobs.claim(2, process="p", limits=limits)
    await jobs.submit(handover=True, running_max=9)
    await store.ensure_endpoint_secret(new_secret("", world.now_ms, endpoint=EP))
    await store.rotate_endpoint_secret(
        new_secret("", world.now_ms, endpoint=EP), overlap_ms=1, force=True, now_ms=world.now_ms
    )
    for one in await store.endpoint_secrets(EP):
        await store.mark_endpoint_secret_revealed(EP, one.id, by="me", now_ms=world.now_ms)
    await store.reclaim("p", 1, now_ms=world.now_ms, limit=1)
    await store.reclaim_orphans(beside="me", now_ms=world.now_ms, limit=5)
    await store.ended([claimed[0].id])
    await store.current([(claimed[0].id, 1)])
    await jobs.get(claimed[0].id, output=True)
    await _look(jobs, claimed[0].id)
    await _change_in_bulk(jobs)
    await store.repair(after="", limit=9)
    world.tick(100 * DAY_MS)
    while await store.prune(now_ms=world.now_ms, limit=3):
        pass
    await store.erase("acme", now_ms=world.now_ms, limit=2)
    await store.purge(EP, tenant=None, now_ms=world.now_ms)
    await jobs.purged(limit=3)
    await store.remove_endpoint(EP, now_ms=world.now_ms)
    await jobs.purged(limit=3)
    await store.purging()
    await store.purge_on("other", now_ms=world.now_ms)
    await store.tell_untold(now_ms=world.now_ms, limit=3)


async def _look(jobs: Jobs, id: str) -> None:
    """Every way to look at jobs."""
    store, now_ms = jobs.store, jobs.world.now_ms
    tags = (("a", "b"),)
    for more in ({}, {"endpoint": EP}, {"priority": "high", "since_ms": 1}, {"tags": tags}):
        for status in (None, *STATES):
            chosen = JobFilter(status=status, **more)
            await store.search(TENANT, chosen, after="f" * 32, limit=2)
    for verb in (store.attempts, store.input, store.output):
        await verb(TENANT, id)
    await store.load(EP)
    for job in (await store.search(TENANT, JobFilter(), after=None, limit=99)).jobs:
        await store.waiting(TENANT, job.id, running_max=1, now_ms=now_ms)
    await store.measured(EP, now_ms=now_ms)
    await store.usage(TENANT, since_day=0, until_day=10**6, after=("a", 1))
    await store.counts(TENANT)
    await store.counts(None)


async def _change_in_bulk(jobs: Jobs) -> None:
    store, now_ms = jobs.store, jobs.world.now_ms
    kinds: tuple[Bulk, ...] = ("retry", "cancel")
    for what in kinds:
        for chosen in (JobFilter(), JobFilter(endpoint=EP, tags=(("a", "b"),))):
            await store.preview_sweep(TENANT, what, chosen, sample=1, now_ms=now_ms)
            made = await store.make_sweep(TENANT, what, chosen, now_ms=now_ms)
            await store.step_sweep(TENANT, made.id, now_ms=now_ms, limit=1)
    for one in await store.sweeps(TENANT):
        await store.get_sweep(TENANT, one.id)
    for one in await store.running_sweeps():
        await store.cancel_sweep(TENANT, one.id, now_ms=now_ms)


async def traced(world: World, act: Awaitable[Any]) -> list[str]:
    """The statements that ran while `act` did."""
    seen: list[str] = []
    hook = seen.append
    for on in (on_writer, on_readers):
        await on(world, lambda connection: connection.set_trace_callback(hook))
    await act
    for on in (on_writer, on_readers):
        await on(world, lambda connection: connection.set_trace_callback(None))
    return seen


async def test_no_statement_scans_what_grows(tmp_path: Path) -> None:
    """Each finds what it needs by an index."""
    async with sqlite_world(tmp_path) as world:
        statements = set(await traced(world, exercise(Jobs(world))))
        looked = [one for one in statements if one.split()[0] in ("SELECT", "UPDATE", "DELETE")]
        assert len(looked) > 30
        scans: list[tuple[str, str]] = []
        for sql in looked:
            scans += (
                (step, sql[:200])
                for step in await _plan(world, sql)
                if step.startswith("SCAN") and not _SMALL.match(step)
            )
        assert not scans, "\n".join(map(str, scans))


async def _plan(world: World, sql: str) -> list[str]:
    def explain(connection: sqlite3.Connection) -> list[str]:
        return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]

    return await on_writer(world, explain)


async def test_what_a_clock_ahead_left_is_found_by_index(tmp_path: Path) -> None:
    """In calls that are out: only those, and of what was reported only theirs."""
    async with sqlite_world(tmp_path) as world:
        called = await _plan(world, by_url._CALLED_AHEAD.replace("?", "1"))
        assert len(called) == 1
        assert "INDEX jobs_called (called_ms>?)" in called[0]
        signed = await _plan(world, by_url._SIGNED_AHEAD.replace("?", "1"))
        assert "INDEX jobs_by_url (deadline_ms>?)" in signed[0]
        assert signed[1].startswith("SEARCH r USING PRIMARY KEY (job=?)")
        assert len(signed) == 2


async def _kinds(world: World, act: Awaitable[Any]) -> int:
    """How many kinds of statements ran: those of one `executemany` are one."""
    statements = await traced(world, act)
    return len({re.sub(r"'[^']*'|x'[^']*'|\b\d+(\.\d+)?\b|NULL", "?", one) for one in statements})


async def test_a_batch_is_a_handful_of_statements(tmp_path: Path) -> None:
    """Never one statement per row: as many kinds for many jobs as for a few."""
    async with sqlite_world(tmp_path) as world:
        jobs = Jobs(world)
        await jobs.endpoint(concurrency=1_000)
        counts = []
        for size in (2, 2, 64):  # the first makes the lane of their callbacks
            submits = [jobs.submit(callback=target()) for _ in range(size)]
            submitted = await _kinds(world, _together(submits))
            claims: list[Any] = []
            claimed = await _kinds(world, _into(claims, jobs.claim(size)))
            (found,) = claims
            assert len(found) == size
            settled = await _kinds(world, _together([jobs.settle(one) for one in found]))
            counts.append((submitted, claimed, settled))
        assert counts[1] == counts[2]
        assert sum(counts[1]) <= 50


async def _together(acts: list[Any]) -> None:
    await asyncio.gather(*acts)


async def _into(results: list[Any], act: Awaitable[Any]) -> None:
    results.append(await act)


async def _steps(world: World, act: Awaitable[Any]) -> int:
    """How many steps of the writer's virtual machine `act` took, about."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 10
        return 0

    await on_writer(world, lambda connection: connection.set_progress_handler(count, 10))
    await act
    await on_writer(world, lambda connection: connection.set_progress_handler(None, 0))
    return counted


async def _round(jobs: Jobs) -> dict[str, int]:
    """What one job costs at another endpoint."""
    world = jobs.world
    cost = {"submit": await _steps(world, jobs.submit(at="other"))}
    claims: list[Any] = []
    cost["claim"] = await _steps(world, _into(claims, jobs.claim(1)))
    ((claimed,),) = claims
    cost["settle"] = await _steps(world, jobs.settle(claimed))
    return cost


async def test_a_backlog_costs_nobody_anything(tmp_path: Path) -> None:
    """Submits, claims and settlements cost the same beside ten thousand jobs on a held endpoint,
    and so does its purge."""
    async with sqlite_world(tmp_path) as world:
        jobs = Jobs(world)
        await jobs.endpoint("other", concurrency=5)
        await jobs.endpoint(queue_max_tenant=100_000)
        await jobs.store.set_paused(EP, paused=True, now_ms=world.now_ms)
        await jobs.submit()
        await _round(jobs)
        before = await _round(jobs)
        small = await _steps(world, jobs.store.purge(EP, tenant=None, now_ms=world.now_ms))
        await asyncio.gather(*(jobs.submit(tenant=f"t{n % 7}") for n in range(10_000)))
        after = await _round(jobs)
        for verb, steps in after.items():
            assert steps <= 1.2 * before[verb] + 100, verb
        await asyncio.gather(*(jobs.submit() for _ in range(3_000)))
        large = await _steps(world, jobs.store.purge(EP, tenant="acme", now_ms=world.now_ms))
        assert large <= 2 * small + 500
        await jobs.store.set_paused(EP, paused=False, now_ms=world.now_ms)
        deep = await _steps(world, jobs.claim(1))
        assert deep <= 3 * before["claim"] + 500
