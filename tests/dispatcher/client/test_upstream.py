"""The helper for upstreams, as one uses it: with the headers of a real call, against a real
service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from dispatcher.client.upstream import NotTold, complete, report
from tests.dispatcher.api.talk import connect
from tests.dispatcher.gateway.rig import (
    ADMIN_KEY,
    TENANT,
    Upstream,
    World,
    running,
    served,
    upstream,
)
from tests.ports import free_port


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A service that can be reached where its links lead."""
    reached: list[httpx.AsyncClient] = []

    async def take(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        kind = {"Content-Type": request.headers["Content-Type"]}
        said = await reached[0].post(request.raw_path, content=body, headers=kind)
        return web.Response(status=said.status_code, body=said.content)

    async with served(take) as url:
        database = f"sqlite:///{tmp_path}/jobs.db"
        async with (
            running(database, public_url=url) as made,
            connect(made.service, ADMIN_KEY) as client,
        ):
            reached.append(client)
            yield made


@pytest.fixture
async def peer() -> AsyncIterator[Upstream]:
    async with upstream() as made:
        made.go.clear()
        yield made


async def test_a_job_is_reported_and_ended(world: World, peer: Upstream) -> None:
    """With nothing but the headers of its call; False once nobody waits for it any more."""
    await world.endpoint(peer.url)
    job = await world.submit()
    await peer.reached(1)
    headers = peer.calls[0][0]
    assert await asyncio.to_thread(report, headers, 150, step="a", metadata={"b": 1})

    async def is_shown() -> bool:
        return (await world.get(job.id, output=True)).progress is not None

    await world.until(is_shown)
    known = (await world.get(job.id, output=True)).progress
    assert known is not None
    assert (known.percent, known.step, known.metadata) == (100, "a", '{"b": 1}')
    assert await asyncio.to_thread(complete, headers, {"c": 2})
    assert await asyncio.to_thread(complete, headers, {"c": 2})
    assert not await asyncio.to_thread(complete, headers, {"c": 3})
    assert not await asyncio.to_thread(report, headers, 1)
    ended = await world.get(job.id, output=True)
    assert ended.output is not None
    assert (ended.state, ended.output.body) == ("completed", b'{"c": 2}')


async def test_it_may_say_that_it_failed(world: World, peer: Upstream) -> None:
    await world.endpoint(peer.url)
    job = await world.submit()
    await peer.reached(1)
    url = peer.calls[0][0]["x-job-complete-url"]
    assert await asyncio.to_thread(complete, url, "no GPU left", status="failed")
    assert (await world.until_state(job.id, "failed")).reason == "rejected"
    await world.service.gateway.engine.retry(TENANT, job.id)


def test_who_cannot_be_told_stops_no_work() -> None:
    """A report that is lost is no fault of the job's; a call without URLs has nobody to tell."""
    assert report({"X-Job-Progress-Url": f"http://127.0.0.1:{free_port()}/x"}, 1, timeout_s=1)
    assert report({}, 1)
    with pytest.raises(NotTold):
        complete({}, 1)
    with pytest.raises(ValueError, match="no URL"):
        report("file:///etc/passwd")
