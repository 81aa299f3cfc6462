"""Cog servers: what they are asked, and what comes of what they tell. The server here does as the
real one, which `tests/sdk` runs, in moments that cannot be had of that."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from aiohttp import web

from dispatcher.store.jobs.store import JobStore
from receiver.base.clock import now_ms
from tests.dispatcher.api.talk import connect
from tests.dispatcher.gateway.rig import (
    ADMIN_KEY,
    PATIENCE_S,
    TENANT,
    World,
    running,
    served,
    sink,
    told_at,
)


@dataclass(slots=True)
class Cog:
    """Predictions by their ids: those that run, each with the webhook that it was begun with, and
    what was asked."""

    url: str = ""
    places: int = 1
    running: dict[str, str] = field(default_factory=dict)
    puts: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/health-check":
            return web.json_response({"status": "BUSY" if self.running else "READY"})
        id = path.split("/")[2]
        if path.endswith("/cancel"):
            self.cancels.append(id)
            found = self.running.pop(id, None)
            await self._tell()
            return web.json_response({}, status=404 if found is None else 200)
        body = await request.json()
        self.puts.append((id, body, request.headers.get("Prefer")))
        if id not in self.running and len(self.running) >= self.places:
            await self._tell()
            return web.json_response({"error": "busy", "status": "failed"}, status=409)
        self.running.setdefault(id, body["webhook"])
        await self._tell()
        return web.json_response({"id": id, "status": "starting"}, status=202)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def begun(self, count: int) -> None:
        """Until so many calls have come."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.puts) >= count)

    async def cancelled(self, count: int) -> None:
        """Until so many were cancelled."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.cancels) >= count)


@asynccontextmanager
async def cog_server() -> AsyncIterator[Cog]:
    made = Cog()
    async with served(made.take) as url:
        made.url = url
        yield made


@pytest.fixture
async def cog() -> AsyncIterator[Cog]:
    async with cog_server() as made:
        yield made


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with running(database, public_url="http://testserver") as made:
        yield made


@pytest.fixture
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(world.service, ADMIN_KEY) as client:
        yield client


async def tell(api: httpx.AsyncClient, url: str, **said: Any) -> httpx.Response:
    """As a cog server does."""
    request = api.build_request("POST", url, json={"id": "x", "metrics": {}, **said})
    request.headers.pop("authorization", None)
    return await api.send(request)


async def test_a_job_is_a_prediction_and_ends_by_its_word(
    world: World, cog: Cog, api: httpx.AsyncClient
) -> None:
    """Called so that it answers at once, with where its end is told; the input alone. No process
    holds the job meanwhile; its log tells how far it is, and its output is the job's."""
    async with sink() as customer:
        await world.endpoint(cog.url, kind="cog")
        job = await world.submit(b'{"input": {"n":  1.10}, "x": 1}', callback=told_at(customer))
        await cog.begun(1)
        ((id, body, prefer),) = cog.puts
        assert (id, prefer) == (f"job_{job.id}", "respond-async")
        assert body["input"] == {"n": 1.10}
        assert body["webhook_events_filter"] == ["start", "output", "logs", "completed"]
        webhook = body["webhook"]
        assert webhook.startswith(f"http://testserver/v1/jobs/job_{job.id}/complete/")
        await world.until_idle()
        bar = "loading\n 40%|####      | 4/10"
        said = await tell(api, webhook, status="processing", logs=bar)
        assert (said.status_code, said.json()["status"]) == (200, "running")

        async def is_shown() -> bool:
            view = (await api.get(f"/v1/jobs/job_{job.id}")).json()
            return bool(view.get("progress") == 40)

        await world.until(is_shown)
        view = (await api.get(f"/v1/jobs/job_{job.id}")).json()
        assert view["currentStep"] == "40%|####      | 4/10"
        done = await tell(api, webhook, status="succeeded", output=["a", {"b": None}])
        assert done.json() == {"id": f"job_{job.id}", "status": "completed"}
        again = await tell(api, webhook, status="succeeded", output=["a", {"b": None}])
        assert again.status_code == 200
        late = await tell(api, webhook, status="succeeded", output="another")
        assert late.status_code == 409
        ((_, told),) = await customer.received(1)
        assert json.loads(told)["output"] == ["a", {"b": None}]
        assert cog.cancels == []


async def test_a_prediction_that_fails_fails_its_job(
    world: World, cog: Cog, api: httpx.AsyncClient
) -> None:
    """With the server's own words; one that somebody cancelled there has failed too."""
    await world.endpoint(cog.url, kind="cog")
    ends = (
        ("failed", "out of memory", "out of memory"),
        ("canceled", None, "the upstream cancelled it"),
    )
    for n, (status, error, shown) in enumerate(ends, 1):
        job = await world.submit()
        await cog.begun(n)
        webhook = cog.running.pop(f"job_{job.id}")
        await tell(api, webhook, status=status, error=error)
        view = (await api.get(f"/v1/jobs/job_{job.id}")).json()
        assert (view["status"], view["reason"], view["error"]) == ("failed", "rejected", shown)


