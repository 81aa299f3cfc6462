"""Upstreams that are asked how they are, and somebody who wakes them."""

import pytest

from dispatcher.gateway import upkeep, watching
from dispatcher.jobs.endpoint import HealthCheck, Wake
from receiver.base.clock import now_ms
from receiver.signature import verify
from tests.dispatcher.gateway.models import model
from tests.dispatcher.gateway.rig import TENANT, running

CHECK = HealthCheck(path="/health", every=0.05, failures=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that follow each other at once."""
    monkeypatch.setattr(watching, "_LOOK_S", 0.01)
    monkeypatch.setattr(watching, "_TELL_AGAIN_MS", 50)
    monkeypatch.setattr(upkeep, "_SHOW_MS", 0)


async def test_an_upstream_that_is_not_well_holds_its_jobs_and_says_so(database: str) -> None:
    """After some failures in a row nothing is started and the jobs say what they wait for; once it
    is well they go on."""
    async with model(well=False) as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", health=CHECK)
        jobs = world.service.store.jobs

        async def ails() -> bool:
            return (await jobs.load("ep")).unhealthy_ms is not None

        await world.until(ails)
        assert gpu.looks >= 2
        taken = await world.submit()
        wait = await jobs.waiting(TENANT, taken.id, now_ms=now_ms())
        assert wait is not None
        assert wait.reason == "unhealthy"
        assert gpu.begun == []
        gpu.well = True
        await world.until_state(taken.id, "completed")
        assert world.figure("health_checks_total", endpoint="ep", result="failed") >= 2
        assert world.figure("health_checks_total", endpoint="ep", result="well") >= 1


async def test_one_failure_is_no_illness(database: str) -> None:
    async with model(well=False) as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", health=CHECK)
        await gpu.until(lambda one: one.looks == 1)
        gpu.well = True
        await gpu.until(lambda one: one.looks == 3)
        assert (await world.service.store.jobs.load("ep")).unhealthy_ms is None


async def test_somebody_is_told_when_a_queue_leaves_zero(database: str) -> None:
    """By a signed POST with what there is to do; again and again while nothing of it is run."""
    async with model(well=False) as gpu, running(database) as world:
        made = await world.endpoint(
            f"{gpu.base}/run",
            health=CHECK,
            wake=Wake(url=f"{gpu.base}/wake", every=0.05),
        )
        jobs = world.service.store.jobs

        async def ails() -> bool:
            return (await jobs.load("ep")).unhealthy_ms is not None

        await world.until(ails)
        assert gpu.wakes == []
        taken = await world.submit()
        await gpu.until(lambda one: len(one.wakes) == 2)
        said, headers, body = gpu.wakes[0]
        assert said == {"endpoint": "ep", "queued": 1, "running": 0, "wanted": 1}
        (secret, *_) = await jobs.endpoint_secrets("ep")
        verify(body, headers, secret.value, now_s=now_ms() / 1000)
        gpu.well = True
        await world.until_state(taken.id, "completed")
        await world.change(made, wake=None)
        assert world.figure("wakes_total", endpoint="ep", result="taken") >= 2


async def test_low_priority_wakes_nobody(database: str) -> None:
    async with model(well=False) as gpu, running(database) as world:
        await world.endpoint(
            f"{gpu.base}/run", health=CHECK, wake=Wake(url=f"{gpu.base}/wake", every=0.05)
        )

        async def ails() -> bool:
            return (await world.service.store.jobs.load("ep")).unhealthy_ms is not None

        await world.until(ails)
        await world.submit(priority="low")
        looks = gpu.looks
        await gpu.until(lambda one: one.looks >= looks + 2)
        assert gpu.wakes == []
        await world.submit()
        await gpu.until(lambda one: len(one.wakes) == 1)


async def test_a_hook_that_fails_is_called_again_soon(database: str) -> None:
    """Not only after `every`: nobody heard."""
    async with model(well=False, wake_code=500) as gpu, running(database) as world:
        await world.endpoint(
            f"{gpu.base}/run", health=CHECK, wake=Wake(url=f"{gpu.base}/wake", every=3600)
        )

        async def ails() -> bool:
            return (await world.service.store.jobs.load("ep")).unhealthy_ms is not None

        await world.until(ails)
        await world.submit()
        await gpu.until(lambda one: len(one.wakes) == 2)
        assert world.figure("wakes_total", endpoint="ep", result="failed") >= 1


async def test_metrics_tell_what_endpoints_have_to_do(database: str) -> None:
    """Per endpoint, of all processes: what waits, runs, is wanted, may run, and for how long the
    first one waits; how it is held."""
    async with model(held=True) as gpu, running(database) as world:
        await world.endpoint(f"{gpu.base}/run", concurrency=1, adaptive=False)
        for _ in range(3):
            await world.submit()
        await gpu.until(lambda one: len(one.begun) == 1)

        async def is_shown() -> bool:
            return world.figure("endpoint_queued", endpoint="ep") == 2

        await world.until(is_shown)
        assert world.figure("endpoint_running", endpoint="ep") == 1
        assert world.figure("endpoint_wanted", endpoint="ep") == 3
        assert world.figure("endpoint_capacity", endpoint="ep") == 1
        assert world.figure("endpoint_unhealthy", endpoint="ep") == 0
        assert world.figure("endpoint_oldest_queued_seconds", endpoint="ep") >= 0
        gpu.go.set()
