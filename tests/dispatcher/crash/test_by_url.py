"""Jobs that their upstreams end by URL, while their dispatcher is killed again and again: they go
on, since no process holds them, and each ends once, by its upstream's word."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from tests.dispatcher.crash.job_world import AUTH, Gateway
from tests.dispatcher.gateway.rig import served, upstream
from tests.dispatcher.postgres import folders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
JOBS: Final = 12
LIVES: Final = 4


@pytest.fixture(params=["postgres", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty one."""
    if request.param == "postgres":
        yield folders.url_for(tmp_path, used=True)
        folders.empty_under(tmp_path)
    else:
        yield f"sqlite:///{tmp_path}/jobs.db"


async def until_nobody_holds_any(session: aiohttp.ClientSession, url: str) -> None:
    """Until every call has ended here."""
    async with asyncio.timeout(60):
        while True:
            async with session.get(f"{url}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            if any(line.startswith("dispatcher_jobs_running 0") for line in lines):
                return
            await asyncio.sleep(0.02)


async def complete(session: aiohttp.ClientSession, gateway: Gateway, url: str, n: int) -> int:
    """Say that a job is done, at wherever the dispatcher is now."""
    parts = urlsplit(url)
    async with session.post(f"{gateway.url}{parts.path}", json={"n": n}) as answer:
        return answer.status


async def test_kill_dash_nine_between_answer_and_end_loses_nothing(
    database: str, tmp_path: Path
) -> None:
    """No call is made twice; each job has the output that its upstream sent, and is told of."""
    told: list[dict[str, Any]] = []

    async def hook(request: web.Request) -> web.StreamResponse:
        told.append(await request.json())
        return web.Response()

    gateway = Gateway(database, tmp_path)
    try:
        async with (
            upstream(status=202, body=b"") as peer,
            served(hook) as customer,
            aiohttp.ClientSession(headers=AUTH) as session,
        ):
            assert await gateway.start(lease_s=2.0)
            rules = {"name": "ep", "url": peer.url, "completion": "url", "concurrency": JOBS}
            async with session.post(f"{gateway.url}/v1/endpoints", json=rules) as made:
                assert made.status == 201, await made.text()
            ids = []
            for n in range(JOBS):
                async with session.post(
                    f"{gateway.url}/v1/endpoints/ep/jobs",
                    json={"n": n},
                    headers={"Postback-Callback-Url": f"{customer}/hook"},
                ) as taken:
                    assert taken.status == 202, await taken.text()
                    ids.append((await taken.json())["id"])
            await peer.reached(JOBS)
            await until_nobody_holds_any(session, gateway.url)
            urls = {
                headers["x-job-id"]: (headers["x-job-complete-url"], json.loads(body)["n"])
                for headers, body in peer.calls
            }
            for life in range(LIVES):
                await gateway.end(kill=True)
                assert await gateway.start(lease_s=2.0)
                for id in ids[life::LIVES]:
                    assert await complete(session, gateway, *urls[id]) == 200
            await gateway.end(kill=True)
            assert await gateway.start(lease_s=2.0)
            for id in ids:
                url, n = urls[id]
                assert await complete(session, gateway, url, n) == 200
                assert await complete(session, gateway, url, n + 1) == 409
                async with session.get(f"{gateway.url}/v1/jobs/{id}") as shown:
                    job = await shown.json()
                assert (job["status"], job["output"], job["attempts"]) == (
                    "completed", {"n": n}, 1,
                )  # fmt: skip
            assert len(peer.calls) == JOBS
            async with asyncio.timeout(60):
                while {one["jobId"] for one in told} != set(ids):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert {one["status"] for one in told} == {"completed"}
    finally:
        await gateway.close()
