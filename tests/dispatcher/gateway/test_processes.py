"""Several processes on one PostgreSQL: exact capacity, cancels from elsewhere, and what becomes of
a process's jobs when it dies or stands still."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import httpx

from dispatcher.gateway.beats import BEATS
from receiver.base.clock import now_ms
from tests.dispatcher.gateway.rig import (
    ADMIN_KEY,
    KEYS,
    SECRET,
    TENANT,
    World,
    running,
    sink,
    spelled,
    told_at,
    upstream,
)
from tests.dispatcher.postgres.fleet import Member

LEASE_S: Final = 15.0
# A lease, a beat that came before it, one look, and what a busy machine takes.
TAKEN_OVER_S: Final = LEASE_S + 3 * LEASE_S / BEATS + 10


def member(database: str, folder: Path, **settings: str) -> Member:
    """A dispatcher in a process of its own."""
    given = {
        "ADMIN_KEY": ADMIN_KEY,
        "SIGNING_SECRET": SECRET,
        "ENCRYPTION_KEYS": KEYS,
        "JOB_LEASE": f"{LEASE_S:g}",
        "JOB_DRAIN": "0.2",
        "LOG_LEVEL": "info",
    }
    return Member(database, folder / "member.log", settings=given | settings)


async def test_capacity_is_exact_over_processes(postgres: str) -> None:
    """Never more calls are open than `concurrency`, whoever makes them; all of them are made."""
    async with upstream() as model, AsyncExitStack() as stack:
        worlds = [await stack.enter_async_context(running(postgres)) for _ in range(3)]
        await worlds[0].endpoint(model.url, concurrency=4, adaptive=False)
        for world in worlds:
            await world.service.gateway.book.reload()
        model.go.clear()
        taken = await asyncio.gather(*(worlds[n % 3].submit() for n in range(45)))
        await model.reached(4)
        for _ in range(3):  # calls end one after another while others wait for their places
            await asyncio.sleep(0.1)
            model.go.set()
            await asyncio.sleep(0)
            model.go.clear()
        model.go.set()
        for one in taken:
            await worlds[0].until_state(one.id, "completed")
        assert model.most == 4
        assert model.by_job.keys() == spelled([one.id for one in taken])
        assert set(model.by_job.values()) == {1}


async def test_a_cancel_reaches_the_owner_in_another_process(postgres: str) -> None:
    """By NOTIFY with the job's id; and so do ends reach waiters."""
    async with (
        upstream() as model,
        running(postgres, sweep_interval=600) as owner,
        running(postgres, sweep_interval=600, job_places=1) as other,
    ):
        await owner.endpoint(model.url)
        model.go.clear()
        taken = await owner.submit()
        await model.reached(1)
        waiting = asyncio.create_task(other.service.gateway.waiters.wait(TENANT, taken.id, 60))
        await asyncio.sleep(0)
        await other.service.store.jobs.cancel(TENANT, taken.id, now_ms=now_ms())
        await model.until(lambda one: one.closed == 1)
        assert await waiting
        await owner.until_idle()


async def test_an_end_elsewhere_wakes_a_waiter(postgres: str) -> None:
    async with upstream() as model, running(postgres) as owner, running(postgres) as other:
        await owner.endpoint(model.url)
        model.go.clear()
        taken = await owner.submit()
        await model.reached(1)
        waiting = asyncio.create_task(other.service.gateway.waiters.wait(TENANT, taken.id, 60))
        await asyncio.sleep(0)
        model.go.set()
        assert await waiting


async def test_a_cancel_that_nobody_told_of_is_found(postgres: str) -> None:
    """The look at what the database says of us is the backstop."""
    async with upstream() as model, running(postgres) as owner:
        await owner.endpoint(model.url)
        owner.service.gateway.engine.on_ended = lambda jobs: None  # type: ignore[method-assign]
        model.go.clear()
        taken = await owner.submit()
        await model.reached(1)
        async with running(postgres, job_places=1) as other:
            await other.service.store.jobs.cancel(TENANT, taken.id, now_ms=now_ms())
        await model.until(lambda one: one.closed == 1)
        await owner.until_idle()


