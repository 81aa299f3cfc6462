"""A dispatcher that is killed while it stops an upstream: the next one does it anew, and the place
is taken until then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dispatcher.gateway.models import Model, model
from tests.theft import ADMIN_KEY, served

pytestmark = pytest.mark.timeout(180)


@asynccontextmanager
async def dispatcher(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """One on the same database each time; killed at the end."""
    starting = served(f"sqlite:///{tmp_path}/stops.db", tmp_path / "log")
    running = await asyncio.to_thread(starting.__enter__)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    try:
        async with httpx.AsyncClient(
            base_url=running.client.base_url, headers=headers, trust_env=False, timeout=30
        ) as client:
            yield client
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def job(client: httpx.AsyncClient) -> str:
    taken = await client.post("/v1/endpoints/ep/jobs", json={})
    assert taken.status_code == 202, taken.text
    id: str = taken.json()["id"]
    return id


async def status(client: httpx.AsyncClient, id: str) -> Any:
    return (await client.get(f"/v1/jobs/{id}")).json()["status"]


@pytest.mark.parametrize("killed", ["while it runs", "while it is stopped"])
async def test_a_kill_leaves_no_upstream_at_work(tmp_path: Path, killed: str) -> None:
    """Killed while its upstream works: the next process stops that before it calls again. Killed
    after a cancel, before the upstream had stopped: the next one stops it, and only then does what
    waits begin."""
    async with model(held=True, stop_waits=asyncio.Event()) as gpu:
        async with dispatcher(tmp_path) as client:
            rules = {"concurrency": 1, "adaptive": False, "cancel": {"path": "/stop/{jobId}"}}
            made = await client.post(
                "/v1/endpoints", json={"name": "ep", "url": f"{gpu.base}/run", **rules}
            )
            assert made.status_code == 201, made.text
            first = await job(client)
            await gpu.until(lambda one: one.begun == [first])
            if killed == "while it is stopped":
                assert (await client.post(f"/v1/jobs/{first}/cancel")).status_code == 200
                await gpu.until(lambda one: len(one.stopped) == 1)
        stops = len(gpu.stopped)
        async with dispatcher(tmp_path) as client:
            await gpu.until(lambda one: len(one.stopped) == stops + 1)
            second = await job(client)
            assert gpu.begun == [first]
            assert await status(client, second) == "queued"
            gpu.held = False
            await release(gpu)
            last = second if killed == "while it is stopped" else first
            await gpu.until(lambda one: last in one.ended[1:])
            assert gpu.ended[0] == first
            async with asyncio.timeout(60):
                while await status(client, second) != "completed":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            expected = "cancelled" if killed == "while it is stopped" else "completed"
            assert await status(client, first) == expected


async def release(gpu: Model) -> None:
    """Let the upstream stop."""
    assert gpu.stop_waits is not None
    gpu.stop_waits.set()
