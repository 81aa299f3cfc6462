"""A dispatcher that is killed while upstreams answer in chunks: none is told twice, none after the
end, and what a dead process had stored is void once the call is repeated."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.dispatcher.gateway.rig import served
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.fleet import AUTH, Member

CHUNKS = 30
PATIENCE_S = 120.0
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=[("sqlite", 3), ("postgres", 1)], ids=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Where jobs are kept, and how often the process is killed: on PostgreSQL it takes a lease each
    time until that is known."""
    kind, kills = request.param
    if kind == "postgres":
        yield folders.url_for(tmp_path, used=True), kills
        folders.empty_under(tmp_path)
    else:
        yield f"sqlite:///{tmp_path}/jobs.db", kills


@dataclass(slots=True)
class Model:
    """Answers `[call, number]`, again and again, until it is cut off; its last call ends."""

    last: int
    calls: int = 0

    async def take(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.calls += 1
        call = self.calls
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for number in range(CHUNKS if call >= self.last else 10_000):
            await response.write(json.dumps([call, number]).encode() + b"\n")
            await asyncio.sleep(0.02)
        await response.write_eof()
        return response


@dataclass(slots=True)
class Follower:
    """A customer that follows a job through all lives of the process, and one that streams it."""

    member: Member
    id: str
    told: list[tuple[int, list[int]]] = field(default_factory=list)
    handed: list[list[int]] = field(default_factory=list)
    last: str | None = None
    is_over: bool = False

    async def follow(self) -> None:
        while not self.is_over:
            with suppress(httpx.HTTPError):
                async for name, id, data in self._events():
                    self.last = id
                    if name == "output":
                        self.told.append((data["index"], data["output"]))
                    elif name == "end":
                        self.is_over = True
                        assert data["status"] == "completed"
            await asyncio.sleep(0.05)

    async def stream(self) -> None:
        status = ""
        while status != "COMPLETED":
            with suppress(httpx.HTTPError):
                async with httpx.AsyncClient(headers=AUTH, timeout=20) as api:
                    answer = await api.get(f"{self._url()}/v2/ep/stream/{self.id}")
                    if answer.status_code == 200:
                        shown = answer.json()
                        status = shown["status"]
                        self.handed += [one["output"] for one in shown["stream"]]
            await asyncio.sleep(0.05)

    def _url(self) -> str:
        if not self.member.url:
            raise httpx.ConnectError("it is not there")
        return self.member.url

    async def _events(self) -> AsyncIterator[tuple[str, str, Any]]:
        headers = AUTH | ({} if self.last is None else {"Last-Event-ID": self.last})
        url = f"{self._url()}/v1/jobs/{self.id}/events"
        async with (
            httpx.AsyncClient(headers=headers, timeout=20) as api,
            api.stream("GET", url) as response,
        ):
            event: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                elif "data" in event:
                    yield event.get("event", ""), event.get("id", ""), json.loads(event["data"])
                    event = {}
                else:
                    event = {}

    async def until_told_of(self, call: int, count: int) -> None:
        """Until so many chunks of a call have come."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(one[0] == call for _, one in self.told) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_no_chunk_is_told_twice_whenever_it_is_killed(
    database: tuple[str, int], tmp_path: Path
) -> None:
    """To who follows the job, through all lives, and to who streams it; both see the end."""
    url, kills = database
    model = Model(last=kills + 1)
    settings = {"JOB_LEASE": "15", "UPSTREAM_NETWORKS": "127.0.0.0/8"}
    member = Member(url, tmp_path / "member.log", settings=settings)
    async with served(model.take) as upstream:
        await member.start()
        async with httpx.AsyncClient(base_url=member.url, headers=AUTH) as api:
            rules = {"name": "ep", "url": upstream, "concurrency": 1}
            assert (await api.post("/v1/endpoints", json=rules)).status_code == 201
            taken = await api.post("/v2/ep/run", json={"input": {}})
        one = Follower(member, taken.json()["id"])
        following = [asyncio.create_task(one.follow()), asyncio.create_task(one.stream())]
        try:
            for kill in range(kills):
                await one.until_told_of(kill + 1, 3 + 4 * kill)
                await member.end(kill=True)
                await member.start()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*following)
            async with httpx.AsyncClient(base_url=member.url, headers=AUTH) as api:
                output = (await api.get(f"/v1/jobs/{one.id}/output")).json()
        finally:
            for task in following:
                task.cancel()
            await member.end(kill=True)
    assert model.calls == kills + 1
    assert output == [[kills + 1, number] for number in range(CHUNKS)]
    assert all(index == chunk[1] for index, chunk in one.told)
    # In order, each once, and never again one of a call before.
    assert [chunk for _, chunk in one.told] == sorted(chunk for _, chunk in one.told)
    assert len({tuple(chunk) for _, chunk in one.told}) == len(one.told)
    assert [chunk for _, chunk in one.told if chunk[0] == kills + 1] == output
    # What was in an answer that the kill cut off is lost; nothing is handed out a second time.
    assert one.handed == sorted(one.handed)
    assert len({tuple(chunk) for chunk in one.handed}) == len(one.handed)
    assert [chunk for chunk in one.handed if chunk[0] == kills + 1] == output
