"""What else a dispatcher does while it delivers: somebody searches, somebody replays what had died.
(Retention is a matter of its settings.)"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from tests.bench.bench import Bench
from tests.bench.payload import line
from tests.bench.process import Dispatcher
from tests.bench.sink import REFUSED

SEARCHES_PER_S: Final = 10
REPLAYED_PER_S: Final = 200
_SEARCHES: Final = (
    {"status": "delivered", "jobStatus": "completed", "limit": "100"},
    {"status": "dead", "tag.team": "bench", "limit": "100"},
)
_REPLAY: Final = {
    "filter": {"status": "dead", "tag.team": "bench"},
    "ratePerSecond": REPLAYED_PER_S,
}
_TAGS: Final = {"team": "bench"}
_LINES: Final = 5_000
_DEATH_S: Final = 60.0


class Bustle:
    """One operator at work on one dispatcher."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.searches = 0
        self.replayed = 0

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """A replay and a loop of searches, until the end of the block."""
        started = await self._client.post("/v1/replays", json=_REPLAY)
        replay = started.raise_for_status().json()["id"]
        searching = asyncio.create_task(self._search_on())
        try:
            yield
            while not self.searches and not searching.done():  # noqa: ASYNC110  # one at least
                await asyncio.sleep(0.01)
        finally:
            searching.cancel()
            await asyncio.wait({searching})
            # 409: it had come to its end already.
            await self._client.post(f"/v1/replays/{replay}/cancel")
        if not searching.cancelled():
            searching.result()
        ended = await self._client.get(f"/v1/replays/{replay}")
        self.replayed += ended.raise_for_status().json()["replayed"]

    def figures(self) -> dict[str, object]:
        """How much of it there was."""
        return {
            "searchesPerSecond": SEARCHES_PER_S,
            "searches": self.searches,
            "replayedPerSecond": REPLAYED_PER_S,
            "replayed": self.replayed,
        }

    async def _search_on(self) -> None:
        while True:
            params = _SEARCHES[self.searches % len(_SEARCHES)]
            found = await self._client.get("/v1/callbacks", params=params)
            found.raise_for_status()
            self.searches += 1
            await asyncio.sleep(1 / SEARCHES_PER_S)


@asynccontextmanager
async def prepared(bench: Bench, dispatcher: Dispatcher) -> AsyncIterator[Bustle]:
    """With as many dead callbacks as the replays of all rounds can want."""
    options = bench.options
    seconds = options.rounds * (options.warm_up + options.seconds + 1)
    async with dispatcher.client() as client:
        await _make_dead(bench, client, math.ceil(seconds * REPLAYED_PER_S))
        yield Bustle(client)


async def _make_dead(bench: Bench, client: httpx.AsyncClient, count: int) -> None:
    bench.sink.refusing = True
    urls = bench.sink.urls(4, REFUSED)
    lines = [
        line(next(bench.numbers), urls[n % len(urls)], policy={"attempts": 1}, tags=_TAGS)
        for n in range(count)
    ]
    for start in range(0, count, _LINES):
        batch = b"\n".join(lines[start : start + _LINES])
        headers = {"Content-Type": "application/x-ndjson"}
        taken = await client.post("/v1/callbacks/batch", content=batch, headers=headers)
        taken.raise_for_status()
    await _await_deaths(client, count)
    bench.sink.refusing = False


async def _await_deaths(client: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(_DEATH_S):
        dead = 0
        while dead < count:
            dead = (await client.get("/v1/stats")).json()["counts"]["dead"]
            await asyncio.sleep(0.05)  # the service says so only when asked