async def test_a_server_whose_places_are_taken_takes_nothing(
    world: World, cog: Cog, api: httpx.AsyncClient
) -> None:
    """409: turned away, at no cost; the job waits for its place."""
    await world.endpoint(cog.url, kind="cog")
    cog.running["somebody else's"] = "http://testserver/none"
    job = await world.submit()
    await cog.begun(1)

    async def waits() -> bool:
        return (await world.get(job.id)).state == "queued"

    await world.until(waits)
    del cog.running["somebody else's"]
    await cog.begun(2)
    await tell(api, cog.running[f"job_{job.id}"], status="succeeded", output=1)
    assert (await world.get(job.id)).state == "completed"


async def test_a_cancel_uses_its_own_route(world: World, cog: Cog, api: httpx.AsyncClient) -> None:
    """And its place is free then; what it still tells is late."""
    await world.endpoint(cog.url, kind="cog", concurrency=1, adaptive=False)
    first = await world.submit()
    await cog.begun(1)
    await world.until_idle()
    webhook = cog.running[f"job_{first.id}"]
    second = await world.submit()
    await world.service.gateway.engine.cancel(TENANT, first.id)
    await cog.begun(2)
    assert cog.cancels == [f"job_{first.id}"]
    late = await tell(api, webhook, status="canceled")
    assert late.status_code == 409
    await tell(api, cog.running[f"job_{second.id}"], status="succeeded", output=2)
    assert (await world.get(second.id)).state == "completed"


async def test_a_second_run_is_another_prediction(
    world: World, cog: Cog, api: httpx.AsyncClient
) -> None:
    await world.endpoint(cog.url, kind="cog")
    job = await world.submit()
    await cog.begun(1)
    await tell(api, cog.running.pop(f"job_{job.id}"), status="failed", error="no")
    await world.service.gateway.engine.retry(TENANT, job.id)
    await cog.begun(2)
    assert cog.puts[1][0] == f"job_{job.id}-2"
    await tell(api, cog.running[f"job_{job.id}-2"], status="succeeded", output=3)
    assert (await world.get(job.id)).state == "completed"


async def reclaimed(jobs: JobStore) -> None:
    """As if another process had seen the one that runs jobs die."""
    beats = await jobs.beat("watcher", begins=True, now_ms=now_ms())
    for process, beat in (beats or {}).items():
        assert await jobs.reclaim(process, beat, now_ms=now_ms()) == 1


async def test_who_calls_again_attaches_to_what_runs(
    postgres: str, cog: Cog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process died between its call and the record that the server has it: the call that another
    one makes is the same prediction's. What that tells, it tells to the first call's URL: its word
    is as good; but not that it was stopped."""
    async with running(postgres, public_url="http://testserver") as world:
        jobs = world.service.store.jobs
        await world.endpoint(cog.url, kind="cog")
        held = asyncio.Event()
        settle = JobStore.settle

        async def slow(self: JobStore, settlement: Any, **more: Any) -> Any:
            if settlement.job.claim == 1:
                await held.wait()
            return await settle(self, settlement, **more)

        monkeypatch.setattr(JobStore, "settle", slow)
        job = await world.submit()
        await cog.begun(1)
        await reclaimed(jobs)
        await cog.begun(2)
        assert cog.puts[0][0] == cog.puts[1][0] == f"job_{job.id}"
        assert cog.cancels == []
        held.set()
        webhook = cog.running[f"job_{job.id}"]
        assert webhook == cog.puts[0][1]["webhook"] != cog.puts[1][1]["webhook"]
        async with connect(world.service, ADMIN_KEY) as api:
            stopped = await tell(api, webhook, status="canceled")
            assert stopped.status_code == 409
            assert (await world.get(job.id)).state == "running"
            assert (await tell(api, webhook, status="processing", logs="x")).status_code == 200
            done = await tell(api, webhook, status="succeeded", output=4)
            assert done.status_code == 200
            assert (await world.get(job.id, output=True)).state == "completed"


async def test_what_is_too_long_or_no_prediction_is_said_to_be(
    world: World, cog: Cog, api: httpx.AsyncClient
) -> None:
    """An output beyond `output_max` ends the job, since the server tells nothing else of it."""
    await world.endpoint(cog.url, kind="cog", output_max=100)
    job = await world.submit()
    await cog.begun(1)
    webhook = cog.running[f"job_{job.id}"]
    nothing = await tell(api, webhook, status="unheard of")
    assert nothing.status_code == 422
    assert (await world.get(job.id)).state == "running"
    await tell(api, webhook, status="succeeded", output="y" * 200)
    shown = await world.get(job.id)
    assert (shown.state, shown.reason) == ("failed", "output_too_large")


async def test_a_server_that_is_not_ready_holds_its_jobs(world: World, cog: Cog) -> None:
    """READY and BUSY are well; its health is asked without anybody having written so."""
    await world.endpoint(cog.url, kind="cog")

    async def is_asked() -> bool:
        return world.figure("health_checks_total", endpoint="ep", result="well") > 0

    await world.until(is_asked)
