"""Jobs under `serve --workers`: the processes of one command share an address and a database, and
whichever of them is asked, the answer is the same."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg
import pytest

from tests.dispatcher.gateway.rig import ADMIN_KEY, KEYS, SECRET, Sink, Upstream, sink, upstream
from tests.dispatcher.postgres.fleet import Member

AUTH: Final = {"Authorization": f"Bearer {ADMIN_KEY}"}
CONNECTIONS_MAX: Final = 64
# By the look that is the backstop alone, who waits is woken after a second.
POLL_S: Final = 1.0
ROUNDS: Final = 10


@dataclass(slots=True)
class Worker:
    """One of the processes, by a connection that stays with it."""

    session: aiohttp.ClientSession
    url: str
    process: str = ""

    async def call(self, method: str, path: str, expected: int, **more: Any) -> Any:
        """Return what it answers, with this status."""
        async with self.session.request(method, f"{self.url}{path}", **more) as answer:
            said = await answer.json()
            assert answer.status == expected, said
            return said

    async def submit(self, customer: Sink | None = None) -> str:
        """Return the id of a job that it has taken."""
        headers = {} if customer is None else {"Postback-Callback-Url": customer.url}
        path = "/v1/endpoints/ep/jobs"
        taken = await self.call("POST", path, 202, json={"prompt": "a"}, headers=headers)
        id: str = taken["id"]
        return id

    async def wait(self, id: str) -> tuple[str, float]:
        """Return a job's status once it has ended, and how long that took."""
        began_s = time.monotonic()
        job = await self.call("GET", f"/v1/jobs/{id}?wait=30", 200)
        return job["status"], time.monotonic() - began_s


async def runs_at(database: str, id: str) -> str:
    """Return the process that runs a job, once one does."""
    async with asyncio.timeout(30), await psycopg.AsyncConnection.connect(database) as connection:
        while True:
            sql = "SELECT process FROM jobs WHERE id = %s AND state = 'running'"
            row = await (await connection.execute(sql, (id.removeprefix("job_"),))).fetchone()
            await connection.rollback()
            if row is not None:
                process: str = row[0]
                return process
            await asyncio.sleep(0.01)


@asynccontextmanager
async def two_workers(
    database: str, folder: Path, model: Upstream
) -> AsyncIterator[tuple[Worker, Worker]]:
    """Both processes of `serve --workers 2`, at an endpoint that is known to both."""
    settings = {
        "ADMIN_KEY": ADMIN_KEY,
        "SIGNING_SECRET": SECRET,
        "ENCRYPTION_KEYS": KEYS,
        "JOB_DRAIN": "0.2",
    }
    one = Member(database, folder / "workers.log", settings=settings, options=("--workers", "2"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(one.end, kill=False)
        await one.start()
        model.go.clear()
        found: dict[str, Worker] = {}
        jobs = []
        for number in range(CONNECTIONS_MAX):
            connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=600)
            session = aiohttp.ClientSession(connector=connector, headers=AUTH)
            worker = Worker(await stack.enter_async_context(session), one.url)
            if not number:
                rules = {"name": "ep", "url": model.url, "concurrency": 200, "adaptive": False}
                await worker.call("POST", "/v1/endpoints", 201, json=rules)
            jobs.append(await submitted(worker))
            worker.process = await runs_at(database, jobs[-1])
            found.setdefault(worker.process, worker)
            if len(found) == 2:
                break
        model.go.set()
        here, there = found.values()
        for id in jobs:
            assert (await here.wait(id))[0] == "completed"
        yield here, there


async def submitted(worker: Worker) -> str:
    """A job's id, once the worker has heard of the endpoint: it is handed over to itself."""
    async with asyncio.timeout(30):
        while True:
            path = f"{worker.url}/v1/endpoints/ep/jobs"
            async with worker.session.post(path, json={"prompt": "a"}) as answer:
                said = await answer.json()
            if answer.status == 202:
                id: str = said["id"]
                return id
            assert answer.status == 404, said
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_jobs_under_two_workers(postgres: str, tmp_path: Path) -> None:
    """A job's end is told once; who waits at another process than the job's is woken by word of it;
    and so does a cancel close the call that another process has open."""
    async with (
        upstream() as model,
        sink() as customer,
        two_workers(postgres, tmp_path, model) as (here, there),
    ):
        waits_s = []
        for number in range(1, ROUNDS + 1):
            model.go.clear()
            calls = len(model.calls)
            id = await here.submit(customer)
            other = there if await runs_at(postgres, id) == here.process else here
            waiting = asyncio.create_task(other.wait(id))
            await model.reached(calls + 1)
            await asyncio.sleep(POLL_S / 5)  # for the request to be there
            model.go.set()
            status, waited_s = await waiting
            assert status == "completed"
            waits_s.append(waited_s)
            told = await customer.received(number)
            assert json.loads(told[-1][1])["jobId"] == id
        assert min(waits_s) < POLL_S * 0.9, waits_s

        model.go.clear()
        calls, closed = len(model.calls), model.closed
        id = await here.submit(customer)
        await model.reached(calls + 1)
        owner, other = here, there
        if await runs_at(postgres, id) != here.process:
            owner, other = there, here
        waiting = asyncio.create_task(owner.wait(id))
        cancelled = await other.call("POST", f"/v1/jobs/{id}/cancel", 200)
        assert cancelled["status"] == "cancelled"
        await model.until(lambda one: one.closed == closed + 1)
        assert (await waiting)[0] == "cancelled"
        told = await customer.received(ROUNDS + 1)
        assert json.loads(told[-1][1])["status"] == "cancelled"

    ids = [headers["webhook-id"] for headers, _ in customer.got]
    assert len(ids) == len(set(ids)) == ROUNDS + 1
