"""One tenant's hundred parallel batches do not stand before another's submits (I6). Told without a
clock: by how much of theirs is stored while another one's single submit is."""

import asyncio
import json
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.talk import ADMIN_KEY, connect
from tests.dispatcher.postgres import folders

NDJSON = {"Content-Type": "application/x-ndjson"}
BATCHES, LINES = 40, 150
# Two commits, with what comes up while the loop gets to the answer; a first-come queue has 2,500.
BETWEEN_MAX = 600


@pytest.fixture(params=["sqlite", "postgres"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    if request.param == "postgres":
        url = folders.url_for(tmp_path, used=True)
    else:
        url = f"sqlite:///{tmp_path}/api.db"
    settings = Settings(
        database_url=url, admin_key=ADMIN_KEY, allow_networks=(ip_network("127.0.0.0/8"),)
    )
    async with Service(settings) as running:
        yield running
    folders.empty_under(tmp_path)


def callback(job: str) -> dict[str, object]:
    """One that is stored and not sent."""
    url = "http://127.0.0.1:9/hook"
    return {"jobId": job, "callbackUrl": url, "payload": 1, "notBefore": 3600}


async def flood(api: httpx.AsyncClient, number: int) -> int:
    """How many lines were taken."""
    lines = [json.dumps(callback(f"{number}-{n}")) for n in range(LINES)]
    headers = {**NDJSON, "Postback-Tenant": "flood"}
    answer = await api.post("/v1/callbacks/batch", content="\n".join(lines), headers=headers)
    return sum(json.loads(line)["status"] == "pending" for line in answer.text.splitlines())


async def test_a_submit_waits_for_two_commits_whatever_another_tenant_has_waiting(
    service: Service,
) -> None:
    async with connect(service, ADMIN_KEY) as api:
        warm = {"Postback-Tenant": "small"}
        await api.post("/v1/callbacks", json=callback("first"), headers=warm)
        flooding = [asyncio.create_task(flood(api, n)) for n in range(BATCHES)]
        between = []
        for n in range(10):
            before = service.store.queued("flood")
            stored = await api.post("/v1/callbacks", json=callback(f"job-{n}"), headers=warm)
            assert stored.status_code == 202
            between.append(service.store.queued("flood") - before)
        assert sum(await asyncio.gather(*flooding)) == BATCHES * LINES
    assert max(between) <= BETWEEN_MAX
    assert service.store.queued("flood") == BATCHES * LINES
