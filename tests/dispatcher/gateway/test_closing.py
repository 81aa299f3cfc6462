"""Calls that end before their upstream ends them: cancelled, lost, or at the end of the process."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from dispatcher.gateway.open_calls import Running
from dispatcher.jobs.values import ClaimedJob, JobClaimRequest
from dispatcher.store.errors import StoreUnavailable
from receiver.base.clock import now_ms
from tests.dispatcher.gateway.rig import TENANT, World, running, sink, told_at, upstream


async def cancel(world: World, id: str) -> Any:
    return await world.service.store.jobs.cancel(TENANT, id, now_ms=now_ms())


async def test_a_cancel_closes_the_connection_and_tells_at_once(database: str) -> None:
    """Shown as cancelled at once, its callback in that commit; the owner closes the connection."""
    async with upstream() as model, sink() as customer, running(database) as world:
        await world.endpoint(model.url)
        model.go.clear()
        taken = await world.submit(callback=told_at(customer))
        await model.reached(1)
        changed = await cancel(world, taken.id)
        assert (changed.changed, changed.state) == (True, "cancelled")
        ((_, body),) = await customer.received(1)
        assert json.loads(body)["status"] == "cancelled"
        await model.until(lambda one: one.closed == 1)
        await world.until_idle()
        assert not (await world.get(taken.id)).releasing


async def test_the_place_is_free_only_when_the_call_has_ended(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next job does not meet a busy upstream: `releasing` takes its place."""
    async with upstream() as model, running(database, sweep_interval=600) as world:
        await world.endpoint(model.url, concurrency=1, adaptive=False)
        model.go.clear()
        first = await world.submit()
        await model.reached(1)
        second = await world.submit()
        with monkeypatch.context() as patched:
            patched.setattr(Running, "close", lambda *_: None)
            await cancel(world, first.id)
            await asyncio.sleep(0.2)
            assert (await world.get(first.id)).releasing
            assert (await world.get(second.id)).state == "queued"
        model.go.set()
        # It ended as it would have: its late result changes nothing, and its place is free.
        await world.until_state(second.id, "completed")
        assert (await world.get(first.id)).state == "cancelled"
        assert world.figure("job_late_results_total") == 1


async def test_a_queued_job_is_cancelled_without_a_call(database: str) -> None:
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url, concurrency=1, adaptive=False)
        model.go.clear()
        await world.submit()
        waiting = await world.submit()
        await model.reached(1)
        assert (await cancel(world, waiting.id)).state == "cancelled"
        model.go.set()
        await world.until_idle()
        assert len(model.calls) == 1


async def test_a_waiter_is_woken_by_the_end(database: str) -> None:
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url)
        model.go.clear()
        taken = await world.submit()
        waiting = asyncio.create_task(world.service.gateway.waiters.wait(TENANT, taken.id, 60))
        await model.reached(1)
        model.go.set()
        assert await waiting
        assert (await world.get(taken.id)).state == "completed"


