"""Upstreams that work on when a connection is closed are told to stop; until they have, and their
places have rested, nothing else is started there."""

import asyncio
import json

import pytest
from aiohttp import web

from dispatcher.jobs.endpoint import StopCall
from dispatcher.jobs.states import FINAL
from dispatcher.store.errors import NotYet
from receiver.base.clock import now_ms
from receiver.signature import verify
from tests.dispatcher.gateway.models import model
from tests.dispatcher.gateway.rig import TENANT, World, running, sink, told_at

STOP = StopCall(path="/stop/{jobId}")


async def cancel(world: World, id: str) -> None:
    changed = await world.service.gateway.engine.cancel(TENANT, id)
    assert changed.changed


async def test_a_cancel_stops_the_work_and_frees_the_place_after_it(database: str) -> None:
    """Shown and told as cancelled at once; the connection is closed, the cancel URL is called, and
    until both are over the place is taken (`releasing`), so that the next job meets no busy GPU."""
    wait = asyncio.Event()
    async with (
        model(held=True, stop_waits=wait) as gpu,
        sink() as customer,
        running(database) as world,
    ):
        await world.endpoint(f"{gpu.base}/run", concurrency=1, adaptive=False, cancel=STOP)
        first = await world.submit(callback=told_at(customer))
        await gpu.until(lambda one: len(one.begun) == 1)
        second = await world.submit()
        await cancel(world, first.id)
        ((_, body),) = await customer.received(1)
        assert json.loads(body)["status"] == "cancelled"
        await gpu.until(lambda one: len(one.stopped) == 1)
        shown = await world.get(first.id)
        assert (shown.state, shown.releasing) == ("cancelled", True)
        assert (await world.get(second.id)).state == "queued"
        assert gpu.begun == [f"job_{first.id}"]
        with pytest.raises(NotYet):
            await world.service.gateway.engine.retry(TENANT, first.id)
        gpu.held = False
        wait.set()
        await world.until_state(second.id, "completed")
        assert gpu.ended[0] == f"job_{first.id}"
        assert world.figure("job_stops_total", endpoint="ep", result="stopped") == 1


async def test_the_request_that_stops_is_signed_as_calls_are(database: str) -> None:
    """By the endpoint's own secret, with its headers, and the job's id and run."""
    async with model(held=True) as gpu, running(database) as world:
        headers = (("Authorization", "Bearer gpu"),)
        await world.endpoint(f"{gpu.base}/run", cancel=STOP, headers=headers)
        taken = await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)
        await cancel(world, taken.id)
        await gpu.until(lambda one: len(one.stopped) == 1)
        ((job, sent),) = gpu.stopped
        assert job == sent["x-job-id"] == f"job_{taken.id}"
        assert (sent["x-job-run"], sent["authorization"]) == ("1", "Bearer gpu")
        jobs = world.service.store.jobs
        (secret, *_) = await jobs.endpoint_secrets("ep")
        assert verify(b"", sent, secret.value, now_s=now_ms() / 1000).job is not None


async def test_a_run_limit_ends_the_job_at_once_and_stops_the_work(database: str) -> None:
    """The worker is stopped at the limit: timed out, its callback sent, the connection closed and
    the cancel URL called (R19)."""
    wait = asyncio.Event()
    async with (
        model(held=True, stop_waits=wait) as gpu,
        sink() as customer,
        running(database) as world,
    ):
        await world.endpoint(f"{gpu.base}/run", concurrency=1, cancel=STOP)
        taken = await world.submit(callback=told_at(customer), limit_s=0.2)
        ((_, body),) = await customer.received(1)
        assert json.loads(body)["status"] == "timeout"
        await gpu.until(lambda one: len(one.stopped) == 1)
        shown = await world.get(taken.id)
        assert (shown.state, shown.reason, shown.releasing) == ("timeout", "run_limit", True)
        wait.set()

        async def is_free() -> bool:
            return not (await world.get(taken.id)).releasing

        await world.until(is_free)
        assert gpu.ended == [f"job_{taken.id}"]


