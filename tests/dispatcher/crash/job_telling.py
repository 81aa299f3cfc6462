"""What upstreams tell of their jobs while a dispatcher dies, and who follows these: answers in
chunks, reports, ends by URL, and customers who read each job's events through all of its lives."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

_AGAIN_S: Final = 0.1
_FOLLOWED_MAX: Final = 400
_LINES: Final = 6
_LINE_S: Final = 0.05  # more of them than go into one commit
FINAL: Final = ("completed", "failed", "cancelled", "timeout")
LOST: Final = (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError)


def lines_of(n: int, call: int) -> list[bytes]:
    """What an upstream answers in chunks, a JSON value each."""
    return [b'{"n": %d, "call": %d,\t"i": %d}' % (n, call, i) for i in range(_LINES)]


def array_of(lines: list[bytes]) -> bytes:
    """Return what they are as an output."""
    return b"[%b]" % b",".join(lines)


async def stream(
    lines: list[bytes], writer: asyncio.StreamWriter, is_closed: Callable[[float], Any]
) -> bool:
    """Answer in chunks; False where the other side hangs up meanwhile."""
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for line in lines:
        writer.write(b"%x\r\n%b\n\r\n" % (len(line) + 1, line))
        await writer.drain()
        if await is_closed(random.uniform(0, 2 * _LINE_S)):
            return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


@dataclass(slots=True)
class Telling:
    """Tells a dispatcher, wherever it is now (`reach`), of jobs, by the URLs of their calls."""

    reach: Callable[[], str] = lambda: ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def report(self, url: str) -> None:
        """Say how far a job is, with a piece of its output, now and then until the call is over."""
        async with aiohttp.ClientSession() as session:
            for n in range(4):
                body = json.dumps({"progress": 20 * n, "currentStep": f"s{n}", "output": n})
                with suppress(*LOST):
                    await self._post(session, url, body.encode())
                await asyncio.sleep(_LINE_S)

    def later(self, call: Any, url: str) -> None:
        """Have a call's job be ended by URL, after a while, whatever becomes of the dispatcher."""
        task = asyncio.create_task(self._end(call, url))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _end(self, call: Any, url: str) -> None:
        await asyncio.sleep(random.uniform(0, 0.8))
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(*LOST):
                    call.told = await self._post(session, url, call.output)
                    if call.told not in (429, 503):
                        return
                await asyncio.sleep(_AGAIN_S)

    async def _post(self, session: aiohttp.ClientSession, url: str, body: bytes) -> int:
        where = self.reach() + urlsplit(url).path
        headers = {"Content-Type": "application/json"}
        async with session.post(where, data=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def close(self) -> None:
        """Tell nothing more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass(slots=True)
class Followed:
    """A job as one customer was told of it: `chunks` are run, claim, index and value of each."""

    id: str
    last: str = ""
    chunks: list[tuple[int, int, int, Any]] = field(default_factory=list)
    after_end: int = 0
    is_read: bool = False
    end: dict[str, Any] | None = None

    async def read(self, session: aiohttp.ClientSession, url: str) -> None:
        """Read on from the last event, until the end of the stream, or of the dispatcher."""
        headers = {"Last-Event-ID": self.last} if self.last else {}
        where = f"{url}/v1/jobs/{self.id}/events"
        self.is_read = True
        try:
            async with session.get(where, headers=headers) as answer:
                if answer.status != 200:
                    return
                async for name, id, data in _events(answer):
                    self._take(name, id, data)
        finally:
            self.is_read = False

    def _take(self, name: str, id: str, data: Any) -> None:
        if not id:
            return  # an error of ours, and the end of the answer
        self.last = id
        run, claim = (int(one) for one in id.split(".")[:2])
        if self.end is not None and run <= self.end["run"]:
            self.after_end += 1
        if name == "output":
            self.chunks.append((run, claim, data["index"], data["output"]))
        elif name == "end":
            self.end = data

    def check(self, output_of: Callable[[str, int], bytes]) -> None:
        """Each chunk was told once, in order, from the first of its call on; of a completed job all
        of the call that counted; and nothing after the end."""
        assert self.after_end == 0, f"{self.id}: told after its end"
        told = [one[:3] for one in self.chunks]
        assert told == sorted(set(told)), f"{self.id}: twice, or out of order: {told}"
        by_call: dict[tuple[int, int], list[Any]] = {}
        for run, claim, index, value in self.chunks:
            of_call = by_call.setdefault((run, claim), [])
            assert index == len(of_call), f"{self.id}: one of a call was left out: {told}"
            of_call.append(value)
        if self.end is not None and self.end["status"] == "completed" and by_call:
            last = max(by_call)
            if last[0] == self.end["run"]:
                assert by_call[last] == json.loads(output_of(self.id, last[0])), self.id


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, Any]]:
    event: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\r\n")
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
            continue
        if "data" in event:
            yield event.get("event", ""), event.get("id", ""), json.loads(event["data"])
        event = {}


@dataclass(slots=True)
class Followers:
    """Customers who follow jobs whose upstreams answer in chunks."""

    streams: list[str] = field(default_factory=list)
    followed: dict[str, Followed] = field(default_factory=dict)

    async def follow(self, session: aiohttp.ClientSession, url: str, stop: asyncio.Event) -> None:
        """Follow one after the other, those first whose stream was cut, until all is gone."""
        chance = random.Random()
        while not stop.is_set():
            left = [one for one in self.followed.values() if one.end is None and not one.is_read]
            if self.streams and (not left or chance.random() < 0.7):
                id = chance.choice(self.streams[-12:])
                if id not in self.followed and len(self.followed) < _FOLLOWED_MAX:
                    left = [self.followed.setdefault(id, Followed(id))]
            if not left:
                await asyncio.sleep(_LINE_S)
                continue
            await chance.choice(left).read(session, url)

    async def finish(self, session: aiohttp.ClientSession, url: str) -> None:
        """Read all to their ends."""
        for one in self.followed.values():
            async with asyncio.timeout(60):
                while one.end is None:
                    await one.read(session, url)

    def check(self, output_of: Callable[[str, int], bytes]) -> None:
        """Hold what each was told against what upstreams answered."""
        for one in self.followed.values():
            one.check(output_of)
