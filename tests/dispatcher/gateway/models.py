"""A model server whose work goes on when a connection is closed, until it is told to stop, and
which says how it is; and somebody who is told to wake it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.dispatcher.gateway.rig import PATIENCE_S, served


@dataclass(slots=True)
class Model:
    """What it was asked, in order: `begun` and `ended` work, `stopped` jobs, health `looks`, and
    what its `wakes` said."""

    base: str = ""
    held: bool = False  # whether work waits until it is stopped, or `go`
    well: bool = True
    stop_code: int = 200
    stop_waits: asyncio.Event | None = None
    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    stopped: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    looks: int = 0
    wakes: list[tuple[dict[str, Any], dict[str, str], bytes]] = field(default_factory=list)
    wake_code: int = 204
    answer: Callable[[str], web.StreamResponse] | None = None
    _stops: dict[str, asyncio.Event] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def working(self) -> int:
        """How much it works on now."""
        return len(self.begun) - len(self.ended)

    async def take(self, request: web.Request) -> web.StreamResponse:
        path, headers = request.path, {k.lower(): v for k, v in request.headers.items()}
        body = await request.read()
        if path == "/health":
            self.looks += 1
            await self._tell()
            return web.Response(status=200 if self.well else 503)
        if path == "/wake":
            self.wakes.append((json.loads(body), headers, body))
            await self._tell()
            return web.Response(status=self.wake_code)
        if path.startswith("/stop/"):
            return await self._stop(path.removeprefix("/stop/"), headers)
        # Nobody waits for it: it goes on without its caller.
        work = asyncio.create_task(self._work(headers["x-job-id"]))
        await asyncio.shield(work)
        if self.answer is not None:
            return self.answer(headers["x-job-id"])
        return web.json_response({"answer": 42})

    async def _stop(self, job: str, headers: dict[str, str]) -> web.StreamResponse:
        self.stopped.append((job, headers))
        await self._tell()
        if self.stop_waits is not None:
            await self.stop_waits.wait()
        if self.stop_code < 300:
            self._stops.setdefault(job, asyncio.Event()).set()
        return web.Response(status=self.stop_code)

    async def _work(self, job: str) -> None:
        self.begun.append(job)
        await self._tell()
        if self.held:
            stop = self._stops.setdefault(job, asyncio.Event())
            waiting = [asyncio.create_task(one.wait()) for one in (stop, self.go)]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()
            stop.clear()
        self.ended.append(job)
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, met: Callable[["Model"], bool]) -> None:
        """Until it is as `met` says."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: met(self))


@asynccontextmanager
async def model(**fields: Any) -> AsyncIterator[Model]:
    """A running one."""
    made = Model(**fields)
    async with served(made.take) as url:
        made.base = url
        yield made
        made.go.set()
        if made.stop_waits is not None:
            made.stop_waits.set()