async def test_a_place_rests_for_the_cool_down(database: str) -> None:
    """`cool_down`: nothing else is started there until it is over, whatever became of the call."""
    async with model(held=True) as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", concurrency=1, adaptive=False, cool_down=0.5)
        first = await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)
        second = await world.submit()
        begun_s = asyncio.get_running_loop().time()
        await cancel(world, first.id)
        await gpu.until(lambda one: len(one.begun) == 2)
        assert asyncio.get_running_loop().time() - begun_s >= 0.5
        gpu.go.set()
        await world.until_state(second.id, "completed")
        assert gpu.stopped == []


async def test_an_upstream_that_cannot_be_told_keeps_no_place_for_ever(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told three times; then the place is free, and a metric and the log say so."""
    monkeypatch.setattr("dispatcher.gateway.stopping._RETRY_S", 0.01)
    async with model(held=True, stop_code=500) as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", concurrency=1, adaptive=False, cancel=STOP)
        taken = await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)
        await cancel(world, taken.id)

        async def is_free() -> bool:
            return not (await world.get(taken.id)).releasing

        await world.until(is_free)
        assert len(gpu.stopped) == 3
        assert world.figure("job_stops_total", result="failed") == 1


async def test_an_upstream_that_knows_nothing_of_a_job_is_told_once(database: str) -> None:
    async with model(held=True, stop_code=404) as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", cancel=STOP)
        taken = await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)
        await cancel(world, taken.id)
        await world.until_idle()
        assert len(gpu.stopped) == 1
        assert world.figure("job_stops_total", result="unknown") == 1


async def test_what_was_answered_is_never_told_to_stop(database: str) -> None:
    async with model() as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", cancel=STOP)
        for _ in range(3):
            taken = await world.submit()
            await world.until_state(taken.id, "completed")
        assert gpu.stopped == []


async def test_the_work_is_stopped_before_a_call_is_made_again(database: str) -> None:
    """What a proxy gave up may still run behind it: it is stopped before the repeat, so that it
    never runs beside itself."""
    async with model() as gpu, running(database) as world:
        await world.endpoint(
            f"{gpu.base}/run", cancel=STOP, retry={"base": 0.01, "factor": 1, "cap": 0.01}
        )
        calls = 0

        def answer(job: str) -> web.StreamResponse:
            nonlocal calls
            calls += 1
            if calls == 1:
                return web.Response(status=504)
            return web.json_response({"well": True})

        gpu.answer = answer
        taken = await world.submit()
        await world.until_state(taken.id, "completed")
        assert (await world.get(taken.id)).calls == 2
        assert [job for job, _ in gpu.stopped] == [f"job_{taken.id}"]


async def test_a_process_that_stops_hands_back_what_it_stopped(database: str) -> None:
    """At its end: the call is closed, the upstream told to stop, and then the job is queued again,
    for the next process to run."""
    async with model(held=True) as gpu:
        async with running(database) as world:
            await world.endpoint(f"{gpu.base}/run", concurrency=1, adaptive=False, cancel=STOP)
            taken = await world.submit()
            await gpu.until(lambda one: len(one.begun) == 1)
        assert [job for job, _ in gpu.stopped] == [f"job_{taken.id}"]
        assert gpu.ended == gpu.begun
        gpu.held = False
        async with running(database) as world:
            shown = await world.until_state(taken.id, *FINAL)
            assert (shown.state, shown.calls) == ("completed", 2)
            assert len(gpu.stopped) == 1


async def test_a_place_that_rests_at_the_end_of_its_process_is_stopped_anew(database: str) -> None:
    """No process waits for a cool-down to end: the next one stops the upstream once more, and lets
    its place rest."""
    async with model(held=True) as gpu:
        async with running(database) as world:
            made = await world.endpoint(
                f"{gpu.base}/run", concurrency=1, cancel=STOP, cool_down=3600
            )
            taken = await world.submit()
            await gpu.until(lambda one: len(one.begun) == 1)
            await cancel(world, taken.id)
            await gpu.until(lambda one: len(one.stopped) == 1)
        async with running(database) as world:
            await gpu.until(lambda one: len(one.stopped) == 2)
            assert (await world.get(taken.id)).releasing
            await world.change(made, cool_down=0.0)


async def test_what_a_dead_process_ran_is_stopped_before_it_is_run_again(postgres: str) -> None:
    """Its upstream may still work for it."""
    async with model(held=True) as gpu, running(postgres) as world:
        await world.endpoint(f"{gpu.base}/run", cancel=STOP)
        taken = await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)
        engine, jobs = world.service.gateway.engine, world.service.store.jobs
        # As if another process had seen ours die: our own beat is gone, and what we ran is queued.
        (beat,) = (await jobs.beat("watcher", begins=True, now_ms=now_ms()) or {}).items()
        assert await jobs.reclaim(*beat, now_ms=now_ms()) == 1
        assert (await world.get(taken.id)).state == "queued"
        gpu.held = False
        await world.until_state(taken.id, "completed")
        assert engine.running >= 0
        assert [job for job, _ in gpu.stopped] == [f"job_{taken.id}"]
        assert gpu.ended == gpu.begun == [f"job_{taken.id}"] * 2


async def test_what_is_stopped_for_a_dead_process_is_stopped_once(postgres: str) -> None:
    """However often the call is tried after that: what is restarted by it comes up in between."""
    async with model(held=True) as gpu, running(postgres) as world:
        made = await world.endpoint(
            f"{gpu.base}/run", cancel=STOP, retry={"base": 0.01, "factor": 1, "cap": 0.01}
        )
        taken = await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)
        jobs = world.service.store.jobs
        (beat,) = (await jobs.beat("watcher", begins=True, now_ms=now_ms()) or {}).items()
        where = StopCall(url=f"{gpu.base}/stop/{{jobId}}")
        nowhere = await world.change(made, url="http://127.0.0.1:9/", cancel=where)
        assert await jobs.reclaim(*beat, now_ms=now_ms()) == 1

        async def was_tried() -> bool:
            return world.figure("job_calls_total", outcome="not_sent") >= 3

        await world.until(was_tried)
        gpu.held = False
        await world.change(nowhere, url=f"{gpu.base}/run")
        await world.until_state(taken.id, "completed")
        assert len(gpu.stopped) == 1


async def test_a_cancel_of_a_job_that_ends_by_url_stops_the_work(database: str) -> None:
    """No process holds it: whichever finds it tells the upstream to stop, and frees the place."""
    async with model(answer=lambda _: web.Response(status=202)) as gpu, running(database) as world:
        await world.endpoint(
            f"{gpu.base}/run", concurrency=1, adaptive=False, cancel=STOP, completion="url"
        )
        first = await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)
        await world.until_idle()
        second = await world.submit()
        assert (await world.get(second.id)).state == "queued"
        await cancel(world, first.id)
        await gpu.until(lambda one: len(one.begun) == 2)
        assert [job for job, _ in gpu.stopped] == [f"job_{first.id}"]
        assert (await world.get(first.id)).state == "cancelled"
        await cancel(world, second.id)


async def test_a_job_by_url_whose_limit_is_over_is_stopped(database: str) -> None:
    async with model(answer=lambda _: web.Response(status=202)) as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", concurrency=1, cancel=STOP, completion="url")
        taken = await world.submit(limit_s=0.3)
        await world.until_state(taken.id, "timeout")
        await gpu.until(lambda one: len(one.stopped) == 1)

        async def is_free() -> bool:
            return not (await world.get(taken.id)).releasing

        await world.until(is_free)
