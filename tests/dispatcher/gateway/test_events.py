"""Callbacks that tell what jobs do while they run, over real sockets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web

from dispatcher.filters import Filter
from dispatcher.gateway.events import EVERY_S
from dispatcher.jobs.endpoint import CallbackDefaults
from tests.dispatcher.api.talk import connect
from tests.dispatcher.gateway.rig import (
    ADMIN_KEY,
    TENANT,
    Sink,
    Upstream,
    World,
    running,
    served,
    sink,
    told_at,
    upstream,
)
from tests.dispatcher.store.jobs.builders import target

ANY = Filter()
ALL = CallbackDefaults(events=("start", "progress", "end"))


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with running(database, public_url="http://testserver") as made:
        yield made


@pytest.fixture
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(world.service, ADMIN_KEY) as client:
        yield client


@pytest.fixture
async def peer() -> AsyncIterator[Upstream]:
    async with upstream() as made:
        made.go.clear()
        yield made


@pytest.fixture
async def customer() -> AsyncIterator[Sink]:
    async with sink() as made:
        yield made


def told(customer: Sink) -> list[tuple[str | None, Any]]:
    """What came: of each the event that it is about, and what it says."""
    return [(headers.get("x-postback-event"), json.loads(body)) for headers, body in customer.got]


async def test_start_progress_and_end_are_told(
    world: World, peer: Upstream, customer: Sink, api: httpx.AsyncClient
) -> None:
    """Each in the shape of the dialect's status; of many reports the latest, twice a second; none
    after the end."""
    await world.endpoint(peer.url, callback=ALL)
    job = await world.submit(callback=told_at(customer))
    await customer.received(1)
    ((event, said),) = told(customer)
    assert (event, said["status"], said["jobId"], said["run"]) == (
        "start", "running", f"job_{job.id}", 1,
    )  # fmt: skip
    url = peer.calls[0][0]["x-job-progress-url"]
    began_s = time.monotonic()
    for n in range(20):
        await api.post(url, json={"progress": n})
        await asyncio.sleep(0.05)

    async def is_last() -> bool:
        return bool(told(customer)[-1][1].get("progress") == 19)

    await world.until(is_last)
    between = told(customer)[1:]
    assert {event for event, _ in between} == {"progress"}
    assert len(between) <= 2 + (time.monotonic() - began_s) / EVERY_S
    assert [said["progress"] for _, said in between] == sorted(
        said["progress"] for _, said in between
    )
    await api.post(url, json={"progress": 99})
    peer.go.set()
    await world.until_state(job.id, "completed")

    async def is_ended() -> bool:
        return any(event is None for event, _ in told(customer))

    await world.until(is_ended)
    await asyncio.sleep(1.2)
    events = [event for event, _ in told(customer)]
    assert events.count(None) == 1
    assert told(customer)[-1][1]["status"] == "completed"


async def test_what_has_not_gone_out_goes_no_more(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """The commit that ends a job, here a cancel, takes back what was to be told before."""
    await world.endpoint(peer.url, callback=ALL)
    store = world.service.store
    job = await world.submit(callback=told_at(Sink(url="http://127.0.0.1:9/hook")))
    await peer.reached(1)

    async def is_told() -> bool:
        page = await store.search(TENANT, ANY, after=None, limit=10)
        return any(one.job_status == "running" for one in page.callbacks)

    await world.until(is_told)
    await world.service.gateway.engine.cancel(TENANT, job.id)
    await world.until_idle()

    async def is_over() -> bool:
        page = await store.search(TENANT, ANY, after=None, limit=10)
        events = [one for one in page.callbacks if one.job_status == "running"]
        return all(one.state in ("cancelled", "dead") for one in events)

    await world.until(is_over)


async def test_the_end_is_told_after_what_is_under_way(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """Also by a customer who takes his time: the end waits until he has answered."""
    seen: list[str] = []
    held, go = asyncio.Event(), asyncio.Event()

    async def take(request: web.Request) -> web.StreamResponse:
        await request.read()
        event = request.headers.get("X-Postback-Event", "end")
        seen.append(f"{event} begins")
        if event == "start":
            held.set()
            await go.wait()
        seen.append(f"{event} is answered")
        return web.Response()

    async with served(take) as url:
        await world.endpoint(peer.url, callback=ALL)
        job = await world.submit(callback=target(f"{url}/hook", tenant=TENANT))
        await held.wait()
        await api.post(peer.calls[0][0]["x-job-progress-url"], json={"progress": 7})
        peer.go.set()
        done = await world.until_state(job.id, "completed")
        assert done.callback is not None
        assert (await world.service.store.get(TENANT, done.callback)).state == "pending"
        go.set()

        async def is_told() -> bool:
            assert done.callback is not None
            return (await world.service.store.get(TENANT, done.callback)).state == "delivered"

        await world.until(is_told)
    assert seen == ["start begins", "start is answered", "end begins", "end is answered"]


async def test_nothing_else_is_told_unless_it_is_asked_for(
    world: World, peer: Upstream, customer: Sink, api: httpx.AsyncClient
) -> None:
    """By default a callback tells the end."""
    await world.endpoint(peer.url)
    job = await world.submit(callback=told_at(customer))
    await peer.reached(1)
    await api.post(peer.calls[0][0]["x-job-progress-url"], json={"progress": 50})
    peer.go.set()
    await world.until_state(job.id, "completed")
    await customer.received(1)
    await asyncio.sleep(0.6)
    assert [event for event, _ in told(customer)] == [None]


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [("runpod", {"status": "IN_PROGRESS", "output": {"progress": 7}}),
     ("tensorone", {"status": "running", "progress": 7})],
)  # fmt: skip
async def test_each_dialect_has_its_words(
    world: World,
    peer: Upstream,
    customer: Sink,
    api: httpx.AsyncClient,
    dialect: Any,
    expected: Any,
) -> None:
    await world.endpoint(peer.url, callback=CallbackDefaults(events=("progress", "end")))
    await world.submit(callback=told_at(customer), dialect=dialect)
    await peer.reached(1)
    await api.post(peer.calls[0][0]["x-job-progress-url"], json={"progress": 7})
    await customer.received(1)
    ((event, said),) = told(customer)
    assert event == "progress"
    assert {name: said[name] for name in expected} == expected


async def test_progress_of_a_job_that_nobody_holds_is_told_too(
    world: World, peer: Upstream, customer: Sink, api: httpx.AsyncClient
) -> None:
    """One that its upstream ends by URL."""
    peer.status = 202
    peer.go.set()
    await world.endpoint(peer.url, completion="url", callback=ALL)
    await world.submit(callback=told_at(customer))
    await world.until_idle()
    headers = peer.calls[0][0]
    await api.post(headers["x-job-progress-url"], json={"progress": 7})

    async def is_told() -> bool:
        return any(said.get("progress") == 7 for _, said in told(customer))

    await world.until(is_told)