async def test_what_is_told_late_closes_no_later_call(database: str) -> None:
    """Only the database says which claims are current: news of an earlier run is old news."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url)
        model.go.clear()
        taken = await world.submit()
        await model.reached(1)
        world.service.gateway.on_ended([taken.id])  # of a run before this one, perhaps
        await asyncio.sleep(0.2)
        model.go.set()
        await world.until_state(taken.id, "completed")
        assert model.closed == 0


# --- the end of the process ---


async def test_what_runs_at_the_end_has_time_and_its_callback_goes_out(database: str) -> None:
    """It waits DISPATCHER_JOB_DRAIN; jobs go first, so that their callbacks can go."""
    async with upstream() as model, sink() as customer:
        async with running(database, job_drain=30) as world:
            await world.endpoint(model.url)
            model.go.clear()
            taken = await world.submit(callback=told_at(customer))
            await model.reached(1)
            service = world.service
            draining = asyncio.create_task(service.drain_jobs(30))
            await asyncio.sleep(0.05)
            assert not service.gateway.engine.ready
            model.go.set()
            await draining
            assert (await world.get(taken.id)).state == "completed"
        assert len(customer.got) == 1


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
async def test_what_runs_longer_is_handed_back_or_has_failed(database: str, delivery: str) -> None:
    """Then at-least-once jobs are closed and handed back, at-most-once ones fail `interrupted`."""
    once = delivery == "at-most-once"
    async with upstream() as model, sink() as customer:
        async with running(database) as world:
            await world.endpoint(model.url, delivery=delivery)
            model.go.clear()
            taken = await world.submit(callback=told_at(customer))
            await model.reached(1)
            await world.service.drain_jobs(0.1)
            job = await world.get(taken.id)
            assert model.closed == 1
            assert job.state == ("failed" if once else "queued")
            assert job.reason == ("interrupted" if once else None)
        model.go.set()
        async with running(database) as world:
            if once:
                ((headers, _),) = await customer.received(1)
                assert headers["x-postback-job-status"] == "failed"
                assert len(model.calls) == 1
            else:
                job = await world.until_state(taken.id, "completed")
                assert (job.calls, len(model.calls)) == (2, 2)


async def test_a_stopping_process_claims_nothing_more(database: str) -> None:
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url, concurrency=1, adaptive=False)
        model.go.clear()
        await world.submit()
        waiting = await world.submit()
        await model.reached(1)
        draining = asyncio.create_task(world.service.drain_jobs(30))
        await asyncio.sleep(0.05)
        model.go.set()
        await draining
        assert (await world.get(waiting.id)).state == "queued"
        assert len(model.calls) == 1


async def test_what_a_dead_owner_left_goes_on_at_once(tmp_path: object) -> None:
    """SQLite: the owner takes over at start."""
    database = f"sqlite:///{tmp_path}/jobs.db"
    async with upstream() as model, sink() as customer:
        async with running(database) as world:
            await world.service.sweeper.stop()  # it would find them at once
            await world.endpoint(model.url)
            await world.endpoint(model.url, "once", delivery="at-most-once")
            # As if it had died: claimed, and nobody knows of it.
            taken = await world.submit(callback=told_at(customer))
            await world.until_idle()
            world.service.gateway.engine.refuse_submits()
            jobs = world.service.store.jobs
            again = await jobs.submit(world.job(), process="that died")
            once = await jobs.submit(
                world.job(at="once", callback=told_at(customer)), process="that died"
            )
            assert again.state == once.state == "running"
        async with running(database) as world:
            assert (await world.until_state(again.id, "completed")).run == 1
            failed = await world.get(once.id)
            assert (failed.state, failed.reason) == ("failed", "interrupted")
            told = {json.loads(body)["jobId"] for _, body in await customer.received(2)}
            assert told == {f"job_{taken.id}", f"job_{once.id}"}
            assert world.figure("jobs_taken_over_total") == 2


# --- what commits leave behind whose reply is lost ---


async def test_a_claim_whose_reply_was_lost_goes_on(database: str) -> None:
    """The database has it running here, and nobody here knows: after a lease it is handed back."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url, concurrency=1, adaptive=False)
        jobs, claim = world.service.store.jobs, world.service.store.jobs.claim
        lost: list[ClaimedJob] = []
        world.service.gateway.engine._open._astray_ms = 300

        async def lossy(request: JobClaimRequest) -> Sequence[ClaimedJob]:
            claimed = await claim(request)
            if claimed and not lost:
                lost.extend(claimed)
                raise StoreUnavailable("the connection broke while committing")
            return claimed

        setattr(jobs, "claim", lossy)  # noqa: B010
        model.go.clear()
        first = await world.submit()
        await model.reached(1)
        second = await world.submit()
        model.go.set()
        await world.until_state(first.id, "completed")
        await world.until_state(second.id, "completed")
        assert [one.id for one in lost] == [second.id]
        assert len(model.calls) == 2


async def test_whatever_befalls_a_job_its_place_and_its_bytes_are_given_back(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended, refused, failed to be stored, cancelled, settled late, or handed back at the end;
    small inputs and large ones, whose bytes are given back while their calls go on."""
    async with upstream() as model, running(database) as world:
        engine, store = world.service.gateway.engine, world.service.store.jobs
        places, before = engine._places, engine._places._bytes_free
        await world.endpoint(model.url, concurrency=3, adaptive=False)
        bodies = [b"{}", b"x" * 2**20] * 4
        for id in [(await world.submit(body)).id for body in bodies]:
            await world.until_state(id, "completed")
        with pytest.raises(Exception, match="nowhere"):
            await world.submit(at="nowhere")
        with monkeypatch.context() as patched:

            async def fails(*_: Any, **__: Any) -> Any:
                raise StoreUnavailable("test")

            patched.setattr(store, "submit", fails)
            with pytest.raises(StoreUnavailable):
                await world.submit(b"x" * 2**20)
        model.go.clear()
        ids = [(await world.submit(body)).id for body in bodies]
        await model.until(lambda one: one.open == 3)
        for id in ids[:2]:
            await cancel(world, id)
        settle, failures = store.settle, iter(range(3))

        async def late(*given: Any, **named: Any) -> Any:
            for _ in failures:
                raise StoreUnavailable("test")
            return await settle(*given, **named)

        monkeypatch.setattr(store, "settle", late)
        model.go.set()
        for id in ids[2:]:
            await world.until_state(id, "completed")
        await world.until_idle()
        assert (places.taken, places._bytes_free, dict(places._busy)) == (0, before, {})
        model.go.clear()
        for body in bodies:
            await world.submit(body)
        await model.until(lambda one: one.open == 3)
        await world.service.drain_jobs(0.1)
        assert (places.taken, places._bytes_free, dict(places._busy)) == (0, before, {})
        assert not dict(places._busy_bytes)
        assert not engine._open.all()