async def begun_by(one: Member, world: World, model: Any, **jobs: Any) -> list[str]:
    """Jobs that a member has begun, and this process only submitted."""
    engine = world.service.gateway.engine
    engine.ready = False
    engine._may_start = lambda: False
    await one.start()
    taken = [await world.submit(**{"at": at, **jobs}) for at in ("again", "once")]
    await model.reached(len(taken))
    engine._may_start = world.service.gateway.beats.may_start
    return [one.id for one in taken]


async def test_jobs_of_a_killed_process_go_on_within_a_lease(postgres: str, tmp_path: Path) -> None:
    """Queued again, or failed as interrupted where they are called at most once; told either way,
    and nothing is called that may not be."""
    async with upstream() as model, sink() as customer, running(postgres) as world:
        await world.endpoint(model.url, "again")
        await world.endpoint(model.url, "once", delivery="at-most-once")
        model.go.clear()
        one = member(postgres, tmp_path)
        again, once = await begun_by(one, world, model, callback=told_at(customer))
        await one.end(kill=True)
        model.go.set()
        async with asyncio.timeout(TAKEN_OVER_S):
            job = await world.until_state(again, "completed")
            failed = await world.until_state(once, "failed")
        assert (job.run, failed.reason) == (1, "interrupted")
        assert dict(model.by_job) == {f"job_{again}": 2, f"job_{once}": 1}
        await customer.received(2)
        assert world.figure("jobs_taken_over_total") == 2


async def test_a_process_that_stood_still_lets_go_of_what_others_have(
    postgres: str, tmp_path: Path
) -> None:
    """SIGSTOP: its jobs go on elsewhere; when it comes to itself, it closes its calls, drops what
    they bring, and starts nothing before it has beaten again."""
    async with upstream() as model, sink() as customer, running(postgres) as world:
        await world.endpoint(model.url, "again")
        await world.endpoint(model.url, "once", delivery="at-most-once")
        model.go.clear()
        one = member(postgres, tmp_path)
        again, once = await begun_by(one, world, model, callback=told_at(customer))
        assert one.process is not None
        os.kill(one.process.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(TAKEN_OVER_S):
                await world.until_state(once, "failed")
                await model.reached(3)
        finally:
            os.kill(one.process.pid, signal.SIGCONT)
        # Its own two calls are closed; the third goes on.
        await model.until(lambda one: one.closed == 2)
        assert (await world.get(again)).state == "running"
        model.go.set()
        await world.until_state(again, "completed")
        await one.end(kill=False)
        assert dict(model.by_job) == {f"job_{again}": 2, f"job_{once}": 1}
        await customer.received(2)


async def test_a_process_that_leaves_hands_its_jobs_over(postgres: str, tmp_path: Path) -> None:
    """A deploy: SIGTERM, the drain, and another process goes on at once."""
    async with upstream() as model, running(postgres) as world:
        await world.endpoint(model.url, "again")
        await world.endpoint(model.url, "once")
        model.go.clear()
        one = member(postgres, tmp_path)
        ids = await begun_by(one, world, model)
        await one.end(kill=False)
        await model.reached(4)
        model.go.set()
        for id in ids:
            await world.until_state(id, "completed")
        assert set(model.by_job.values()) == {2}


async def test_a_process_that_is_to_stop_still_tells(postgres: str, tmp_path: Path) -> None:
    """SIGTERM: not ready, no new claims, status goes on; it leaves when its jobs have ended."""
    async with upstream() as model, sink() as customer, running(postgres) as world:
        await world.endpoint(model.url, "again")
        await world.endpoint(model.url, "once")
        model.go.clear()
        one = member(postgres, tmp_path, JOB_DRAIN="60")
        await begun_by(one, world, model, callback=told_at(customer))
        process, url = one.process, one.url
        assert process is not None
        process.terminate()
        async with httpx.AsyncClient(base_url=url) as api:
            async with asyncio.timeout(30):
                while (await api.get("/readyz")).status_code != 503:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert (await api.get("/healthz")).status_code == 200
        process.send_signal(signal.SIGHUP)  # a terminal that closes beside it changes nothing
        model.go.set()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        assert len(model.calls) == 2
        await customer.received(2)
